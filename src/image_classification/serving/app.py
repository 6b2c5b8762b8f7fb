"""The HTTP application: `/ping`, `/invocations` and `/execution-parameters`, as SageMaker requires.

`Answering` reads the images in the body, predicts each and writes the answer that the client
accepts. Every refusal is a `RequestError`: one line of JSON that names what the server received,
what it accepts and what to do. `http` checks the size of the body while it arrives.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from image_classification.contract.interface import AnswerForm
from image_classification.errors import (
    ArtifactError,
    ForkserverError,
    ImageError,
    NoProcessError,
    RequestError,
)
from image_classification.serving import refusals
from image_classification.serving.codec import accept as accepting
from image_classification.serving.codec import answers
from image_classification.serving.codec.bodies import may_hold_many, media_type_of, read_images
from image_classification.serving.codec.content_encoding import decoded
from image_classification.serving.http import Answer, Request
from image_classification.serving.observation import Health, current_request, shows_answers
from image_classification.serving.request_settings import RequestSettings, execution_parameters
from image_classification.serving.scheduling import hold_answer, long_work

if TYPE_CHECKING:
    from image_classification.serving.metrics import Metrics

ROUTES = (
    ("GET", "/ping", "200 with an empty body once the model has answered a real image"),
    ("POST", "/invocations", "the predictions of the images in the body"),
    (
        "GET",
        "/execution-parameters",
        "the concurrency, strategy and payload for a transform job that sets none",
    ),
    ("GET", "/metrics", "Prometheus' text, if `IMAGE_CLASSIFICATION_METRICS` is true"),
    (
        "POST",
        "/models",
        "multi-model endpoint: load a model; 409 if it is loaded, 507 if there is no room for it",
    ),
    ("GET", "/models", "multi-model endpoint: the loaded models, a page at a time"),
    ("GET", "/models/<name>", "multi-model endpoint: one model; 404 if it is not loaded"),
    ("DELETE", "/models/<name>", "multi-model endpoint: unload it once no request uses it"),
    ("POST", "/models/<name>/invoke", "multi-model endpoint: replaces /invocations"),
    ("GET", "/", "a page to try the model, if `IMAGE_CLASSIFICATION_PAGE` is true"),
)
"""Method, path and meaning."""

INVOCATIONS = "/invocations"
CUSTOM_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
_CUSTOM_ATTRIBUTES_KEY = CUSTOM_ATTRIBUTES.upper()
_MAX_ATTRIBUTES = 1024  # visible US-ASCII characters: InvokeEndpoint's limit
_MAX_REASONS, _MAX_REASON = 3, 500  # of a request without a usable image; the latter in characters

HEADERS = (
    ("Content-Type", "the form of the body; default: `application/x-image`"),
    ("Content-Encoding", "`gzip` or `deflate` if the body is compressed"),
    (
        "Accept",
        "the form of the answer; without it or with `*/*`: "
        "`SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT` if set, else `application/jsonlines` in a "
        "transform job or for a body of JSON lines, else `application/json`",
    ),
    (
        CUSTOM_ATTRIBUTES,
        "is returned unchanged: at most 1,024 visible US-ASCII characters",
    ),
)
"""Request header and meaning; others are ignored."""

_LONG_BODY = 512 * 2**10  # bytes; 16 MiB of 10,000 parts take a second to read

_logger = logging.getLogger(__name__)

Predict = Callable[
    [Sequence[bytes | answers.Failure], frozenset[str]], Generator[list[answers.Result]]
]
"""`Model.predict_in_parts`."""


@dataclass(frozen=True)
class Invocation:
    """What a client sent.

    Attributes:
        body: at most `max_content_length` bytes.
        content_type, accept: the headers, or None.
    """

    body: bytes
    content_type: str | None = None
    accept: str | None = None


class Responder(Protocol):
    """Answers invocations, from any thread: `Answering`, or the user's own handlers."""

    def __call__(self, invocation: Invocation) -> tuple[bytes, str]:
        """Return (body, content type) of the answer; a RequestError refuses the invocation."""


