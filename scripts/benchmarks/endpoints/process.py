"""A running contender: the CPU time and memory of its processes, and its client."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from setting.interpreters import SOURCE

from endpoints.contenders import HERE, Server, command

_START_SECONDS = 120
TICK = os.sysconf("SC_CLK_TCK")


class Endpoint:
    """A server that answers.

    Attributes:
        server: which one.
        port: where.
        start_seconds: from its process's start to the first ping answered 200.
    """

    def __init__(
        self,
        server: Server,
        python: str,
        kind: str,
        model: Path,
        cpus: int,
        work: Path,
        settings: Mapping[str, str] | None = None,
        cgroup: Path | None = None,
    ) -> None:
        """Start a server, with more variables in its environment, in the cgroup of a file."""
        self.server, self.port = server, _free_port()
        own = _environment(python, kind, model, cpus, work) | dict(settings or {})
        self.work = work
        words = command(server, python, self.port, cpus, model, work)
        if cgroup:
            words = ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(cgroup), *words]
        with (work / "log").open("wb") as log:
            begin = time.perf_counter()
            self._process = subprocess.Popen(
                words, env=own, cwd=work, stdout=log, stderr=log, process_group=0
            )
        try:
            self._await_ping(begin)
        except BaseException:
            self.close()
            raise
        self.start_seconds = time.perf_counter() - begin

    def _await_ping(self, begin: float) -> None:
        while time.perf_counter() < begin + _START_SECONDS and self._process.poll() is None:
            if self.ping() == 200:
                return
            time.sleep(0.01)
        raise SystemExit(f"{self.server.name} did not answer its ping:\n{self.log()}")

    def log(self) -> str:
        """Return the end of its output."""
        return (self.work / "log").read_text(errors="replace")[-3000:]

    def ping(self) -> int:
        """Return the status of a ping; 0 without a response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", self.server.ping)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    def processes(self) -> list[int]:
        """Return the ids of its processes, the oldest first."""
        found, children = [self._process.pid], _children()
        for process in found:
            found += children.get(process, [])
        return found

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of its processes so far."""
        total = 0.0
        for process in self.processes():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
                total += (int(fields[11]) + int(fields[12])) / TICK
        return total

    def megabytes(self) -> float:
        """Return the memory of its processes in MB; shared pages count once (PSS)."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total / 1024

    def kill_worker(self) -> None:
        """Kill the process that computes, the first one's oldest child, with SIGKILL."""
        os.kill(self.processes()[1], signal.SIGKILL)

    def close(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(20)


def _environment(python: str, kind: str, model: Path, cpus: int, work: Path) -> dict[str, str]:
    own = {
        "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(work),
        "TMPDIR": str(work),  # the Java servers leave a file with their process id
        "PYTHONPATH": f"{SOURCE}{os.pathsep}{HERE}",
        "BENCHMARK_MODEL": str(model),
        "BENCHMARK_KIND": kind,
        "BENCHMARK_CPUS": str(cpus),
        "OMP_NUM_THREADS": "1",
        "BENTOML_DO_NOT_TRACK": "true",
    }
    return own


def _children() -> dict[int, list[int]]:
    """Return process id → its children, oldest first."""
    children: dict[int, list[int]] = {}
    for entry in sorted(int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(entry)
    return children


def _free_port() -> int:
    """Return a port below 32,768 with two free ports after it, as the Java servers need."""
    for port in range(20_000 + os.getpid() % 1000 * 10, 32_000, 10):
        with contextlib.ExitStack() as stack:
            try:
                for one in (port, port + 1, port + 2):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", one))
            except OSError:
                continue
            return port
    raise SystemExit("no free port")


def start_client(
    port: int, clients: int, seconds: float, path: str, photos: Path | None, retry: float = 0.05
) -> subprocess.Popen[str]:
    """Start the client in its own process; `finding` reads its result."""
    words = [sys.executable, str(HERE / "client.py"), "--port", str(port), "--path", path]
    words += ["--clients", str(clients), "--seconds", str(seconds), "--retry", str(retry)]
    words += ["--photos", str(photos)] if photos else []
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def finding(client: subprocess.Popen[str]) -> dict[str, object]:
    """Return a client's result."""
    output, _ = client.communicate()
    if client.returncode:
        raise SystemExit("the client failed")
    return dict(json.loads(output))


@contextmanager
def half_open(port: int, count: int) -> Iterator[None]:
    """Return `count` connections that have sent half of a request's head and stay silent."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            connection.sendall(b"POST /invocations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-")
        yield
