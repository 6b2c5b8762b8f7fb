"""The gunicorn worker: its main loop reads whole requests, its threads answer them.

The loop answers pings and metrics itself, refuses requests that are too large, too slow or too
many, and on SIGTERM ends the process once every request it has accepted is answered. gunicorn
provides the process, the signals and the heartbeat. This is the only file that uses names that
gunicorn does not document; tests/unit/serving/test_worker.py lists them.
"""

from __future__ import annotations

import gc
import io
import logging
import mmap
import os
import queue
import resource
import selectors
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.workers.base import Worker as GunicornWorker

from image_classification.contract import environment
from image_classification.errors import RequestError
from image_classification.serving import observation
from image_classification.serving.admission import Plan
from image_classification.serving.connection import LINGER_SECONDS, Connection, Connections, Limits
from image_classification.serving.http import Answer, Head, Request
from image_classification.serving.observation import RequestRecord
from image_classification.serving.refusals import refusal

if TYPE_CHECKING:
    from image_classification.serving.metrics import Metrics

_logger = logging.getLogger(__name__)

CANNOT_START: int = Arbiter.WORKER_BOOT_ERROR
"""A worker's exit code that makes gunicorn end instead of starting another worker."""

_TICK_SECONDS = 0.5
_ROUND_SECONDS = 0.1  # how late a deadline may be noticed; at each event it cost 3 % of a request
_FAULT_SECONDS = 5.0  # for the requests that still run when the process must be replaced
_MOST_CONNECTIONS = 1000
_ADMINISTRATION_THREADS = 4  # a model that takes minutes to load blocks no prediction

_FRAMING = ("content-length", "connection", "transfer-encoding")  # the server sets these