class Answering:
    """Answers invocations with our own model.

    Args:
        predict: encoded images and the details wanted → a prediction, or the reason why there is
            none, for each; some at a time.
        form: the interface's form of answers.
        settings: of the environment.
    """

    def __init__(self, predict: Predict, form: AnswerForm, settings: RequestSettings) -> None:
        self._predict, self._form, self._settings = predict, form, settings

    def __call__(self, invocation: Invocation) -> tuple[bytes, str]:
        """Return (body, content type) of the answer.

        Raises:
            RequestError: 400 for a malformed body or one without a usable image; 406, 413 and 415
                as in `read_images` and `parse_accept`.
        """
        settings = self._settings
        media_type = media_type_of(invocation.content_type or "")
        is_lines = media_type in (accepting.JSON_LINES, *accepting.JSON_LINES_NAMES)
        default = settings.default_accept or (accepting.JSON_LINES if is_lines else accepting.JSON)
        accept = accepting.parse_accept(
            invocation.accept, default, settings.top_k, settings.threshold
        )
        if accept.is_verbose and accept.media_type != accepting.CSV:
            accept = replace(accept, unknown_below=settings.unknown_below)
        is_long = len(invocation.body) > _LONG_BODY and may_hold_many(invocation.content_type)
        try:
            with long_work() if is_long else nullcontext():
                images = read_images(invocation.body, invocation.content_type)
        except RequestError as error:
            if error.status != 400 or not settings.is_placeholder:
                raise
            return answers.encode([answers.Failure(error.message)], False, accept, self._form)
        with closing(self._predict(images.entries, accept.computed)) as predicted:
            parts = predicted if settings.is_placeholder else _with_a_usable_one(predicted)
            if shows_answers():
                parts = _noted(parts)
            return answers.encode_parts(parts, images.is_list, accept, self._form, hold_answer)


def _noted(parts: Iterable[list[answers.Result]]) -> Iterator[list[answers.Result]]:
    """Pass on results; note the first prediction for the access log of a terminal."""
    record = current_request()
    for part in parts:
        if not record.answer and part and isinstance(part[0], answers.Prediction):
            record.answer = f"{part[0].label} {part[0].probabilities.max():.1%}"
        yield part


def _with_a_usable_one(parts: Iterable[list[answers.Result]]) -> Iterator[list[answers.Result]]:
    """Pass on results; RequestError 400 at the end if no image of the request can be used."""
    failures: list[answers.Result] = []
    is_usable = False
    for part in parts:
        is_usable = is_usable or not all(isinstance(result, answers.Failure) for result in part)
        if not is_usable:
            failures += part
        yield part
    if not is_usable:
        refuse_unusable(failures)


def refuse_unusable(results: Sequence[answers.Result]) -> None:
    """Raise a RequestError 400 with the first reasons if no image of a request can be used."""
    reasons = [result.reason for result in results if isinstance(result, answers.Failure)]
    if not reasons or len(reasons) < len(results):
        return
    if len(results) == 1:
        raise RequestError(400, reasons[0])
    different = list(dict.fromkeys(reasons))
    shown = [reason[:_MAX_REASON] for reason in different[:_MAX_REASONS]]
    if len(different) > len(shown):
        shown.append(f"and {len(different) - len(shown)} other reasons")
    raise RequestError(400, f"none of the {len(results)} images can be used: {'; '.join(shown)}")


class Application(Flask):
    """Flask's application, with a short way for the route that clients call most.

    Flask and Werkzeug take 0.25 ms of a request, and up to 1 ms next to a model that has displaced
    them from the processor's caches: as long as a small image takes to decode.

    Args:
        respond: answers invocations.
        max_body: bytes of a body once it is decompressed.
    """

    def __init__(self, respond: Responder, max_body: int) -> None:
        super().__init__(__name__, static_folder=None)
        self._respond, self._max_body = respond, max_body

    def short_way(self, request: Request) -> Answer | None:
        """Answer an invocation as `create_app`'s route does; None for another request."""
        head = request.head
        if head.method != "POST" or head.path != INVOCATIONS:
            return None
        return answer_invocation(self._respond, request.body, head.joined, self._max_body)


