"""The end of a server process: each accepted request is answered, or counted and logged as lost.

After SIGTERM the process answers what it has accepted. Near the end of its time it refuses what
still waits, and at the end it answers for the threads that still run. A process that can no longer
answer does the same at once. The arbiter counts the rest (`arbiter`).
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn, Protocol

from image_classification.contract import environment
from image_classification.errors import RequestError, counted
from image_classification.serving.account import Work
from image_classification.serving.connections import LINGER_SECONDS, Connections
from image_classification.serving.observation import Health

URGENT_SECONDS = 1.0
"""Time to answer after SIGINT, SIGQUIT or SIGABRT; gunicorn kills 2 s after the signal."""

STOPS = "the server is stopping: send the request again, to another server or later"
"""Why a server that ends refuses a request."""

_WAITING_SHARE = 0.8  # of the time: then requests that still wait for a thread are refused
_RUNNING_SHARE = 0.96  # then those that still run
_FAULT_SECONDS = 5.0  # for the requests that still run when the process must be replaced
_FLUSH_SECONDS = 0.5  # for clients to take their last answers

_IS_REPLACED = "this process is being replaced: send the request again later"

_logger = logging.getLogger(__name__)


class Process(Protocol):
    """A process that ends; the worker implements it."""

    is_urgent: bool
    refusal: str | None

    def turn(self) -> None:
        """Handle events for a moment."""

    def unanswered(self) -> Sequence[Work]:
        """Return the accepted requests that no thread has begun to answer."""

    def answer_instead(self, work: Work, status: int, message: str) -> None:
        """Answer a request whose thread waits or hangs; nothing happens if it has an answer."""


class Ending:
    """Ends a process that accepts no new connection any more.

    Args:
        process: ends.
        connections: of the process.
        health: of the process.
        timeout: seconds after which a run counts as hung.
    """

    def __init__(
        self, process: Process, connections: Connections, health: Health, timeout: float
    ) -> None:
        self._process, self._connections = process, connections
        self._health, self._timeout = health, timeout

    def drain(self) -> None:
        """Answer every accepted request in the time that the platform grants."""
        begin, patience = time.monotonic(), environment.GRACEFUL_TIMEOUT.read_integer(1)

        def time_left(share: float) -> bool:
            seconds = URGENT_SECONDS if self._process.is_urgent else patience
            return bool(self._connections) and time.monotonic() < begin + share * seconds

        self._connections.let_go(LINGER_SECONDS)
        while time_left(_WAITING_SHARE):
            self._turn()
        self._refuse_waiting(STOPS)
        while time_left(_RUNNING_SHARE):
            self._turn()
        self._answer_rest(f"the server stopped before the answer was ready: {STOPS}")

    def replace(self) -> None:
        """End a process that can no longer work; on a CPU, another one follows.

        Requests whose run hangs get a 500, and other runs have a little time. New
        connections wait in the backlog for the next process. A lost device has no next process:
        until the arbiter ends too, clients and pings get a 503.
        """
        self._connections.let_go(LINGER_SECONDS if self._health.is_device_lost else 0.0)
        self.answer_overdue()
        self._refuse_waiting(_IS_REPLACED)
        end = time.monotonic() + _FAULT_SECONDS
        while self._process.unanswered() and time.monotonic() < end:
            self._turn()
        self._answer_rest(_IS_REPLACED)

    def answer_overdue(self) -> None:
        """Answer 500 to the requests whose runs hang."""
        works = {id(work.record): work for work in self._process.unanswered()}
        for run in self._health.overdue(self._timeout):
            work = works.get(id(run.record))
            if work is not None:
                self._process.answer_instead(work, 500, overdue(run.name, self._timeout))

    def _turn(self) -> None:
        self._process.turn()
        self.answer_overdue()

    def _refuse_waiting(self, reason: str) -> None:
        """Refuse what waits for a thread, has arrived in part, or arrives from now on."""
        self._process.refusal = reason
        self._connections.refuse_incomplete(RequestError(503, reason))
        for work in self._process.unanswered():
            if not work.is_started:
                self._process.answer_instead(work, 503, reason)

    def _answer_rest(self, reason: str) -> None:
        rest = self._process.unanswered()
        for work in rest:
            self._process.answer_instead(work, 503, reason)
        if rest:
            requests = counted(len(rest), "requests")
            _logger.warning("%s still ran when the process ended: answered 503", requests)
        end = time.monotonic() + _FLUSH_SECONDS
        while self._connections and time.monotonic() < end:
            self._process.turn()


def end_process(code: int) -> NoReturn:
    """End this process now with all that it has logged.

    Not sys.exit, which waits for the threads and exit handlers of the user's code and for threads
    that hang in a device, and during which a signal kills the process.
    """
    flush = threading.Thread(target=_flush, daemon=True)
    flush.start()
    flush.join(_FLUSH_SECONDS)  # the reader of the log can be slow, or a thread can hold its lock
    os._exit(code)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed by the user's code
            stream.flush()
    logging.shutdown()


def overdue(name: str, timeout: float) -> str:
    """Return the message that a run of this name hangs, with the cure."""
    return (
        f"{name} did not return within {timeout:g} s; the server replaces its process: make it "
        f"faster or raise {environment.SERVER_TIMEOUT.name}"
    )