_MOST_DEATHS = 5  # within a minute: then the platform should start the container anew
_DEATHS_SECONDS = 60.0
_deaths: list[float] = []  # when (monotonic) workers died; in the arbiter

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""A WSGI application."""


class Worker(GunicornWorker):  # type: ignore[misc]  # gunicorn carries no types
    """One server process. `app`, gunicorn's application, has `plan`, `health` and `metrics`."""

    lost_before = 0
    """Requests that ended with workers killed before this one; the arbiter counts them."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.alive: bool
        self._shared = mmap.mmap(-1, 8)  # shared with the arbiter, which outlives a SIGKILL
        self._in_flight = 0
        self._next_round = 0.0
        self._is_accepting = False
        self._plan: Plan = self.app.plan
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    @property
    def requests_in_flight(self) -> int:
        """Requests received and not answered yet; the arbiter can read it too."""
        return int.from_bytes(self._shared[:8], "little")

    @classmethod
    def count_lost(cls, requests: int) -> None:
        """Count requests that ended with a killed worker; the next workers inherit the number."""
        cls.lost_before += requests

    def run(self) -> None:
        """Run the main loop; gunicorn calls this once the model is loaded."""
        self._health: observation.Health = self.app.health
        self._metrics: Metrics | None = self.app.metrics
        if self._metrics is not None:
            self._metrics.follow(lambda: self._in_flight, self.lost_before)
        self._threads = ThreadPoolExecutor(self._plan.threads)
        self._administration = ThreadPoolExecutor(_ADMINISTRATION_THREADS)
        self._selector = selectors.DefaultSelector()
        # gunicorn's pipe, to which Python writes at each signal and `defer` at each call.
        self._selector.register(self.PIPE[0], selectors.EVENT_READ, self._run_calls)
        self._connections = Connections(self._selector, self._limits(), self)
        gc.freeze()  # loaded objects stay: the garbage collector need not visit them
        while self.alive and self.ppid == os.getppid() and not self._is_faulty():
            self._accept_if(self._connections.has_room())
            self._turn()
        self.alive = False
        if self._health.fault:
            self._end_faulty()
        else:
            self._drain()

    def defer(self, call: Callable[..., None], *arguments: Any) -> None:
        """Have the main loop call a function in its next turn; from any thread."""
        self._calls.put(partial(call, *arguments))
        try:
            os.write(self.PIPE[1], b"\0")
        except BlockingIOError:
            pass  # the pipe is full, so the loop wakes anyway

    def admit(self, head: Head) -> None:
        """Refuse a request by its head alone if there is no room for it: a RequestError 503.

        A body that has not arrived occupies no slot of the queue, or silent clients could fill it.
        """
        if head.method not in observation.READ_METHODS:
            self._check_load()

    def dispatch(self, connection: Connection, request: Request) -> None:
        """Answer at once what needs no thread; give the rest to a thread or refuse it."""
        record = _record_of(
            request.head,
            received_bytes=len(request.body),
            deadline=time.monotonic() + self._plan.timeout,
            is_client_gone=connection.is_gone,
        )
        if record.is_quick:
            data, closes = self._answer(connection, request, record)
            self._connections.answer(connection, data, closes=closes)
            return
        try:
            self._check_load()
        except RequestError as error:
            data, closes = self._finish(request, record, refusal(error.status, error.message))
            self._connections.answer(connection, data, closes=closes)
            return
        self._count(1)
        pool = self._administration if record.is_administration else self._threads
        pool.submit(self._work, connection, request, record)

    def note_refusal(self, connection: Connection, error: RequestError, sent_bytes: int) -> None:
        """Record the refusal of a request that did not arrive whole."""
        head, received = connection.reader.head, connection.held
        record = (
            _record_of(head, received) if head else RequestRecord("-", "-", received_bytes=received)
        )
        self._close_record(record, error.status, sent_bytes)

    def _limits(self) -> Limits:
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return Limits(
            connections=min(_MOST_CONNECTIONS, files // 2),
            max_body=environment.max_content_length(),
            body_memory=self._plan.body_memory,
            read_seconds=environment.READ_TIMEOUT.read_integer(1),
            idle_seconds=self.cfg.keepalive,
        )

    def _run_calls(self, pipe: int) -> None:
        os.read(pipe, 4096)
        for _ in range(self._calls.qsize()):  # those that they defer wait for the next turn
            self._calls.get()()

    def _accept(self, listener: Any) -> None:
        """Take a new connection, which after a fault is left to the next process."""
        if not self._health.fault or self._health.is_device_lost:
            self._connections.accept(listener)

    def _accept_if(self, is_on: bool) -> None:
        """Start or stop watching the listeners."""
        if is_on == self._is_accepting:
            return
        self._is_accepting = is_on
        for listener in self.sockets:
            if is_on:
                listener.setblocking(False)
                self._selector.register(listener, selectors.EVENT_READ, self._accept)
            else:
                self._selector.unregister(listener)

    def _turn(self) -> None:
        """Handle events; now and then give a sign of life and end late connections."""
        for key, _ in self._selector.select(_TICK_SECONDS):
            key.data(key.fileobj)
        now = time.monotonic()
        if now >= self._next_round:
            self._next_round = now + _ROUND_SECONDS
            self.notify()
            self._connections.close_late()

    def _turns(self, seconds: float) -> Iterator[None]:
        """Turn the loop between the caller's checks, for at most `seconds`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            yield
            self._turn()

    def _drain(self) -> None:
        """Answer every accepted request, then close."""
        for listener in self.sockets:
            while self._connections.accept(listener):
                pass
        self._accept_if(False)
        for listener in self.sockets:
            listener.close()
        self._connections.let_go(LINGER_SECONDS)
        for _ in self._turns(self.cfg.graceful_timeout - 1):
            if not self._connections:
                return

    def _is_faulty(self) -> bool:
        if self._health.longest_run() > self._plan.timeout:
            self._health.fail(f"a run of the model takes longer than {self._plan.timeout} s")
        return self._health.fault is not None

    def _end_faulty(self) -> None:
        """End a process that cannot answer; on a CPU the arbiter starts another one.

        New connections wait in the backlog for that process. A lost device has no next process: the
        arbiter ends too, and until then clients and pings get a 503.
        """
        is_lost = self._health.is_device_lost
        self._accept_if(is_lost)
        self._connections.let_go(LINGER_SECONDS if is_lost else 0.0)
        for _ in self._turns(_FAULT_SECONDS):
            if not self._in_flight:
                break
        self._turn()  # for requests sent before the fault
        logging.shutdown()
        # Not sys.exit, which would wait for a thread that hangs in the device.
        os._exit(CANNOT_START if is_lost else 1)

    def _check_load(self) -> None:
        """Raise a RequestError 503 if nothing more can be taken now."""
        if self._health.fault:
            raise RequestError(503, "this process is being replaced: send it again later")
        if self._in_flight >= self._plan.threads + self._plan.queue_size:
            raise RequestError(
                503, f"{self._in_flight} requests are already waiting: send it again later"
            )

    def _work(self, connection: Connection, request: Request, record: RequestRecord) -> None:
        """Answer in a thread of the pool, and send as much as the client takes at once."""
        is_open = False
        try:
            record.waited(time.monotonic() - record.started)
            data, closes = self._answer(connection, request, record)
            is_open = connection.answer(data, closes=closes)
        finally:
            self.defer(self._worked, connection, is_open)

    def _worked(self, connection: Connection, is_open: bool) -> None:
        self._count(-1)
        self._connections.sent(connection, is_open)

    def _count(self, change: int) -> None:
        self._in_flight += change
        self._shared[:8] = self._in_flight.to_bytes(8, "little")

    def _answer(
        self, connection: Connection, request: Request, record: RequestRecord
    ) -> tuple[bytes, bool]:
        """Run the application; return the answer and whether the connection ends with it."""
        with observation.working_on(record):
            try:
                record.refuse_if_abandoned()
                answer = run_application(self.wsgi, request, connection.peer, connection.server)
                return self._finish(request, record, answer)
            except RequestError as error:
                answer = refusal(error.status, error.message)
            except Exception:
                _logger.exception("%s %s failed", record.method, record.path)
                answer = refusal(500, "internal error; the log has the details")
        return self._finish(request, record, answer)

    def _finish(
        self, request: Request, record: RequestRecord, answer: Answer
    ) -> tuple[bytes, bool]:
        """Record the answer before it is sent, so that a client with an answer finds it counted."""
        closes = not self.alive or answer.status == 499 or not request.head.is_persistent
        data = answer.to_bytes(is_closing=closes, has_body=record.method != "HEAD")
        self._close_record(record, answer.status, len(data))
        return data, closes

    def _close_record(self, record: RequestRecord, status: int, sent_bytes: int) -> None:
        record.answered(status, sent_bytes)
        if self._metrics is not None:
            self._metrics.observe(record)
        record.write_line()