def create_app(
    respond: Responder,
    settings: RequestSettings,
    health: Health,
    metrics: Metrics | None = None,
) -> Flask:
    """Create the application for a responder that is ready.

    Args:
        respond: answers invocations.
        settings: of the environment.
        health: decides the answer to a ping.
        metrics: shown at `/metrics`; None: there is no such route.
    """
    app = Application(respond, settings.max_content_length)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_content_length
    # Read now, so that an invalid variable ends the server before it listens.
    parameters = execution_parameters(settings.max_content_length)

    @app.get("/ping")
    def ping() -> Response:
        answer = Response(status=503 if health.fault else 200)
        del answer.headers["Content-Type"]  # the body is empty
        return answer

    @app.post(INVOCATIONS)
    def invocations() -> Response:
        return answer_current(respond)

    @app.get("/execution-parameters")
    def parameters_of_a_transform_job() -> Response:
        return Response(json.dumps(parameters), content_type=accepting.JSON)

    if metrics is not None:

        @app.get("/metrics")
        def numbers() -> Response:
            return Response(metrics.text(), content_type=metrics.content_type)

    _answer_refusals(app)
    return app


def answer_current(respond: Responder) -> Response:
    """Answer Flask's current request, which is an invocation."""
    body = request.get_data()
    limit = request.max_content_length or len(body)
    answer = answer_invocation(respond, body, request.headers.get, limit)
    return Response(answer.body, answer.status, answer.headers)


def answer_invocation(
    respond: Responder, body: bytes, header: Callable[[str], str | None], max_body: int
) -> Answer:
    """Answer or refuse an invocation.

    Args:
        respond: answers it.
        body: as sent, at most `max_body` bytes.
        header: returns the value of a header, by its name in upper case, or None.
        max_body: bytes of the body once it is decompressed.
    """
    try:
        headers = _echoed_attributes(header(_CUSTOM_ATTRIBUTES_KEY))
        if coding := header("CONTENT-ENCODING"):
            body = decoded(body, coding, max_body)
        invocation = Invocation(body, header("CONTENT-TYPE") or None, header("ACCEPT"))
        content, content_type = respond(invocation)
    except Exception as error:
        return _answer_to(error)
    return Answer(200, [("Content-Type", content_type), *headers], content)


def _echoed_attributes(value: str | None) -> list[tuple[str, str]]:
    """Return the header that repeats the client's custom attributes, if it sent any.

    Raises:
        RequestError: 400, more than 1,024 characters or others than visible US-ASCII.
    """
    if value is None:
        return []
    if len(value) > _MAX_ATTRIBUTES or not all(" " <= character <= "~" for character in value):
        raise RequestError(
            400,
            f"{CUSTOM_ATTRIBUTES} has {len(value)} characters: expected at most "
            f"{_MAX_ATTRIBUTES}, visible US-ASCII only",
        )
    return [(CUSTOM_ATTRIBUTES, value)]


def _answer_to(error: Exception) -> Answer:
    """Return the answer to a request that raised an error, and log it."""
    match error:
        case RequestError():
            answer = _refusal(error.status, error.message)
            return replace(answer, headers=[*answer.headers, *error.headers.items()])
        case ImageError():
            return _refusal(400, f"the image cannot be used: {error}")
        case ArtifactError():
            return _refusal(500, f"the model cannot answer: {error}")
        case ForkserverError() | NoProcessError():
            return _refusal(503, f"{error}: send the request again later")
    _logger.error("Invocation failed", exc_info=error)
    return _refusal(500, f"internal error ({type(error).__name__}); the log has the details")


def _answer_refusals(app: Flask) -> None:
    @app.errorhandler(HTTPException)
    def refuse_route(error: HTTPException) -> Response:
        routes = ", ".join(f"{m} {path}" for m, path, _ in ROUTES if (m, path) in _routes_of(app))
        answer = _refusal(
            error.code or 500, f"{request.method} {request.path}: {error.name}; routes: {routes}"
        )
        allowed = [(n, value) for n, value in error.get_headers() if n == "Allow"]
        return Response(answer.body, answer.status, [*answer.headers, *allowed])

    @app.errorhandler(Exception)
    def refuse(error: Exception) -> Response:
        answer = _answer_to(error)
        return Response(answer.body, answer.status, answer.headers)


def _routes_of(app: Flask) -> set[tuple[str, str]]:
    rules = app.url_map.iter_rules()
    return {(method, rule.rule) for rule in rules for method in rule.methods or ()}


def _refusal(status: int, message: str) -> Answer:
    record = current_request()
    method, path, line = record.method, record.path[:200], refusals.one_line(message)
    _logger.warning("%s %s answered %s: %s", method, path, status, line)
    return refusals.refusal(status, message)
