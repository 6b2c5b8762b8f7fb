"""What is known of one request: filled in where it happens, written as one line when it is over."""

from __future__ import annotations

import contextvars
import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from image_classification.errors import RequestError

ID_HEADER = "X-AMZN-SAGEMAKER-INFERENCE-ID"
_ID = re.compile(r"[!-~]{1,64}")

_access_logger = logging.getLogger("image_classification.access")


@dataclass
class RequestRecord:
    """One request on its way through this process.

    Attributes:
        id: the caller's X-Amzn-SageMaker-Inference-Id, or one of our own.
        received_bytes: of its body.
        deadline: after this time (monotonic) nobody waits for the answer.
        is_caller_gone: whether the connection was closed by the caller.
        queue_ms: waiting for a thread, for room to decode a large picture, for a batch to begin.
        decode_ms: from encoded images to the graph's input.
        compute_ms: running the graph.
        images: how many went through the graph for it.
        batch_size: of the largest run of the graph it took part in.
        status: of the answer; 499 if the caller had gone.
    """

    method: str
    path: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    received_bytes: int = 0
    deadline: float = float("inf")
    is_caller_gone: Callable[[], bool] = field(default=lambda: False, repr=False)
    started: float = field(default_factory=time.monotonic)
    queue_ms: float = 0.0
    decode_ms: float = 0.0
    compute_ms: float = 0.0
    images: int = 0
    batch_size: int = 0
    status: int = 0
    sent_bytes: int = 0

    @property
    def is_administration(self) -> bool:
        """Whether it loads, lists or unloads models."""
        return self.path.startswith("/models") and not self.path.endswith("/invoke")

    def refuse_if_abandoned(self) -> None:
        """Raise RequestError 499 if the caller has gone, 503 if the deadline has passed."""
        if self.is_caller_gone():
            raise RequestError(499, "the caller closed the connection before the answer")
        if time.monotonic() > self.deadline:
            raise RequestError(
                503, "the request waited too long for its turn: send it again, or more slowly"
            )

    def to_json(self) -> str:
        """The access log's line; no part of an image is in it."""
        line = {
            "time": round(time.time(), 3),
            "id": self.id,
            "method": self.method,
            "path": self.path[:200],
            "status": self.status,
            "received_bytes": self.received_bytes,
            "sent_bytes": self.sent_bytes,
            "images": self.images,
            "batch_size": self.batch_size,
            "queue_ms": round(self.queue_ms, 2),
            "decode_ms": round(self.decode_ms, 2),
            "compute_ms": round(self.compute_ms, 2),
            "total_ms": round((time.monotonic() - self.started) * 1000, 2),
        }
        return json.dumps(line, ensure_ascii=False)


def request_id(header: str | None) -> str:
    """The caller's id where it is one (1–64 visible ASCII characters), else a new one."""
    return header if header and _ID.fullmatch(header) else uuid.uuid4().hex


_current: contextvars.ContextVar[RequestRecord | None] = contextvars.ContextVar(
    "request", default=None
)


def current_request() -> RequestRecord:
    """The request this thread works on; outside the server a record that nobody reads."""
    return _current.get() or RequestRecord("", "")


@contextmanager
def working_on(record: RequestRecord) -> Iterator[None]:
    """While the block runs, `record` is this thread's current request."""
    token = _current.set(record)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def decoding() -> Iterator[None]:
    """Count the block's time as decoding, but for what it counts as waiting."""
    record = current_request()
    start, queued = time.monotonic(), record.queue_ms
    try:
        yield
    finally:
        record.decode_ms += (time.monotonic() - start) * 1000 - (record.queue_ms - queued)


def configure_access_log(is_on: bool) -> None:
    """Write each finished request as one line of JSON to standard output, or none."""
    _access_logger.propagate = False
    _access_logger.handlers[:] = []
    _access_logger.setLevel(logging.INFO if is_on else logging.CRITICAL)
    if is_on:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(message)s"))
        _access_logger.addHandler(handler)


def log_access(record: RequestRecord) -> None:
    """Write the line of a request that is over."""
    if _access_logger.isEnabledFor(logging.INFO):
        _access_logger.info(record.to_json())