def _record_of(head: Head, received_bytes: int, **known: Any) -> RequestRecord:
    name = observation.request_id(head.get(observation.ID_HEADER))
    return RequestRecord(head.method, head.path, name, received_bytes, **known)


def run_application(application: Application, request: Request, peer: Any, server: Any) -> Answer:
    """Call a WSGI application (PEP 3333) with a whole request.

    Args:
        application: the WSGI application.
        request: the request.
        peer, server: the addresses of the client and of the server, as sockets name them.
    """
    head = request.head
    environ: dict[str, Any] = {
        "REQUEST_METHOD": head.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(head.path).decode("latin-1"),
        "QUERY_STRING": head.query,
        "REMOTE_ADDR": peer[0],
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "SERVER_PROTOCOL": f"HTTP/1.{head.minor_version}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in head.headers:
        key = "HTTP_" + name.replace("-", "_")
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    environ["CONTENT_TYPE"] = environ.pop("HTTP_CONTENT_TYPE", "")
    environ.pop("HTTP_UPGRADE", None)  # the server ignores it (RFC 9110, 7.8); Werkzeug does not
    environ["CONTENT_LENGTH"] = str(len(request.body))
    started: list[Any] = []
    written: list[bytes] = []

    def start_response(status: str, headers: list[tuple[str, str]], *_: Any) -> Callable[..., Any]:
        started[:] = int(status[:3]), headers
        return written.append

    parts = application(environ, start_response)
    try:
        body = b"".join([*written, *parts])
    finally:
        close = getattr(parts, "close", None)
        if close is not None:
            close()
    status, headers = started
    kept = [(name, value) for name, value in headers if name.lower() not in _FRAMING]
    return Answer(status, kept, body)


def after_worker(arbiter: Arbiter, worker: Worker) -> None:
    """Count the requests lost with an ended worker: gunicorn's `child_exit`, in the arbiter.

    Raises:
        HaltServer: too many workers died recently, or the models of a multi-model endpoint are lost
            and the platform would go on requesting them.
    """
    lost = worker.requests_in_flight
    if lost:
        Worker.count_lost(lost)
        sys.stderr.write(f"process {worker.pid} ended with {lost} unanswered requests\n")
    if not arbiter.LISTENERS:  # the server is being stopped
        return
    if environment.IS_MULTI_MODEL.read_switch():
        raise HaltServer("the process that held the loaded models has ended", 1)
    now = time.monotonic()
    _deaths[:] = [then for then in _deaths if now - then < _DEATHS_SECONDS] + [now]
    if len(_deaths) == _MOST_DEATHS:
        raise HaltServer(f"{_MOST_DEATHS} processes died within {_DEATHS_SECONDS:.0f} s", 1)
