"""From a received request to the bytes of its answer: the WSGI application, in a pool thread."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from gunicorn.http import wsgi

from image_classification.errors import RequestError
from image_classification.serving.connection import Connection, refusal
from image_classification.serving.incoming import Received
from image_classification.serving.observation import (
    ID_HEADER,
    RequestRecord,
    log_access,
    request_id,
    working_on,
)

if TYPE_CHECKING:
    from image_classification.serving.metrics import Metrics

_logger = logging.getLogger(__name__)

_QUIET_PATHS = ("/ping", "/metrics")

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class WsgiRunner:
    """Runs the application on whole requests, and keeps the books of every answer.

    Args:
        config: gunicorn's configuration.
        application: the WSGI application.
        metrics: counts the answers; None: nobody asked for them.
    """

    def __init__(self, config: Any, application: Application, metrics: Metrics | None) -> None:
        self._config, self._application, self._metrics = config, application, metrics

    def answer(
        self, connection: Connection, received: Received, record: RequestRecord, is_ending: bool
    ) -> bytes:
        """The whole answer; sets `connection.closes` as the answer says.

        Args:
            connection: who asked.
            received: the request.
            record: gets the stages' times and the status.
            is_ending: whether the process ends, and so the connection.
        """
        with working_on(record):
            try:
                record.refuse_if_abandoned()
                return self._run(connection, received, record, is_ending)
            except RequestError as error:
                record.status, message = error.status, error.message
            except Exception:
                _logger.exception("%s %s failed", record.method, record.path)
                record.status, message = 500, "internal error; the log has the details"
        connection.closes = is_ending or record.status == 499 or received.head.should_close()
        return refusal(record.status, message, is_closing=connection.closes)

    def _run(
        self, connection: Connection, received: Received, record: RequestRecord, is_ending: bool
    ) -> bytes:
        outbox = _Outbox()
        response, environ = wsgi.create(
            received.head, outbox, connection.peer, connection.server, self._config
        )
        environ["wsgi.input"] = io.BytesIO(received.body)
        environ["wsgi.multithread"] = True
        if is_ending:
            response.force_close()
        parts = self._application(environ, response.start_response)
        try:
            for part in parts:
                response.write(part)
            response.close()
        finally:
            close = getattr(parts, "close", None)
            if close is not None:
                close()
        record.status = response.status_code
        connection.closes = response.should_close()
        return b"".join(outbox.pieces)

    def finish(self, record: RequestRecord, sent_bytes: int) -> None:
        """Write the request's line and count it."""
        record.sent_bytes = sent_bytes
        if self._metrics is not None:
            self._metrics.observe(record)
        if record.path not in _QUIET_PATHS:
            log_access(record)


def new_record(connection: Connection, received: Received, timeout: float) -> RequestRecord:
    """The record of a request that has just arrived whole."""
    record = record_of(received.head)
    record.received_bytes = len(received.body)
    record.deadline = record.started + timeout
    record.is_caller_gone = connection.is_gone
    return record


def record_of(head: Any) -> RequestRecord:
    """The record of a request of which gunicorn's parsed head is here."""
    ids = [value for name, value in head.headers if name == ID_HEADER]
    return RequestRecord(head.method, head.path, request_id(ids[0] if ids else None))


class _Outbox:
    """What gunicorn's response takes for a socket: an answer leaves in one piece."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.pieces.append(data)
