"""The gunicorn worker: its main loop reads whole requests, its threads answer them.

The loop answers pings and metrics itself, refuses requests that are too large, too slow or too
many, and on SIGTERM ends the process once every request it has accepted is answered (`ending`).
gunicorn provides the process and the signals. Besides `arbiter`, the only file that uses names that
gunicorn does not document; tests/unit/serving/test_worker.py lists them.
"""

from __future__ import annotations

import gc
import logging
import os
import queue
import selectors
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker as GunicornWorker

from image_classification.errors import RequestError
from image_classification.serving import observation
from image_classification.serving.account import Account, Work
from image_classification.serving.admission import Plan
from image_classification.serving.connection import Connection
from image_classification.serving.connections import Connections, read_limits
from image_classification.serving.ending import Ending, end_process, overdue
from image_classification.serving.http import Answer, Head, Request
from image_classification.serving.log_output import send_waiting_lines
from image_classification.serving.observation import RequestRecord
from image_classification.serving.process_state import (
    BEATS,
    HAS_CLOSED,
    INCOMPLETE,
    IS_LAST,
    ProcessState,
)
from image_classification.serving.refusals import refusal
from image_classification.serving.scheduling import Scheduler, most_bulk_requests
from image_classification.serving.wsgi import run_application

if TYPE_CHECKING:
    from image_classification.serving.metrics import Metrics

_logger = logging.getLogger(__name__)

IGNORED = signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2
"""Signals that all processes ignore: a terminal closes, or gunicorn would start a second server."""

CANNOT_START: int = Arbiter.WORKER_BOOT_ERROR
"""A worker's exit code that makes gunicorn end instead of starting another worker."""

_TICK_SECONDS = 0.5
_FULL_SECONDS = 0.02  # the same while no connection can be taken: one can be overdue soon
_ROUND_SECONDS = 0.1  # how late a deadline can be noticed; at each event it cost 3% of a request
_MOST_ACCEPTED = 32  # connections in one turn of the loop
_ADMINISTRATION_THREADS = 32  # models that take minutes to load block no other request

_INTERNAL_ERROR = "internal error; the log has the details"


