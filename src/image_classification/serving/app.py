"""The HTTP application: `/ping`, `/invocations` and `/execution-parameters`, as SageMaker asks.

What an answer is made of is in `invocation`; here are the routes, the body's limit and the form of
every refusal: one line of JSON that says what came, what is accepted and what to do.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from image_classification import logs
from image_classification.artifact import Artifact, open_artifact
from image_classification.contract import environment
from image_classification.contract.environment import (
    BATCH_STRATEGY,
    IS_BATCH,
    MAX_CONCURRENT_TRANSFORMS,
    MAX_PAYLOAD_IN_MB,
)
from image_classification.contract.interface import interface_of
from image_classification.contract.process import cpu_count
from image_classification.errors import BackendError, ImageError, RequestError, UserError
from image_classification.serving import multi_model
from image_classification.serving.admission import PixelGate, Plan
from image_classification.serving.codec.accept import JSON
from image_classification.serving.custom.selection import find_own_code
from image_classification.serving.health import Health
from image_classification.serving.http_interface import body_too_large, routes
from image_classification.serving.invocation import (
    CUSTOM_ATTRIBUTES,
    Answering,
    Invocation,
    Responder,
    echoed_attributes,
)
from image_classification.serving.models import Model, load_model, log_start
from image_classification.serving.observation import configure_access_log
from image_classification.serving.page import HEADERS, page_files
from image_classification.serving.settings import RequestSettings, read_settings
from image_classification.serving.store import ModelStore, memory_budget

_MAX_TOGETHER_MB = 100  # CreateTransformJob: MaxPayloadInMB × MaxConcurrentTransforms
_USUAL_PAYLOAD_MB = 6  # a payload no smaller than the platform's default leaves at most 16 at once
_STRATEGIES = {"SINGLE_RECORD": "SingleRecord", "MULTI_RECORD": "MultiRecord"}
"""The service's spelling → that of the SDK's local mode, which refuses every other."""

_LOCAL_MODE = "True"  # what local mode sets SAGEMAKER_BATCH to; the service writes true


def execution_parameters(max_content_length: int) -> dict[str, int | str]:
    """The parameters for a job that did not choose its own; what it chose comes back.

    One image a request (SINGLE_RECORD) and one request for each CPU, as far as their payloads,
    which `max_content_length` (bytes) allows, fit the platform's limit for all of them together.

    Raises:
        UserError: a variable of the job has an impossible value.
    """
    chosen = MAX_CONCURRENT_TRANSFORMS.read_integer(0)
    at_once = chosen or min(cpu_count(), _MAX_TOGETHER_MB // _USUAL_PAYLOAD_MB)
    largest = max(1, max_content_length >> 20)
    payload = MAX_PAYLOAD_IN_MB.read_integer(0) or min(largest, max(1, _MAX_TOGETHER_MB // at_once))
    strategy = BATCH_STRATEGY.read().upper()
    if strategy not in _STRATEGIES:
        raise UserError(f"{BATCH_STRATEGY.name}={strategy}: expected {' or '.join(_STRATEGIES)}")
    is_local = IS_BATCH.read() == _LOCAL_MODE
    return {
        "MaxConcurrentTransforms": at_once,
        "BatchStrategy": _STRATEGIES[strategy] if is_local else strategy,
        "MaxPayloadInMB": payload,
    }


_MAX_MESSAGE = 2000  # characters: SageMaker passes 2,048 of a refusal on, and a header may be long
_logger = logging.getLogger(__name__)


def create_server_app(artifact: Artifact | None, plan: Plan, health: Health) -> Flask:
    """The application of a server process: settings from the environment, the model of `artifact`.

    Without an artifact it is a multi-model endpoint.

    Called by each gunicorn worker after the fork, because a framework's threads do not survive one.
    """
    logs.configure(environment.LOG_LEVEL.read_integer(0))
    configure_access_log(environment.ACCESS_LOG.read_switch())
    settings = read_settings()
    if artifact is None:
        return _multi_model_app(settings, plan, health)
    model = load_model(artifact, plan, health, PixelGate(plan.large_pixels))
    app = create_app(_responder(model, settings, health), settings, health)
    if environment.PAGE.read_switch():
        _add_page(app, model)
    log_start(model, plan)
    return app


def _multi_model_app(settings: RequestSettings, plan: Plan, health: Health) -> Flask:
    """The application of a multi-model endpoint: it starts without a model."""

    gate = PixelGate(plan.large_pixels)

    def load(directory: Path) -> Responder:
        with open_artifact(directory) as artifact:
            model = load_model(artifact, plan, health, gate)
        return Answering(model.predict_each, interface_of(artifact.interface).answers, settings)

    store = ModelStore(load, memory_budget())
    app = create_app(multi_model.refuse_invocation, settings, health)
    app.register_blueprint(multi_model.routes(store, partial(_answer, settings=settings)))
    _logger.info(
        "Serving the models that POST /models names, in %d MiB; %s", store.budget >> 20, plan
    )
    return app


def _responder(model: Model, settings: RequestSettings, health: Health) -> Responder:
    """What answers invocations: the user's own handlers where there are any, else our model.

    Args:
        model: has already answered once; so a ping may say 200.
        settings: of the environment.
        health: watches the user's own handlers, as it does the model.
    """
    artifact = model.artifact
    own = find_own_code(artifact.directory)
    if own is None:
        return Answering(model.predict_each, interface_of(artifact.interface).answers, settings)
    try:
        from image_classification.serving.custom.handlers import OwnHandlers, ServedModel
    except ModuleNotFoundError as error:
        raise BackendError(
            f"code/{own.program} needs the package sagemaker-inference, which is not installed "
            f"({error.name} is missing): pip install 'sagemaker-image-classification[own-code]', "
            f"or unset {environment.PROGRAM.name}"
        ) from error
    served = ServedModel(model.predict_each, artifact.labels, artifact.is_multi_label)
    form = interface_of(artifact.interface).answers
    handlers = OwnHandlers(own, served, form, settings, health)
    _logger.info("Answering through code/%s of the artifact", own.program)
    return handlers


def create_app(respond: Responder, settings: RequestSettings, health: Health) -> Flask:
    """The application around what answers invocations, which is ready.

    Args:
        respond: our model, the user's own handlers, or what refuses.
        settings: of the environment.
        health: decides what a ping is answered; the worker's loop answers most by itself.
    """
    app = Flask(__name__, static_folder=None)
    # Here, where a variable with an impossible value ends the server before it listens.
    parameters = execution_parameters(settings.max_content_length)

    @app.get("/ping")
    def ping() -> Response:
        return Response(status=health.ping_status)

    @app.post("/invocations")
    def invocations() -> Response:
        return _answer(respond, settings=settings)

    @app.get("/execution-parameters")
    def parameters_of_a_transform_job() -> Response:
        return Response(json.dumps(parameters), content_type=JSON)

    _answer_refusals(app)
    return app


def _answer(respond: Responder, *, settings: RequestSettings) -> Response:
    """The answer to the invocation that Flask's current request is."""
    headers = request.headers
    echoed = echoed_attributes(headers.get(CUSTOM_ATTRIBUTES))
    body = _read_body(settings.max_content_length)
    invocation = Invocation(body, headers.get("Content-Type"), headers.get("Accept"))
    answer, content_type = respond(invocation)
    return Response(answer, headers=echoed, content_type=content_type)


