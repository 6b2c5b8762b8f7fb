"""The HTTP application: `/ping` and `/invocations`, as SageMaker asks for them.

One invocation reads top to bottom: content type, accept, body, prediction, answer. Every refusal
is one line of JSON that says what came, what is accepted and what to do.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from image_classification import logs
from image_classification.artifact import Artifact
from image_classification.contract import environment
from image_classification.errors import ImageError, RequestError
from image_classification.serving import codec
from image_classification.serving.health import Health
from image_classification.serving.loading import load_model, log_start
from image_classification.serving.models import Model
from image_classification.serving.observation import configure_access_log
from image_classification.serving.scheduling import Plan

_logger = logging.getLogger(__name__)


def create_server_app(artifact: Artifact, plan: Plan, health: Health) -> Flask:
    """The application of a server process: model and settings from the environment.

    Called by each gunicorn worker after the fork, because a framework's threads do not survive one.
    """
    logs.configure(environment.LOG_LEVEL.read_integer(0))
    configure_access_log(environment.ACCESS_LOG.read_switch())
    model = load_model(artifact, plan, health)
    log_start(model, plan)
    return create_app(model, *request_settings(), health=health)


def request_settings() -> tuple[int, str]:
    """(largest body in bytes, default accept) from the environment; `server` has checked both."""
    batch_default = codec.JSON_LINES if environment.IS_BATCH.read_switch() else codec.JSON
    default_accept = environment.DEFAULT_ACCEPT.read() or batch_default
    return environment.MAX_CONTENT_LENGTH.read_integer(1), default_accept


def create_app(
    model: Model, max_content_length: int, default_accept: str, *, health: Health
) -> Flask:
    """The application around a loaded model.

    Args:
        model: has already answered once; so a ping may say 200.
        max_content_length: bytes; a larger body is refused with 413 before it is read.
        default_accept: what a request without Accept, or with `*/*`, gets.
        health: of this process; the worker's loop answers pings by itself, with the same words.
    """
    app = Flask(__name__, static_folder=None)
    interface = model.artifact.interface

    @app.get("/ping")
    def ping() -> Response:
        return Response(status=health.ping_status)

    @app.post("/invocations")
    def invocations() -> Response:
        codec.parse_content_type(request.headers.get("Content-Type"))
        accept = codec.parse_accept(request.headers.get("Accept"), default_accept)
        image = _read_body(max_content_length)
        predictions = model.predict([image])
        body, content_type = codec.encode(predictions, accept, interface)
        return Response(body, content_type=content_type)

    @app.errorhandler(RequestError)
    def refuse(error: RequestError) -> Response:
        return _error(error.status, error.message)

    @app.errorhandler(ImageError)
    def refuse_image(error: ImageError) -> Response:
        return _error(400, f"the image cannot be used: {error}")

    @app.errorhandler(RequestEntityTooLarge)
    def refuse_size(_: RequestEntityTooLarge) -> Response:
        length = request.content_length
        came = f"{length} bytes" if length is not None else "more"
        return _error(
            413,
            f"the body has {came}, the limit is {max_content_length} bytes: send a smaller image "
            f"or set {environment.MAX_CONTENT_LENGTH.name}",
        )

    @app.errorhandler(HTTPException)
    def refuse_route(error: HTTPException) -> Response:
        return _error(
            error.code or 500,
            f"{request.method} {request.path}: {error.name}; routes: GET /ping, POST /invocations",
            {name: value for name, value in error.get_headers() if name == "Allow"},
        )

    @app.errorhandler(Exception)
    def fail(error: Exception) -> Response:
        _logger.error("invocation failed", exc_info=error)
        return _error(500, f"internal error ({type(error).__name__}); the log has the details")

    return app


def _read_body(max_content_length: int) -> bytes:
    """The request's body, in chunks or not.

    Raises:
        RequestEntityTooLarge: it is larger than the limit. By Content-Length, Werkzeug sees that
            before reading; a body in chunks it would cut off silently, hence one byte more.
    """
    request.max_content_length = max_content_length + 1
    body = request.stream.read(max_content_length + 1)
    if len(body) > max_content_length:
        raise RequestEntityTooLarge
    if not body:
        raise RequestError(400, "the body is empty: send the bytes of one JPEG or PNG image")
    return body


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    _logger.warning("%s %s answered %s: %s", request.method, request.path, status, message)
    body = json.dumps({"error": " ".join(message.split())}, ensure_ascii=False)
    return Response(body, status=status, headers=headers, content_type=codec.JSON)
