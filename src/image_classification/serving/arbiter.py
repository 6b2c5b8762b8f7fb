"""gunicorn's arbiter, which holds the listener, watches the server processes and settles accounts.

It does not depend on a process that hangs: it reads the signs of life and the account of each from
shared memory (`process_state`), kills one that gives no sign, answers the requests whose own code
ran there, and counts those without a response. Besides `worker`, the only file that uses names that
gunicorn does not document; tests/unit/serving/test_worker.py lists them.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from functools import cache
from typing import Any, NoReturn

from gunicorn.arbiter import Arbiter as GunicornArbiter
from gunicorn.errors import HaltServer
from gunicorn.glogging import Logger as GunicornLogger

from image_classification import files
from image_classification.contract import environment
from image_classification.serving import log_output
from image_classification.serving import process_state as counts
from image_classification.serving.ending import STOPS, overdue
from image_classification.serving.refusals import refusal
from image_classification.serving.worker import IGNORED, Worker

KILL_SECONDS = 2
"""How long after its time to stop, or to give a sign of life, a process is killed."""

_MOST_DEATHS = 5  # within a minute: then the platform should start the container anew
_DEATHS_SECONDS = 60.0
_LONGEST_LOOK = 2.0  # seconds that count between two looks: a frozen container is not silent
_REAP_SECONDS = 2.0
_ORPHAN_SECONDS = 1.0  # for the children of server processes, which the kernel kills
_PR_SET_CHILD_SUBREAPER = 36
_RECEIVES, _RECEIVE_SIZE = 64, 1 << 20
_LATER = "send the request again later"


class _Watched:
    """A process that has not been settled yet."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.is_killed = False
        self._beats, self._silence = 0, 0.0

    def silence_after(self, seconds: float) -> float:
        """Return for how many seconds it has given no sign; `seconds` passed since the last look.

        A process that was stopped together with this one, as by `docker pause`, is not silent.
        """
        beats = self.worker.state.numbers[counts.BEATS]
        self._silence = 0.0 if beats != self._beats else self._silence + seconds
        self._beats = beats
        return self._silence

    def patience(self) -> float:
        """Return the seconds for which it may be silent, while it loads or while it serves.

        A process that serves notices by itself, if it can, a run that hangs; so it comes first.
        """
        if not self._beats:
            return float(environment.STARTUP_TIMEOUT.read_integer(1))
        return self.worker.plan.timeout + KILL_SECONDS


