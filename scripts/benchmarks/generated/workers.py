"""Child processes that run inputs one after the other, and are replaced when they die.

The parent watches their CPU time and their time: a process that takes too much is killed, and the
input that it had is a hang.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from generated import areas
from generated.case import CRASH, HANG, MEMORY, judge

CPU_SECONDS = 10  # of one input; the slowest sound one takes 0.3
_SECONDS = 120  # of one input, for one that waits instead of computing
_ADDRESS_SPACE = 6 << 30  # more than the parent has
_MOST_RESIDENT = 1 << 30  # bytes more than the parent has; a process with onnxruntime: 0.2 GiB
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Verdict:
    """What became of one input.

    Attributes:
        area, number: which input.
        verdict: a name in `case`.
        reason: of a failure.
        what: was done to the input.
        resident: the most memory that its process has taken so far beyond its parent, in bytes.
    """

    area: str
    number: int
    verdict: str
    reason: str = ""
    what: str = ""
    resident: int = 0


def resident() -> int:
    """Return the most memory that this process has taken so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _address_space() -> int:
    """Return the address space of this process in bytes; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def run_input(area: str, seed: int, number: int, folder: Path, inherited: int) -> Verdict:
    """Write an input into an empty folder, run the product on it in this process, and judge.

    `inherited` is what this process had taken before its first input, in bytes.
    """
    from generated import product

    place, results = folder / "input", folder / "output"
    place.mkdir(parents=True)
    results.mkdir()
    what = "writing it"
    try:
        case = areas.write(area, seed, number, place)
        what = f"{case.command}: {case.what}"
        verdict, reason = judge(case, product.run(case, results))
    except MemoryError:
        verdict, reason = MEMORY, "MemoryError"
    except Exception:
        verdict, reason = CRASH, " | ".join(traceback.format_exc().splitlines()[-6:])
    taken = resident() - inherited
    if taken > _MOST_RESIDENT:
        verdict, reason = MEMORY, f"{taken >> 20} MiB are resident"
    return Verdict(area, number, verdict, reason, what, taken)


def _serve(connection: Connection, seed: int, work: Path) -> None:
    most, inherited = _ADDRESS_SPACE + _address_space(), resident()
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    parent = os.getppid()
    while True:
        while not connection.poll(1):  # other workers have its end too, so that it stays open
            if os.getppid() != parent:  # which was killed
                return
        try:
            area, number = connection.recv()
        except EOFError:
            return
        folder = work / f"{area}-{number}"
        verdict = run_input(area, seed, number, folder, inherited)
        shutil.rmtree(folder)
        connection.send(verdict)


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    job: tuple[str, int] | None = None
    began: float = 0.0
    cpu_before: float = 0.0
    cpu: float = field(default=0.0)

    def give(self, job: tuple[str, int]) -> None:
        self.job, self.began, self.cpu_before = job, time.monotonic(), self.cpu_seconds()
        self.connection.send(job)

    def cpu_seconds(self) -> float:
        """Return the CPU time of the process so far; 0 where the system does not tell."""
        try:
            text = Path(f"/proc/{self.process.pid}/stat").read_text()
        except OSError:
            return self.cpu
        fields = text.rpartition(")")[2].split()
        self.cpu = (int(fields[11]) + int(fields[12])) / _TICKS
        return self.cpu

    def fault(self) -> str:
        """Return why the process must be killed, or ""."""
        used = self.cpu_seconds() - self.cpu_before
        if used > CPU_SECONDS:
            return f"more than {CPU_SECONDS} CPU seconds"
        seconds = time.monotonic() - self.began
        return f"more than {_SECONDS} seconds" if seconds > _SECONDS else ""


class Pool:
    """Runs inputs in several processes.

    Attributes:
        cpu_seconds: of the processes that have ended.
    """

    def __init__(self, seed: int, count: int) -> None:
        self._seed, self._count = seed, count
        # No thread of this process lives: it has not imported the product.
        self._context = multiprocessing.get_context("fork")
        self.cpu_seconds = 0.0

    def run(self, jobs: Iterable[tuple[str, int]]) -> Iterator[Verdict]:
        """Yield the verdict on every job, (area, number), as they end."""
        waiting = iter(jobs)
        with tempfile.TemporaryDirectory(prefix="fuzz-") as work:
            workers = [self._start(Path(work)) for _ in range(self._count)]
            try:
                for worker in workers:
                    self._give_next(worker, waiting)
                while busy := [worker for worker in workers if worker.job]:
                    ready = wait([w.connection for w in busy], timeout=1)
                    for worker in busy:
                        verdict = self._verdict(worker, worker.connection in ready)
                        if verdict is None:
                            continue
                        if verdict.verdict in (HANG, MEMORY) or not worker.process.is_alive():
                            self._end(worker)
                            workers[workers.index(worker)] = worker = self._start(Path(work))
                        yield verdict
                        self._give_next(worker, waiting)
            finally:
                for worker in workers:
                    self._end(worker)

    def _start(self, work: Path) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._seed, work), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    @staticmethod
    def _give_next(worker: _Worker, waiting: Iterator[tuple[str, int]]) -> None:
        worker.job = None
        job = next(waiting, None)
        if job is not None:
            worker.give(job)

    @staticmethod
    def _verdict(worker: _Worker, is_ready: bool) -> Verdict | None:
        """Return the verdict on the worker's input, or None: it is not done."""
        assert worker.job
        if is_ready:
            try:
                verdict: Verdict = worker.connection.recv()
                return verdict
            except EOFError:
                worker.process.join(5)
                code = worker.process.exitcode
                return Verdict(*worker.job, CRASH, f"its process ended with {code}")
        fault = worker.fault()
        return Verdict(*worker.job, HANG, fault) if fault else None

    def _end(self, worker: _Worker) -> None:
        self.cpu_seconds += worker.cpu_seconds()
        worker.connection.close()
        if worker.process.is_alive():
            worker.process.kill()
        worker.process.join()
