"""Run a command with a time limit, and leave no process of it behind."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_PR_SET_CHILD_SUBREAPER = 36
_SECONDS_TO_END = 10.0  # of a process that was killed


@dataclass(frozen=True)
class Ending:
    """How a command ended.

    Attributes:
        code: its exit status; negative: the number of the signal that ended it.
        is_late: whether its time was up.
        seconds, cpu_seconds: of the command and its children.
        left_behind: processes that it had not ended itself.
    """

    code: int
    is_late: bool
    seconds: float
    cpu_seconds: float
    left_behind: int


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends, so that they can be found. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def run(
    command: Sequence[str], environment: Mapping[str, str], seconds: float, log: BinaryIO
) -> Ending:
    """Run a command until it ends or its time is up; its output goes to `log`.

    Its standard input is a pipe that closes if this process dies. Any exception, such as one of a
    signal handler, ends the command too.
    """
    began, cpu = time.monotonic(), _cpu_seconds()
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log
    )
    is_late = False
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        is_late = True
    finally:
        process.kill()  # nothing if it has ended
        with suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_END)
        left = end_descendants(os.getpid())
        if process.stdin is not None:
            process.stdin.close()
    code = -signal.SIGKILL if process.returncode is None else process.returncode
    return Ending(code, is_late, time.monotonic() - began, _cpu_seconds() - cpu, left)


def end_descendants(root: int) -> int:
    """Kill all descendants of a process, also those in other sessions; return their number.

    A process can start another one while this looks, so it looks until there is none. One that
    hangs in the kernel, in a driver for example, survives; it is left alone after a while.
    """
    ended: set[int] = set()
    deadline = time.monotonic() + _SECONDS_TO_END
    while time.monotonic() < deadline:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        found = descendants(root)
        if not found:
            break
        for number in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(number, signal.SIGKILL)
        ended |= found
        time.sleep(0.01)
    return len(ended)


def descendants(root: int) -> set[int]:
    """Return the numbers of all living processes below `root`."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(folder.name)] = int(parent)
    found: set[int] = set()
    newest = {root}
    while newest:
        newest = {number for number, parent in parents.items() if parent in newest} - found
        found |= newest
    return found


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