class Arbiter(GunicornArbiter):  # type: ignore[misc]  # gunicorn carries no types
    """The first process; it exits with 1 if requests were lost while the server ended."""

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        self._watched: dict[int, _Watched] = {}
        self._deaths: list[float] = []  # when (monotonic) processes died
        self._last_look = time.monotonic()
        self._lost, self._status = 0, 0  # while the server ends
        self._listeners: list[socket.socket] = []  # while the server ends and a process has not

    def init_signals(self) -> None:
        """Handle signals from now on, and inherit the children of dead processes, as PID 1 does."""
        super().init_signals()
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
        with suppress(AttributeError):  # not Linux
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)

    def spawn_worker(self) -> int:
        """Start a process; the new one never returns from here."""
        # Until the process has its own handlers, it would queue a signal as if it were the arbiter.
        signal.pthread_sigmask(signal.SIG_BLOCK, self.SIGNALS)
        try:
            pid: int = super().spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self.SIGNALS)
        self._watched[pid] = _Watched(self.WORKERS[pid])
        self.WORKERS[pid].state.leave()
        return pid

    def murder_workers(self) -> None:
        """Kill the processes that give no sign of life; SIGKILL also ends a stopped one."""
        log_output.send_waiting_lines()
        now = time.monotonic()
        passed, self._last_look = min(now - self._last_look, _LONGEST_LOOK), now
        for pid, watched in self._watched.items():
            silence = watched.silence_after(passed)
            if silence > watched.patience() and not watched.is_killed:
                watched.is_killed = True
                _log(f"process {pid} has given no sign of life for {silence:.0f} s: killing it")
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def reap_workers(self) -> None:
        """Collect ended processes and settle each: gunicorn does not for those it gives up on."""
        if self._is_ending():
            self.murder_workers()
            if all(worker.state.numbers[counts.HAS_CLOSED] for worker in self.WORKERS.values()):
                self._refuse_waiting()
        try:
            super().reap_workers()
        except HaltServer as end:
            # gunicorn goes by the exit code, which can also be that of the user's code.
            if not self._is_any_last():
                self._settle_ended()
                self.reap_workers()  # the others
                return
            if not self._is_ending():
                self._settle_ended()
                raise
            self._status = end.exit_status
        self._settle_ended()

    def stop(self, graceful: bool = True) -> None:
        """End the processes and wait for those that were killed at the end of their time."""
        # Closed once each process has accepted what waits there; one that hangs never does.
        self._listeners += [listener.dup() for listener in self.LISTENERS]
        super().stop(graceful)
        end = time.monotonic() + _REAP_SECONDS
        while self.WORKERS and time.monotonic() < end:
            time.sleep(0.02)
            self.reap_workers()
        self.WORKERS.clear()
        self._settle_ended()
        self._refuse_waiting()
        _await_orphans()
        files.remove_abandoned_folders()

    def halt(self, reason: str | None = None, exit_status: int = 0) -> NoReturn:
        """End the server."""
        try:
            super().halt(reason, exit_status)
        except SystemExit as end:
            # Python restores the default actions, which are deadly, before the process has ended.
            for number in self.SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            if self._lost:
                _log(f"{self._lost} accepted requests were lost while the server ended")
            _output().drain()
            sys.exit(end.code or self._status or (1 if self._lost else 0))
        raise AssertionError("gunicorn's halt ends the process")

    def _is_ending(self) -> bool:
        return not self.LISTENERS

    def _is_any_last(self) -> bool:
        """Whether an ended process could not start, or reported that no other one can."""
        ended = [watched.worker.state.numbers for pid, watched in self._watched_and_ended()]
        return any(numbers[counts.IS_LAST] or not numbers[counts.BEATS] for numbers in ended)

    def _watched_and_ended(self) -> list[tuple[int, _Watched]]:
        return [item for item in self._watched.items() if item[0] not in self.WORKERS]

    def _refuse_waiting(self) -> None:
        """Answer 503 to connections that no process has taken, and take no more."""
        for listener in self._listeners:
            listener.setblocking(False)
            with listener, suppress(OSError):  # no more of them
                while True:
                    client, _ = listener.accept()
                    _answer(client, refusal(503, STOPS).to_bytes(is_closing=True))
        self._listeners.clear()

    def _settle_ended(self) -> None:
        for pid, watched in self._watched_and_ended():
            del self._watched[pid]
            self._settle(watched)

    def _settle(self, watched: _Watched) -> None:
        """Answer and count the requests of an ended process.

        Raises:
            HaltServer: too many processes died recently, or the models of a multi-model endpoint
                are lost and the platform would go on requesting them.
        """
        worker, numbers = watched.worker, watched.worker.state.numbers
        worker.tmp.close()
        incomplete = numbers[counts.INCOMPLETE]
        lost = max(0, numbers[counts.UNANSWERED] - self._answer_deposits(watched)) + incomplete
        if lost:
            Worker.count_lost(lost)
            partly = f", {incomplete} of them incomplete" if incomplete else ""
            _log(f"process {worker.pid} ended with {lost} unanswered requests{partly}")
        if sending := numbers[counts.SENDING]:
            _log(f"process {worker.pid} ended while it was sending {sending} responses")
        if self._is_ending():
            self._lost += lost
            return
        if environment.IS_MULTI_MODEL.read_switch():
            raise HaltServer("the process that held the loaded models has ended", 1)
        now = time.monotonic()
        self._deaths = [then for then in self._deaths if now - then < _DEATHS_SECONDS] + [now]
        if len(self._deaths) == _MOST_DEATHS:
            raise HaltServer(f"{_MOST_DEATHS} processes died within {_DEATHS_SECONDS:.0f} s", 1)

    def _answer_deposits(self, watched: _Watched) -> int:
        """Answer the clients for whom the user's code ran in a dead process; return how many."""
        name, answered = f"code/{environment.PROGRAM.read()}", 0
        status, reason = 500, f"the process ended before {name} returned; the log has the details"
        if watched.is_killed:
            reason = overdue(name, watched.worker.plan.timeout)
        elif self._is_ending():
            status, reason = 503, f"the server stopped before {name} returned: {_LATER}"
        answer = refusal(status, reason).to_bytes(is_closing=True)
        for request, client in watched.worker.state.take():
            answered += _answer(client, answer)
            _log(f"request {request} answered {status}: {reason}")
        return answered


def _await_orphans() -> None:
    """Reap the children of ended processes, so that none is left when the server has ended."""
    end = time.monotonic() + _ORPHAN_SECONDS
    with suppress(ChildProcessError):  # none is left
        while time.monotonic() < end:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(0.01)


def _answer(client: socket.socket, answer: bytes) -> bool:
    """Send an answer to a client that has received nothing of another one, and close."""
    is_sent = False
    with client, suppress(OSError):
        client.setblocking(False)
        is_sent = client.send(answer) == len(answer)  # into an empty buffer, so that it fits
        client.shutdown(socket.SHUT_WR)
        for _ in range(_RECEIVES):  # a socket closed with unread bytes resets the answer
            if not client.recv(_RECEIVE_SIZE):
                break
    return is_sent


class Log(GunicornLogger):  # type: ignore[misc]  # gunicorn carries no types
    """gunicorn's log to standard error, which never waits for its reader."""

    def setup(self, cfg: Any) -> None:
        """Configure the log; gunicorn calls it."""
        super().setup(cfg)
        form = logging.Formatter(self.error_fmt, self.datefmt)
        self.error_log.handlers[:] = [log_output.LogHandler(_output(), form)]


@cache
def _output() -> log_output.LogOutput:
    return log_output.LogOutput(sys.stderr)


def _log(line: str) -> None:
    _output().write(line)
