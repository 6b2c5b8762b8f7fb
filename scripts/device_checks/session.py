"""Run the checks one after another, each in a process with a time limit, and keep the report."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from device_checks import processes, report
from device_checks.catalog import Check
from device_checks.report import Report, Result
from device_checks.rows import read_rows

_LEAST_SECONDS = 5.0  # no check ends in less
_LOG_LINES = 15
_REMOVED = ("LOCAL_RANK", "LOCAL_WORLD_SIZE")  # of a training process that starts this one


class Interrupted(BaseException):
    """A signal asks this process to end."""


class CannotWriteError(Exception):
    """The report cannot be written."""


@dataclass(frozen=True)
class Session:
    """The checks of one command.

    Attributes:
        report: its results have the checks.
        work: a folder that is removed in the end.
        cpu: whether they run on the CPU, with tiny sizes.
        photographs: the user's, or None.
        seconds: for all of them together.
    """

    report: Report
    work: Path
    cpu: bool
    photographs: Path | None
    seconds: float

    def run(self) -> None:
        """Run the selected checks.

        Raises:
            CannotWriteError: the report cannot be written, before the first check or in the end.
        """
        processes.adopt_orphans()
        deadline = time.monotonic() + self.seconds
        self._write()
        try:
            with _signals_as_exceptions():
                for result in self.report.results:
                    if result.reason != report.NOT_SELECTED:
                        self._run(result, deadline)
        except Interrupted as signal_:
            for result in self.report.results:
                if result.status == report.NOT_RUN and not result.reason:
                    result.reason = str(signal_)
        self.report.is_over = True
        self._write()

    def _run(self, result: Result, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left < _LEAST_SECONDS:
            result.reason = f"the {self.seconds / 60:g} minutes were over"
            _say(result)
            return
        result.status = report.RUNNING
        self._write_if_possible()
        check, seconds = result.check, min(result.check.seconds, left)
        rows, own_log = self.work / f"{check.name}.jsonl", self.work / f"{check.name}.log"
        try:
            with own_log.open("wb") as log:
                ending = processes.run(
                    self._command(check, rows, seconds), self._environment(), seconds, log
                )
            result.seconds, result.cpu_seconds = ending.seconds, ending.cpu_seconds
            result.rows = read_rows(rows)
            _judge(result, ending, seconds)
        except Interrupted as signal_:
            result.status, result.reason = report.INTERRUPTED, str(signal_)
            result.rows = read_rows(rows)
            raise
        finally:
            shutil.rmtree(self.work / check.name, ignore_errors=True)
            if result.status not in (report.PASSED, report.FAILED):
                result.log_lines = _end_of(own_log)
            self._keep_log(check, own_log)
            _say(result)
            self._write_if_possible()

    def _command(self, check: Check, rows: Path, seconds: float) -> list[str]:
        command = [sys.executable, "-m", "device_checks.one", check.program]
        command += ["--rows", str(rows), "--seconds", str(seconds)]
        command += ["--work", str(self.work / check.name), "--shared", str(self.work / "shared")]
        command += ["--photos", str(self.photographs)] if self.photographs else []
        return [*command, "--cpu"] if self.cpu else command

    def _environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if name not in _REMOVED}
        own["PYTHONUNBUFFERED"] = "1"
        own.setdefault("CUDA_VISIBLE_DEVICES", "0")  # each check is about one GPU
        if self.cpu:  # also on a machine with a GPU
            own |= {"IMAGE_CLASSIFICATION_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": "-1"}
            own["IMAGE_CLASSIFICATION_CPU_COUNT"] = "2"  # the same steps on every machine
            own["OMP_NUM_THREADS"] = "1"  # several would wait for each other: the work is tiny
        return own

    def _keep_log(self, check: Check, own_log: Path) -> None:
        with suppress(OSError), (self.report.folder / report.LOG).open("ab") as file:
            file.write(f"==== {check.name}\n".encode())
            file.write(own_log.read_bytes())

    def _write_if_possible(self) -> None:
        """Write the report; if that fails, go on: the terminal has each result too."""
        try:
            self._write()
        except CannotWriteError as error:
            print(f"{error}; going on", file=sys.stderr, flush=True)

    def _write(self) -> None:
        try:
            self.report.write()
        except OSError as error:
            place = error.filename or self.report.folder
            raise CannotWriteError(
                f"cannot write {place}: {error.strerror or error}; free some space, or name "
                "another folder with --output"
            ) from error


def _judge(result: Result, ending: processes.Ending, seconds: float) -> None:
    """Set status and reason of a check that has ended."""
    if ending.is_late:
        result.status = report.TIMED_OUT
        result.reason = f"it was ended after {seconds:.0f} s"
    elif ending.code < 0:
        result.status = report.CRASHED
        result.reason = f"ended by {_name_of(-ending.code)}"
    elif ending.code:
        result.status, result.reason = report.CRASHED, f"exit status {ending.code}"
    elif not any(row.judged for row in result.rows):
        result.status, result.reason = report.FAILED, "it judged nothing"
    elif result.missed:
        result.status = report.FAILED
    elif ending.left_behind:
        result.status = report.FAILED
        result.reason = f"{ending.left_behind} processes were left behind"
    else:
        result.status = report.PASSED


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end_of(log: Path) -> Sequence[str]:
    with suppress(OSError):
        text = log.read_bytes().decode("utf-8", "replace").replace("```", "'''")
        return text.splitlines()[-_LOG_LINES:]
    return ()


def _say(result: Result) -> None:
    with suppress(OSError):  # a closed or full standard output ends no check
        print(report.summary_line(result), flush=True)


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Raise Interrupted in the main thread for the signals that ask a program to end."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise Interrupted(f"interrupted by {_name_of(number)}")

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    previous = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
