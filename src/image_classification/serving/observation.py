"""Records of requests, the pace of models, the health of the process, and the access log.

A request's record is filled in where things happen and written as one line when the request is
over. `Health` decides the answer to a ping and when the process must be replaced.
"""

import contextvars
import json
import logging
import os
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from image_classification import logs
from image_classification.errors import RequestError
from image_classification.serving.log_output import LogOutput

READ_METHODS = ("GET", "HEAD")
ID_HEADER = "X-AMZN-SAGEMAKER-INFERENCE-ID"
_ID = re.compile(r"[!-~]{1,64}")
_QUICK_PATHS = ("/ping", "/metrics")

MOST_TOGETHER = 32
"""Images in one run of the graph: thousands at once could exhaust the memory."""

_MEASUREMENTS = 16  # of a pace
_MOST_SHOWN = 60  # characters of a path or a class on a terminal

LOOK_SECONDS = 0.05
"""How old what is known of a client may be: a look costs a system call and Python's lock."""

_logger = logging.getLogger(__name__)


@dataclass
class RequestRecord:
    """One request on its way through this process; times are in milliseconds.

    Attributes:
        id: the client's X-Amzn-SageMaker-Inference-Id, or a random one.
        received_bytes: of its body.
        deadline: after this time (monotonic) the request has waited too long; the time in which its
            images are decoded and computed does not count.
        is_client_gone: whether the client has closed the connection.
        queue_ms: waiting for a thread, for memory or a process to decode, for a batch to begin.
        decode_ms: from encoded images to the graph's input.
        compute_ms: running the graph.
        images: how many of its images the graph has run on.
        batch_size: of the largest run of the graph it took part in.
        is_bulk: whether it takes turns, see `scheduling`.
        status: of the answer; 499 if the client had disconnected.
        answer: the prediction in short, if `shows_answers` asks for it.
    """

    method: str
    path: str
    id: str = field(default_factory=lambda: _new_id())
    received_bytes: int = 0
    deadline: float = float("inf")
    is_client_gone: Callable[[], bool] = field(default=lambda: False, repr=False)
    started: float = field(default_factory=time.monotonic)
    queue_ms: float = 0.0
    decode_ms: float = 0.0
    compute_ms: float = 0.0
    images: int = 0
    batch_size: int = 0
    is_bulk: bool = False
    status: int = 0
    sent_bytes: int = 0
    answer: str = ""
    _looked: float = field(default=0.0, repr=False)  # when (monotonic) for the client

    @property
    def is_quick(self) -> bool:
        """Whether the main loop answers it at once: pings and metrics."""
        return self.method in READ_METHODS and self.path in _QUICK_PATHS

    @property
    def is_administration(self) -> bool:
        """Whether it loads, lists or unloads models."""
        return self.path.startswith("/models") and not self.path.endswith("/invoke")

    def refuse_if_abandoned(self) -> None:
        """Raise a RequestError: 499, the client disconnected; 503, it waited too long."""
        now = time.monotonic()
        if now - self._looked > LOOK_SECONDS:
            self._looked = now
            if self.is_client_gone():
                raise RequestError(499, "the client closed the connection before the answer")
        if now - (self.decode_ms + self.compute_ms) / 1000 > self.deadline:
            raise RequestError(
                503,
                "the request waited too long for its turn: send it again later, or send requests "
                "more slowly",
            )

    def take_turns(self) -> None:
        """Note that the first turn of a bulk request has come: it has waited."""
        self.is_bulk, self.deadline = True, float("inf")

    def busy_ms(self) -> float:
        """Return the time since the request arrived, without its waits."""
        return (time.monotonic() - self.started) * 1000 - self.queue_ms

    def waited(self, seconds: float) -> None:
        """Count a wait as queueing."""
        self.queue_ms += seconds * 1000

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Count the block's time as decoding, without its waits."""
        begin = self.busy_ms()
        try:
            yield
        finally:
            self.decode_ms += self.busy_ms() - begin

    def computed(self, images: int, milliseconds: float) -> None:
        """Count a run of the graph on `images` images of this request."""
        self.compute_ms += milliseconds
        self.images += images
        self.took_part(images)

    def took_part(self, batch_size: int) -> None:
        """Note a run of the graph on `batch_size` images, some of them of this request."""
        self.batch_size = max(self.batch_size, batch_size)

    def answered(self, status: int, sent_bytes: int) -> None:
        """Note the answer."""
        self.status, self.sent_bytes = status, sent_bytes

    def write_line(self) -> None:
        """Write the access log's line, if it is on; pings and metrics have none."""
        if self.path not in _QUICK_PATHS and _access_log is not None:
            _access_log.write(_line_of(self))

    def to_json(self) -> str:
        """The access log's line; it holds nothing of an image."""
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

    def to_text(self) -> str:
        """The line for a terminal: `POST /invocations 200 12 ms daisy 97.3%`."""
        milliseconds = (time.monotonic() - self.started) * 1000
        head = f"{self.method} {self.path[:_MOST_SHOWN]} {self.status} {milliseconds:.0f} ms"
        return logs.printable(f"{head} {self.answer[:_MOST_SHOWN]}".rstrip())

    def to_log_json(self) -> str:
        """The line in a log of which each line is JSON: with its time, level and message."""
        line = json.loads(self.to_json())
        head = {"time": logs.json_time(line.pop("time")), "level": "INFO"}
        return json.dumps(head | {"message": self.to_text(), "event": "request"} | line)


