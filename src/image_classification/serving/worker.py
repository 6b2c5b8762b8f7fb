"""The gunicorn worker: a process whose one loop reads whole requests and whose threads answer them.

The loop itself answers pings, refuses what is too large, too slow or too much, and at SIGTERM ends
the process only when every request it has accepted is answered. gunicorn's `gthread` gives the
process, the signals, the heartbeat and the poller; it would hand a thread to each connection that
has sent its first byte, which is what this class does not do.
"""

from __future__ import annotations

import gc
import io
import logging
import mmap
import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from selectors import EVENT_READ
from typing import TYPE_CHECKING, Any

from gunicorn.arbiter import Arbiter
from gunicorn.http import wsgi
from gunicorn.workers.gthread import ThreadWorker

from image_classification.contract import environment
from image_classification.errors import RequestError
from image_classification.serving.connection import (
    LINGER_SECONDS,
    Connection,
    Front,
    Limits,
    plain_answer,
    refusal,
)
from image_classification.serving.incoming import Received
from image_classification.serving.observation import (
    ID_HEADER,
    RequestRecord,
    log_access,
    request_id,
    working_on,
)

if TYPE_CHECKING:
    from image_classification.serving.admission import Plan
    from image_classification.serving.health import Health
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


_TICK_SECONDS = 0.5
_ROUND_SECONDS = 0.1  # how late a deadline may be noticed; at each event it cost 3 % of a request
_FAULT_SECONDS = 5.0  # for the requests that still run when the process must be replaced
_MOST_CONNECTIONS = 1000
_QUESTIONS = {"GET", "HEAD"}
_ADMINISTRATION_THREADS = 4  # a model that loads for minutes takes no thread from predictions


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn carries no types
    """One server process. `app`, gunicorn's application, has `plan` and, once loaded, `health`."""

    lost_before = 0
    """Requests that ended with workers killed before this one; the arbiter counts them."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.alive: bool
        self._shared = mmap.mmap(-1, 8)  # shared with the arbiter, which outlives a SIGKILL
        self._in_flight = 0
        self._next_round = 0.0
        self._plan: Plan = self.app.plan

    @property
    def requests_in_flight(self) -> int:
        """Requests received and not answered yet; the arbiter can read it too."""
        return int.from_bytes(self._shared[:8], "little")

    def get_thread_pool(self) -> ThreadPoolExecutor:
        """The threads of the plan."""
        self._administration = ThreadPoolExecutor(_ADMINISTRATION_THREADS)
        return ThreadPoolExecutor(self._plan.threads)

    def run(self) -> None:
        """The main loop; the model is loaded by now."""
        self._health: Health = self.app.health
        self._metrics = self._open_metrics()
        self._runner = WsgiRunner(self.cfg, self.wsgi, self._metrics)
        self._front = self._open_front()
        gc.freeze()  # what is loaded stays: collections during requests need not look at it
        self.poller.register(
            self.method_queue.fileno(), EVENT_READ, self.method_queue.run_callbacks
        )
        while self.alive and self.is_parent_alive() and not self._is_faulty():
            self.set_accept_enabled(self._front.has_room())
            self._turn()
        self.alive = False
        if self._health.fault:
            self._end_faulty()
        else:
            self._drain()

    def _open_front(self) -> Front:
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        limits = Limits(
            connections=min(_MOST_CONNECTIONS, files // 2),
            max_body=environment.max_content_length(),
            body_memory=self._plan.body_memory,
            read_seconds=environment.READ_TIMEOUT.read_integer(1),
            idle_seconds=self.cfg.keepalive,
        )
        calls = (self._admit, self._dispatch, self._refused, self.method_queue.defer)
        return Front(self.poller, self.cfg, limits, *calls)

    def _open_metrics(self) -> Metrics | None:
        if not environment.METRICS.read_switch():
            return None
        from image_classification.serving.metrics import Metrics

        return Metrics(lambda: self._in_flight, self.lost_before)

    def accept(self, listener: Any) -> None:
        """The listener has a connection, which at a fault is left to the next process."""
        if not self._health.fault or self._health.is_device_lost:
            self._front.accept(listener)

    def _turn(self) -> None:
        """What has happened; now and then a sign of life and a look at who is late."""
        self.wait_for_and_dispatch_events(_TICK_SECONDS)
        now = time.monotonic()
        if now >= self._next_round:
            self._next_round = now + _ROUND_SECONDS
            self.notify()
            self._front.close_late()

    def _turns(self, seconds: float) -> Iterator[None]:
        """Rounds until the caller has what it waits for, for at most `seconds`."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            yield
            self._turn()

    def _drain(self) -> None:
        """Answer everything that was accepted, then close."""
        for listener in self.sockets:
            while self._front.accept(listener):
                pass
        self.set_accept_enabled(False)
        for listener in self.sockets:
            listener.close()
        self._front.let_go(LINGER_SECONDS)
        for _ in self._turns(self.cfg.graceful_timeout - 1):
            if not self._front.connections:
                return

    def _is_faulty(self) -> bool:
        if self._health.longest_run() > self._plan.timeout:
            self._health.fail(f"a run of the model lasts longer than {self._plan.timeout} s")
        return self._health.fault is not None

    def _end_faulty(self) -> None:
        """End a process that cannot answer; on a CPU the arbiter starts another one.

        Who comes now waits at the listener for that process. A lost device has no next process: the
        arbiter ends too, and until then callers and pings are told.
        """
        is_lost = self._health.is_device_lost
        self.set_accept_enabled(is_lost)
        self._front.let_go(LINGER_SECONDS if is_lost else 0.0)
        for _ in self._turns(_FAULT_SECONDS):
            if not self._in_flight:
                break
        self._turn()  # whoever had sent a request before the fault is told
        logging.shutdown()
        # Not sys.exit, which would wait for a thread that hangs in the device.
        os._exit(Arbiter.WORKER_BOOT_ERROR if is_lost else 1)

    def _admit(self, head: Any) -> None:
        """Refuse from its head alone a request that there is no room for: a RequestError 503.

        A body still on its way takes no place in the queue, or silent callers could fill it.
        """
        if head.method not in _QUESTIONS and (reason := self._overload()):
            raise RequestError(503, f"{reason}: send it again later")

    def _overload(self) -> str | None:
        """Why nothing more can be taken now, or None."""
        if self._health.fault:
            return "this process is being replaced"
        if self._in_flight >= self._plan.threads + self._plan.queue_size:
            return f"{self._in_flight} requests are waiting already"
        return None

    def _dispatch(self, connection: Connection, received: Received) -> None:
        """Answer at once what needs no thread, hand the rest to one, refuse what is too much."""
        record = new_record(connection, received, self._plan.timeout)
        connection.closes = received.head.should_close() or not self.alive
        is_question = record.method in _QUESTIONS
        if is_question and record.path == "/ping":
            self._reply(connection, record, self._health.ping_status, b"", {})
        elif is_question and record.path == "/metrics" and self._metrics:
            headers = {"Content-Type": self._metrics.content_type}
            self._reply(connection, record, 200, self._metrics.text(), headers)
        elif reason := self._overload():
            self._shed(connection, record, reason)
        else:
            self._front.set_aside(connection)
            self._count(1)
            pool = self._administration if record.is_administration else self.tpool
            pool.submit(self._work, connection, received, record)

    def _work(self, connection: Connection, received: Received, record: RequestRecord) -> None:
        """Runs in a pool thread: the answer, and its way to a caller who takes it at once."""
        is_open = False
        try:
            record.queue_ms = (time.monotonic() - record.started) * 1000
            data = self._runner.answer(connection, received, record, not self.alive)
            self._runner.finish(record, len(data))  # first: who has an answer finds it counted
            is_open = connection.send(data)
        finally:
            self.method_queue.defer(self._worked, connection, is_open)

    def _worked(self, connection: Connection, is_open: bool) -> None:
        self._count(-1)
        self._front.sent(connection, is_open)

    def _count(self, change: int) -> None:
        self._in_flight += change
        self._shared[:8] = self._in_flight.to_bytes(8, "little")

    def _reply(
        self,
        connection: Connection,
        record: RequestRecord,
        status: int,
        body: bytes,
        headers: dict[str, str],
    ) -> None:
        record.status = status
        data = plain_answer(
            status,
            headers,
            body,
            is_closing=connection.closes,
            has_body=record.method != "HEAD",
        )
        self._runner.finish(record, len(data))
        self._front.answer(connection, data)

    def _shed(self, connection: Connection, record: RequestRecord, reason: str) -> None:
        record.status = 503
        data = refusal(503, f"{reason}: send it again later", is_closing=connection.closes)
        self._runner.finish(record, len(data))
        self._front.answer(connection, data)

    def _refused(self, connection: Connection, error: RequestError, sent_bytes: int) -> None:
        head = connection.reader.head
        record = record_of(head) if head else RequestRecord("-", "-")
        record.received_bytes, record.status = connection.held, error.status
        self._runner.finish(record, sent_bytes)