class Worker(GunicornWorker):  # type: ignore[misc]  # gunicorn carries no types
    """One server process.

    `app`, gunicorn's application, has `plan`, `health`, `metrics` and `runs_own_code`.

    Attributes:
        state: what the arbiter sees of the process.
        is_urgent: whether it has to end at once.
        refusal: why no more requests are taken; None while they are.
    """

    lost_before = 0
    """Requests that ended with workers killed before this one; the arbiter counts them."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.alive: bool
        self.plan: Plan = self.app.plan
        # One for each request that the user's code can work on; bulk ones take no thread's place.
        most = self.plan.threads + most_bulk_requests(self.plan)
        deposits = most if self.app.runs_own_code else 0
        self.state = ProcessState(deposits)
        self._account = Account(self.state, bool(deposits))
        self.is_urgent = False
        self.refusal: str | None = None
        self._next_round = 0.0
        self._is_accepting = False
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    @classmethod
    def count_lost(cls, requests: int) -> None:
        """Count requests that ended with a killed worker; the next workers inherit the number."""
        cls.lost_before += requests

    def init_signals(self) -> None:
        """Handle signals from now on; the arbiter has blocked them for the fork."""
        super().init_signals()
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    def handle_exit(self, *_: Any) -> None:
        """End at SIGTERM, once all requests are answered."""
        if not self.booted:  # there is nothing to answer
            os._exit(0)
        self.alive = False

    def handle_quit(self, *_: Any) -> None:
        """End within a second at SIGINT, SIGQUIT and SIGABRT, but answer all requests."""
        self.handle_exit()
        self.is_urgent = True

    handle_abort = handle_quit

    def run(self) -> None:
        """Run the main loop; gunicorn calls this once the model is loaded."""
        self._health: observation.Health = self.app.health
        self._metrics: Metrics | None = self.app.metrics
        if self._metrics is not None:
            self._metrics.follow(lambda: len(self._account), self.lost_before)
        self._scheduler = Scheduler(self.plan)
        self._scheduler.start()
        self._administration = ThreadPoolExecutor(_ADMINISTRATION_THREADS)
        self._selector = selectors.DefaultSelector()
        # gunicorn's pipe, to which Python writes at each signal and `defer` at each call.
        self._selector.register(self.PIPE[0], selectors.EVENT_READ, self._run_calls)
        limits = read_limits(self.plan.body_memory, self.cfg.keepalive)
        self._connections = Connections(self._selector, limits, self)
        self._most_accepted = limits.connections  # one is left for a ping
        self.state.numbers[BEATS] += 1  # from now on, silence is a fault
        gc.freeze()  # loaded objects stay: the garbage collector need not visit them
        while self.alive and self.ppid == os.getppid() and not self._is_faulty():
            self._accept_if(self._connections.has_room())
            self.turn()
        self.alive = False
        self._end()

    def defer(self, call: Callable[..., None], *arguments: Any) -> None:
        """Make the main loop call a function in its next turn; from any thread."""
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
            deadline=time.monotonic() + self.plan.timeout,
            is_client_gone=connection.is_gone,
        )
        if record.is_quick:
            answer = self._answer(connection, request, record)
            data, closes = self._finish(request, record, answer, connection)
            self._connections.answer(connection, data, closes=closes)
            return
        try:
            self._check_load()
        except RequestError as error:
            data, closes = self._finish(request, record, refusal(error.status, error.message))
            self._connections.answer(connection, data, closes=closes)
            return
        work = self._account.accept(connection, request, record)
        if record.is_administration:
            self._administration.submit(self._work, work)
        else:
            self._scheduler.submit(partial(self._work, work))

    def unanswered(self) -> list[Work]:
        """Return the accepted requests that no thread has begun to answer."""
        return self._account.unanswered()

    def answer_instead(self, work: Work, status: int, message: str) -> None:
        """Answer a request whose thread waits or hangs; nothing happens if it has an answer.

        The thread's later answer is dropped.
        """
        if not work.claim():
            return
        record = work.record
        answer = refusal(status, message)
        _logger.warning("%s %s answered %s: %s", record.method, record.path, status, message)
        data, _ = self._finish(work.request, record, answer)
        self._account.send()
        self._connections.answer(work.connection, data, closes=True)
        if not self._account.sent(work):
            self._account.await_rest(work)

    def note_refusal(self, connection: Connection, error: RequestError, sent_bytes: int) -> None:
        """Record the refusal of a request that did not arrive whole."""
        head, received = connection.reader.head, connection.held
        record = (
            _record_of(head, received) if head else RequestRecord("-", "-", received_bytes=received)
        )
        self._close_record(record, error.status, sent_bytes)

    def _run_calls(self, pipe: int) -> None:
        os.read(pipe, 4096)
        for _ in range(self._calls.qsize()):  # those that they defer wait for the next turn
            self._calls.get()()

    def _accept(self, listener: Any) -> None:
        """Take new connections, which after a fault are left to the next process."""
        for _ in range(_MOST_ACCEPTED):
            if self._health.fault and not self._health.is_device_lost:
                return
            if not self._connections.accept(listener):
                return

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

    def turn(self) -> None:
        """Handle events; now and then give a sign of life and end late connections."""
        for key, _ in self._selector.select(_TICK_SECONDS if self._is_accepting else _FULL_SECONDS):
            key.data(key.fileobj)
        self.state.numbers[INCOMPLETE] = self._connections.incomplete
        now = time.monotonic()
        if now >= self._next_round:
            self._next_round = now + _ROUND_SECONDS
            self.state.numbers[BEATS] += 1
            self._connections.close_late()
            self._account.review()
            self._scheduler.fill_places()
            send_waiting_lines()
            self._health.look()

    def _is_faulty(self) -> bool:
        for run in self._health.overdue(self.plan.timeout):
            self._health.fail(overdue(run.name, self.plan.timeout))
        return self._health.fault is not None

    def _end(self) -> None:
        """End the process; on a CPU the arbiter starts another one after a fault.

        A lost device has no next process: the arbiter ends too.
        """
        ending = Ending(self, self._connections, self._health, self.plan.timeout)
        if self._health.fault:
            self._accept_if(self._health.is_device_lost)
            ending.replace()
        else:
            for listener in self.sockets:
                while self._connections.accept(listener):
                    pass
            self._accept_if(False)
            for listener in self.sockets:
                listener.close()
            self.state.numbers[HAS_CLOSED] = 1
            ending.drain()
        self._account.review()
        lost = self._account.lost
        if lost and self.ppid != os.getppid():  # no other process logs it
            _logger.error("process %d ended with %d unanswered requests", self.pid, lost)
        if self._health.is_device_lost:
            self.state.numbers[IS_LAST] = 1
            end_process(CANNOT_START)
        end_process(1 if self._health.fault or lost else 0)

    def _check_load(self) -> None:
        """Raise a RequestError 503 if nothing more can be taken now."""
        if self.refusal is not None:
            raise RequestError(503, self.refusal)
        accepted = len(self._account)
        in_queue = accepted - self._scheduler.bulk_requests
        room = self.plan.threads + self.plan.queue_size
        if in_queue >= room or accepted >= self._most_accepted:
            raise RequestError(
                503, f"{accepted} requests are already waiting: send yours again later"
            )

    def _work(self, work: Work) -> None:
        """Answer in a thread of the pool, and send as much as the client takes at once."""
        is_ours = is_open = is_sent = False
        record, connection = work.record, work.connection
        try:
            if work.is_claimed:  # refused while it waited
                return
            record.waited(time.monotonic() - record.started)
            with self._account.working(work):
                answer = self._answer(connection, work.request, record)
            is_ours = work.claim()
            if is_ours:
                data, closes = self._finish(work.request, record, answer, connection)
                self._account.send()
                is_open = connection.answer(data, closes=closes)
                is_sent = self._account.sent(work)
        finally:
            self.defer(self._worked, work, is_ours, is_open, is_sent)

    def _worked(self, work: Work, is_ours: bool, is_open: bool, is_sent: bool) -> None:
        self._account.done(work)
        if is_ours:
            self._connections.sent(work.connection, is_open)
            if not is_sent:
                self._account.await_rest(work)

    def _answer(self, connection: Connection, request: Request, record: RequestRecord) -> Answer:
        """Run the application."""
        with observation.working_on(record):
            try:
                record.refuse_if_abandoned()
                return run_application(self.wsgi, request, connection.peer, connection.server)
            except RequestError as error:
                return refusal(error.status, error.message)
            except BaseException:  # the user's code can raise one in this thread later on
                _logger.exception("%s %s failed", record.method, record.path)
                return refusal(500, _INTERNAL_ERROR)

    def _finish(
        self,
        request: Request,
        record: RequestRecord,
        answer: Answer,
        connection: Connection | None = None,
    ) -> tuple[bytes, bool]:
        """Record the answer before it is sent, so that a client with an answer finds it counted.

        When the process ends, the answer is the last one of the connection unless that has more.
        """
        closes = answer.status == 499 or not request.head.is_persistent
        if not (self.alive or closes):
            closes = self.refusal is not None or connection is None or not connection.has_more()
        has_body = record.method != "HEAD"
        try:
            data = answer.to_bytes(is_closing=closes, has_body=has_body)
        except ValueError:  # a header that HTTP cannot hold
            _logger.exception("%s %s failed", record.method, record.path)
            answer = refusal(500, _INTERNAL_ERROR)
            data = answer.to_bytes(is_closing=closes, has_body=has_body)
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