def request_id(header: str | None) -> str:
    """Return the client's id if it has 1 to 64 visible ASCII characters, else a new one."""
    return header if header and _ID.fullmatch(header) else _new_id()


def _new_id() -> str:
    """Return 32 hexadecimal digits that no other request has."""
    return f"{_ids.getrandbits(128):032x}"


_ids = random.Random()  # noqa: S311  # the system's cost a system call, and no id is a secret
os.register_at_fork(after_in_child=_ids.seed)


_current: contextvars.ContextVar[RequestRecord | None] = contextvars.ContextVar(
    "request", default=None
)


def current_request() -> RequestRecord:
    """Return the request this thread works on; outside the server, a record that no code reads."""
    return _current.get() or RequestRecord("", "")


@contextmanager
def working_on(record: RequestRecord) -> Iterator[None]:
    """Make `record` this thread's current request while the block runs."""
    token = _current.set(record)
    try:
        yield
    finally:
        _current.reset(token)


class Pace:
    """How long one image takes; from many threads.

    The estimate is the fastest of the last measurements: images that are larger than others make
    some slower, and so do other threads, for the device and for Python's lock. What a thread waited
    for a CPU is not measured.
    """

    def __init__(self) -> None:
        self._measured: deque[float] = deque(maxlen=_MEASUREMENTS)

    @property
    def seconds(self) -> float:
        """Seconds for an image; 0 before the first measurement."""
        return min(tuple(self._measured), default=0.0)

    @property
    def is_known(self) -> bool:
        """Whether there are enough measurements for an estimate; the first ones are slow."""
        return len(self._measured) >= _MEASUREMENTS // 2

    def took(self, seconds: float, images: int) -> None:
        """Note how long the graph and all around it took for some images."""
        self._measured.append(seconds / images)

    def images_in(self, seconds: float) -> int:
        """Return how many images take that time, from 1 to the most that run together."""
        return max(1, min(MOST_TOGETHER, int(seconds / max(self.seconds, 1e-6))))


def seconds_without_cpu() -> float:
    """Return how long this thread could run but had no CPU; 0 if the kernel does not report it."""
    try:
        with open("/proc/thread-self/schedstat", "rb") as file:  # 20 µs
            return int(file.read().split()[1]) / 1e9
    except OSError:
        return 0.0


_access_log: LogOutput | None = None


_line_of: Callable[[RequestRecord], str] = RequestRecord.to_json


def write_access_log(output: LogOutput | None, form: str = logs.PLAIN) -> None:
    """Write each request that is over as one line to `output` from now on; None: to none.

    Not with `logging`, whose record of each line costs as much again as the line.

    Args:
        output: where to write.
        form: of the log, one of `logs.FORMS`: the line is JSON unless it is for a terminal.
    """
    global _access_log, _line_of
    lines = {logs.TERMINAL: RequestRecord.to_text, logs.JSON: RequestRecord.to_log_json}
    _access_log, _line_of = output, lines.get(form, RequestRecord.to_json)


def shows_answers() -> bool:
    """Return whether the access log shows what was predicted."""
    return _access_log is not None and _line_of is RequestRecord.to_text


@dataclass(frozen=True)
class Run:
    """A run that `Health` watches: its name, its request and when (monotonic) it began."""

    name: str
    record: RequestRecord
    since: float


class Health:
    """The state of one server process, which goes from sound to faulty and never back."""

    def __init__(self) -> None:
        self._fault: str | None = None
        self._is_device_lost = False
        self._runs: dict[int, Run] = {}  # by thread
        self._checks: list[Callable[[], str | None]] = []

    @property
    def fault(self) -> str | None:
        """Why the process can no longer answer, in one line; None while it can."""
        return self._fault

    @property
    def is_device_lost(self) -> bool:
        """Whether a new process on the same machine would fail too, because the GPU failed."""
        return self._is_device_lost

    def fail(self, reason: str, *, is_device_lost: bool = False) -> None:
        """Log why the process cannot go on; the worker then ends it."""
        if self._fault is None:
            _logger.error("This process can no longer answer: %s", reason)
        self._is_device_lost |= is_device_lost
        self._fault = self._fault or reason

    def watch(self, check: Callable[[], str | None]) -> None:
        """Have `look` call `check`, which returns why the process cannot go on, or None."""
        self._checks.append(check)

    def look(self) -> None:
        """Look for faults that no request has met yet; the main loop calls it now and then."""
        for check in self._checks:
            reason = check()
            if reason is not None:
                self.fail(reason)

    @contextmanager
    def running(self, name: str = "the model") -> Iterator[None]:
        """Watch the block, which decodes, runs a graph or calls the user's code.

        A run that never ends is a fault that nothing else would notice. A run within a run, such as
        that of a graph which the user's code calls, is part of it.

        Args:
            name: of the run, for messages: the subject of "did not return".
        """
        thread = threading.get_ident()
        if thread in self._runs:
            yield
            return
        self._runs[thread] = Run(name, current_request(), time.monotonic())
        try:
            yield
        finally:
            del self._runs[thread]

    def renew(self) -> None:
        """Watch this thread's run from now on: one of the many graph runs within it has ended."""
        run = self._runs.get(threading.get_ident())
        if run is not None:
            self._runs[threading.get_ident()] = replace(run, since=time.monotonic())

    def overdue(self, seconds: float) -> list[Run]:
        """Return the current runs that have lasted longer than `seconds`."""
        if not self._runs:
            return []
        begin = time.monotonic() - seconds
        return [run for run in list(self._runs.values()) if run.since < begin]
