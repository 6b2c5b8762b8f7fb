"""The server under attack: a server of this checkout on 127.0.0.1, started and ended here.

There is no way to name another one.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from endpoints.contenders import OURS
from endpoints.process import TICK, Endpoint

from adversary.cgroup import MemoryCgroup

GIB = 1 << 30
_QUIET_SECONDS = 0.04  # without two ticks of CPU time: it computes nothing
_END_SECONDS = 3.0  # after SIGTERM; then SIGKILL
_LOST = re.compile(r"(\d+) unanswered requests")
_ACCESS = re.compile(r'^\{"time".*"status": (\d+)', re.MULTILINE)


class Target(Endpoint):
    """Our server, whose processes, memory and output are watched.

    Attributes:
        cgroup: of its memory limit; None if it has none.
        unlimited: why a limit that was wanted could not be set; else "".
    """

    def __init__(
        self, model: Path, work: Path, *, limit: int = 0, settings: Mapping[str, str] | None = None
    ) -> None:
        self.cgroup: MemoryCgroup | None = None
        self.unlimited = ""
        if limit:
            try:
                self.cgroup = MemoryCgroup(limit)
            except (OSError, ValueError) as error:
                self.unlimited = f"no memory limit could be set ({error})"
        cpus = len(os.sched_getaffinity(0))
        entry = self.cgroup.entry if self.cgroup else None
        try:
            super().__init__(OURS, sys.executable, "onnx", model, cpus, work, settings, entry)
        except BaseException:
            self._forget()
            raise

    @property
    def root(self) -> int:
        """Its first process, gunicorn's arbiter."""
        return self._process.pid

    @property
    def worker(self) -> int:
        """The process that reads requests: the arbiter's first child; 0 while there is none."""
        return [*self.processes(), 0, 0][1]

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def processes(self) -> list[int]:
        """Return the ids of its processes, the first one first, without a look at all others."""
        found = [self.root]
        for process in found:
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{process}/task/{process}/children").read_text()
                found += [int(child) for child in text.split()]
        return found

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of its processes so far, those that have ended included."""
        total = 0.0
        for process in self.processes():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
                total += sum(int(field) for field in fields[11:15]) / TICK
        return total

    def settle(self, seconds: float, most: float = math.inf) -> float:
        """Wait until its processes compute nothing; return their CPU seconds.

        Args:
            seconds: to wait at most.
            most: CPU seconds of its processes at which the wait ends.
        """
        end, last = time.monotonic() + seconds, self.cpu_seconds()
        while last < most and time.monotonic() < end:
            time.sleep(_QUIET_SECONDS)
            now = self.cpu_seconds()
            if now - last < 2 / TICK:
                return now
            last = now
        return last

    def forget_peak(self) -> None:
        """Begin a new peak of memory."""
        if self.cgroup:
            self.cgroup.forget_peak()
        self._resident = {}
        for process in self.processes():
            with contextlib.suppress(OSError):
                Path(f"/proc/{process}/clear_refs").write_text("5")  # VmHWM becomes VmRSS
            self._resident[process] = _status(process, "VmRSS")

    def used(self) -> int:
        """Return the bytes that its processes use now."""
        if self.cgroup:
            return self.cgroup.used()
        return self.resident()

    def peak(self) -> int:
        """Return the most bytes since `forget_peak`: of the cgroup, else the sum of all growth."""
        if self.cgroup:
            return self.cgroup.peak()
        known = self._resident
        grown = sum(
            max(0, _status(process, "VmHWM") - known.get(process, 0))
            for process in self.processes()
        )
        return sum(known.values()) + grown

    def kills(self) -> int:
        """Return how many of its processes the kernel killed for want of memory."""
        return self.cgroup.kills() if self.cgroup else 0

    def output(self) -> str:
        """Return all that it has written."""
        return (self.work / "log").read_text(errors="replace")

    def lost(self) -> int:
        """Return how many requests its log counts as lost."""
        return sum(int(count) for count in _LOST.findall(self.output()))

    def logged(self) -> list[int]:
        """Return the statuses in its access log."""
        return [int(status) for status in _ACCESS.findall(self.output())]

    def resident(self) -> int:
        """Return the resident bytes of its processes; pages that they share count in each."""
        return sum(_status(process, "VmRSS") for process in self.processes())

    def descriptors(self) -> int:
        """Return how many files its processes have open."""
        return sum(_entries(f"/proc/{process}/fd") for process in self.processes())

    def threads(self) -> int:
        return sum(_entries(f"/proc/{process}/task") for process in self.processes())

    def zombies(self) -> int:
        return sum(_state(process) == "Z" for process in self.processes())

    def files(self) -> int:
        """Return how many files lie in its folder, which is also its temporary one."""
        return sum(1 for path in self.work.rglob("*") if path.is_file())

    def send(self, number: int, process: int | None = None) -> None:
        """Send a signal to its first process, or to another one of its own."""
        if process is None or process in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process or self.root, number)

    def kill(self) -> None:
        """End all of its processes at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.root, signal.SIGKILL)

    def exit_code(self, seconds: float) -> int | None:
        """Return its exit code once it ends; None if it is still there after so long."""
        end = time.monotonic() + seconds
        while self._process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        return self._process.poll()

    def close(self) -> None:
        mine = self.processes()
        self.send(signal.SIGTERM)
        if self.exit_code(_END_SECONDS) is None:
            self.kill()
        super().close()
        for process in mine[1:]:  # a worker may outlive its arbiter
            if _state(process) not in ("", "Z") and _group(process) == mine[0]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        self._forget()

    def _forget(self) -> None:
        if self.cgroup:
            self.cgroup.close()


@contextmanager
def attacked(
    model: Path, work: Path, *, limit: int = 0, settings: Mapping[str, str] | None = None
) -> Iterator[Target]:
    """Serve `model` while the block runs, in a folder of its own below `work`."""
    folder = work / f"target-{time.monotonic_ns()}"
    folder.mkdir()
    target = Target(model, folder, limit=limit, settings=settings)
    try:
        yield target
    finally:
        target.close()


def _status(process: int, name: str) -> int:
    """Return a figure of a process in bytes; 0 once it has ended."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{process}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
        return int(found[1]) << 10 if found else 0
    return 0


def _state(process: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def _group(process: int) -> int:
    with contextlib.suppress(ProcessLookupError):
        return os.getpgid(process)
    return 0


def _entries(folder: str) -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir(folder))
    return 0
