"""Ordinary callers and a platform's pings, in a separate process, while an attack runs.

As a program it asks until its standard input ends and prints what it saw as a line of JSON.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_PAUSE = 0.1  # seconds of a caller between an answer and its next request
_PING_PAUSE = 0.05
_PATIENCE = 30.0  # seconds without an answer until a caller gives up


@dataclass
class Seen:
    """What callers saw while a block ran; filled at its end.

    Attributes:
        posts: status → answers to predictions; 0: none.
        pings: status → answers to pings.
        post_ms, ping_ms: p50 and p99 of the answers, in milliseconds.
        bare_ms: p50 and p99 of pings to a bare server at the same time: what the machine takes.
        worst_ping_ms: the longest one.
    """

    posts: dict[int, int] = field(default_factory=dict)
    pings: dict[int, int] = field(default_factory=dict)
    post_ms: tuple[float, float] = (0.0, 0.0)
    ping_ms: tuple[float, float] = (0.0, 0.0)
    bare_ms: tuple[float, float] = (0.0, 0.0)
    worst_ping_ms: float = 0.0

    def add(self, other: Seen) -> None:
        """Count what another run of the same callers saw; the longer times stay."""
        for mine, theirs in ((self.posts, other.posts), (self.pings, other.pings)):
            for status, count in theirs.items():
                mine[status] = mine.get(status, 0) + count
        self.post_ms = max(self.post_ms, other.post_ms, key=lambda times: times[1])
        self.ping_ms = max(self.ping_ms, other.ping_ms, key=lambda times: times[1])
        self.bare_ms = max(self.bare_ms, other.bare_ms, key=lambda times: times[1])
        self.worst_ping_ms = max(self.worst_ping_ms, other.worst_ping_ms)

    def callers(self) -> str:
        """Describe the callers in words."""
        return (
            f"{self.posts.get(200, 0)} of {sum(self.posts.values())} clients answered"
            + _others(self.posts)
            + f", p50 {self.post_ms[0]:.0f} ms, p99 {self.post_ms[1]:.0f} ms"
        )

    def pinged(self) -> str:
        """Describe the pings in words."""
        return (
            f"{self.pings.get(200, 0)} of {sum(self.pings.values())} pings"
            + _others(self.pings)
            + f", p50 {self.ping_ms[0]:.1f} ms, p99 {self.ping_ms[1]:.1f} ms, "
            f"worst {self.worst_ping_ms:.0f} ms; of a bare server beside it p99 "
            f"{self.bare_ms[1]:.1f} ms"
        )


def _others(statuses: dict[int, int]) -> str:
    others = ", ".join(f"{count} × {status}" for status, count in statuses.items() if status != 200)
    return f" ({others})" if others else ""


@contextmanager
def ordinary_callers(
    port: int, photos: Path, clients: int = 3, path: str = "/invocations"
) -> Iterator[Seen]:
    """Run callers beside the block; what they saw is there when it ends."""
    seen = Seen()
    words = ["--port", str(port), "--photos", str(photos), "--clients", str(clients)]
    process = subprocess.Popen(
        [sys.executable, str(HERE / "ordinary.py"), *words, "--path", path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()  # they ask from now on
    try:
        yield seen
    finally:
        try:
            output, _ = process.communicate("", timeout=_PATIENCE + 15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
    found: dict[str, Any] = json.loads(output)
    seen.posts = {int(status): count for status, count in found["posts"].items()}
    seen.pings = {int(status): count for status, count in found["pings"].items()}
    seen.post_ms, seen.ping_ms = tuple(found["post_ms"]), tuple(found["ping_ms"])
    seen.bare_ms = tuple(found["bare_ms"])
    seen.worst_ping_ms = found["worst_ping_ms"]


class _Caller(threading.Thread):
    """Asks until it is stopped: predictions on one connection, or each ping on its own."""

    def __init__(
        self, port: int, path: str, bodies: list[bytes], pause: float, stop: threading.Event
    ) -> None:
        super().__init__()
        self._port, self._path, self._bodies = port, path, bodies
        self._pause, self._stop_asking = pause, stop
        self.statuses: Counter[int] = Counter()
        self.times: list[float] = []

    def run(self) -> None:
        connection = self._connect()
        number = 0
        while not self._stop_asking.is_set():
            begin = time.perf_counter()
            status = self._ask(connection, number)
            self.statuses[status] += 1
            if status == 200:
                self.times.append(1000 * (time.perf_counter() - begin))
            number += 1
            if not status or not self._bodies:
                connection.close()
                connection = self._connect()
            self._stop_asking.wait(self._pause)
        connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=_PATIENCE)

    def _ask(self, connection: http.client.HTTPConnection, number: int) -> int:
        try:
            if self._bodies:
                body = self._bodies[number % len(self._bodies)]
                connection.request("POST", self._path, body, {"Content-Type": "image/jpeg"})
            else:
                connection.request("GET", self._path)
            response = connection.getresponse()
            response.read()
            return response.status
        except (OSError, http.client.HTTPException):
            return 0


def _quantiles(times: list[float]) -> tuple[float, float]:
    ordered = sorted(times) or [0.0]
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--path", required=True)
    args = parser.parse_args()
    bodies = [path.read_bytes() for path in sorted(args.photos.glob("*.jpg"))]
    stop = threading.Event()
    bare = subprocess.Popen(
        [sys.executable, str(HERE / "bare.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert bare.stdout is not None
    floor = _Caller(int(bare.stdout.readline()), "/ping", [], _PING_PAUSE, stop)
    pinger = _Caller(args.port, "/ping", [], _PING_PAUSE, stop)
    callers = [_Caller(args.port, args.path, bodies, _PAUSE, stop) for _ in range(args.clients)]
    for caller in (pinger, floor, *callers):
        caller.start()
    print("asking", flush=True)
    sys.stdin.read()
    stop.set()
    for caller in (pinger, floor, *callers):
        caller.join()
    posts: Counter[int] = sum((caller.statuses for caller in callers), Counter())
    bare.communicate("")
    found = {
        "posts": posts,
        "pings": pinger.statuses,
        "post_ms": _quantiles([ms for caller in callers for ms in caller.times]),
        "ping_ms": _quantiles(pinger.times),
        "bare_ms": _quantiles(floor.times),
        "worst_ping_ms": max(pinger.times, default=0.0),
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