def _add_page(app: Flask, model: Model) -> None:
    """`GET /` and what the page loads."""
    pages = page_files(model.artifact, model.providers)

    def page() -> Response:
        body, content_type = pages[request.path]
        return Response(body, headers=HEADERS, content_type=content_type)

    for path in pages:
        app.add_url_rule(path, view_func=page, endpoint=f"page {path}", methods=["GET"])


def _answer_refusals(app: Flask) -> None:
    @app.errorhandler(RequestError)
    def refuse(error: RequestError) -> Response:
        headers = {"Retry-After": "1"} if error.status == 503 else None
        return _error(error.status, error.message, headers)

    @app.errorhandler(ImageError)
    def refuse_image(error: ImageError) -> Response:
        return _error(400, f"the image cannot be used: {error}")

    @app.errorhandler(HTTPException)
    def refuse_route(error: HTTPException) -> Response:
        return _error(
            error.code or 500,
            f"{request.method} {request.path}: {error.name}; routes: {routes()}",
            {name: value for name, value in error.get_headers() if name == "Allow"},
        )

    @app.errorhandler(Exception)
    def fail(error: Exception) -> Response:
        _logger.error("invocation failed", exc_info=error)
        return _error(500, f"internal error ({type(error).__name__}); the log has the details")


def _read_body(max_content_length: int) -> bytes:
    """The request's body, in chunks or not; may be empty.

    Raises:
        RequestError: 413, it is larger than the limit; by Content-Length before it is read.
    """
    length = request.content_length
    if length is not None and length > max_content_length:
        raise body_too_large(length, max_content_length)
    # Werkzeug would cut off a body in chunks silently, hence one byte more.
    request.max_content_length = max_content_length + 1
    body = request.stream.read(max_content_length + 1)
    if len(body) > max_content_length:
        raise body_too_large(None, max_content_length)
    return body


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    line = " ".join(message.split())[:_MAX_MESSAGE]
    _logger.warning("%s %s answered %s: %s", request.method, request.path[:200], status, line)
    body = json.dumps({"error": line}, ensure_ascii=False)
    return Response(body, status=status, headers=headers, content_type=JSON)
