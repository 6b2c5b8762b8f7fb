"""A bounded closed-loop client: N connections, each with one request at a time, in one thread.

It runs beside the server it measures, on the same CPUs, so it does as little as can be: requests
are built once, answers are read up to their Content-Length and looked at no further than their
status. As a program it prints its findings as one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import re
import selectors
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_AT_ONCE = 8  # callers that begin before answers are looked at again
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


@dataclass
class Finding:
    """What one measurement saw.

    Attributes:
        wall: seconds.
        cpu: seconds of this client.
        latencies: seconds, of the answers with status 200.
        statuses: how many answers of each status; 0: the connection broke.
        longest_gap: seconds without any answer of status 200.
    """

    wall: float = 0.0
    cpu: float = 0.0
    latencies: list[float] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    longest_gap: float = 0.0

    def summary(self) -> dict[str, object]:
        """Return the figures for JSON: milliseconds and responses per second."""
        ordered = sorted(self.latencies)
        refused = sorted(self.refusals)
        return {
            "per_second": len(ordered) / self.wall if self.wall else 0.0,
            "answers": len(ordered),
            "p50_ms": _quantile(ordered, 0.5) * 1000,
            "p99_ms": _quantile(ordered, 0.99) * 1000,
            "refused_p99_ms": _quantile(refused, 0.99) * 1000,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "client_cpu": self.cpu,
            "longest_gap_ms": self.longest_gap * 1000,
        }


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class _Caller:
    """One connection and its current request."""

    def __init__(self, port: int, requests: list[bytes], number: int) -> None:
        self._address = ("127.0.0.1", port)
        self._requests, self._next = requests, number
        self.socket: socket.socket | None = None
        self._buffer = bytearray()
        self.started = 0.0

    def open(self) -> bool:
        """Connect; return False if nothing listens."""
        try:
            self.socket = socket.create_connection(self._address, 10)
        except OSError:
            return False
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return True

    def ask(self) -> bool:
        """Send the next request; return False if the connection is broken."""
        assert self.socket is not None
        self._buffer.clear()
        request = self._requests[self._next % len(self._requests)]
        self._next += 1
        self.started = time.perf_counter()
        try:
            self.socket.sendall(request)
        except OSError:
            return False
        return True

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def receive(self) -> tuple[int, bool] | None:
        """Return (status, whether the server closes) of a complete response; status 0: broken."""
        assert self.socket is not None
        try:
            data = self.socket.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            return 0, True
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or not self._is_whole(bytes(self._buffer[: end + 2]), end + 4):
            return None
        head = bytes(self._buffer[: end + 2])
        return int(head[9:12]), _CLOSES.search(head) is not None

    def _is_whole(self, head: bytes, start: int) -> bool:
        length = _LENGTH.search(head)
        if length:
            return len(self._buffer) >= start + int(length[1])
        return not _CHUNKED.search(head) or self._buffer.endswith(b"0\r\n\r\n")


def drive(
    port: int, requests: list[bytes], clients: int, seconds: float, retry: float = 0.05
) -> Finding:
    """Keep `clients` requests under way for `seconds`.

    A caller that is refused asks again after a while; one whose connection ended opens another.

    Args:
        port: on 127.0.0.1.
        requests: whole HTTP/1.1 requests, sent in turn.
        clients: connections.
        seconds: how long.
        retry: seconds.
    """
    finding = Finding()
    poller = selectors.DefaultSelector()
    callers = [_Caller(port, requests, number) for number in range(clients)]
    resting: dict[_Caller, float] = dict.fromkeys(callers, 0.0)
    begin, cpu = time.perf_counter(), time.process_time()
    end, last = begin + seconds, begin
    while (now := time.perf_counter()) < end:
        for caller in [c for c, until in resting.items() if until <= now][:_AT_ONCE]:
            if _start(caller, poller):
                del resting[caller]
            else:
                finding.statuses[0] = finding.statuses.get(0, 0) + 1
                resting[caller] = now + retry
        for key, _ in poller.select(
            max(0.0, min([end - now, *(u - now for u in resting.values())]))
        ):
            caller = key.data
            answer = caller.receive()
            if answer is None:
                continue
            status, closes = answer
            came = time.perf_counter()
            finding.statuses[status] = finding.statuses.get(status, 0) + 1
            if status == 200:
                finding.latencies.append(came - caller.started)
                finding.longest_gap, last = max(finding.longest_gap, came - last), came
            elif status:
                finding.refusals.append(came - caller.started)
            if closes or status != 200 or not caller.ask():
                poller.unregister(caller.socket)
                if closes or status == 0:
                    caller.close()
                resting[caller] = came if status == 200 else came + retry
    finding.wall = time.perf_counter() - begin
    finding.cpu = time.process_time() - cpu
    finding.longest_gap = max(finding.longest_gap, time.perf_counter() - last)
    for caller in callers:
        caller.close()
    return finding


def _start(caller: _Caller, poller: selectors.BaseSelector) -> bool:
    if caller.socket is None and not caller.open():
        return False
    if not caller.ask():
        caller.close()
        return False
    poller.register(caller.socket, selectors.EVENT_READ, caller)
    return True


def invocation(path: str, body: bytes, content_type: str = "image/jpeg") -> bytes:
    """Return the bytes of a request for a prediction."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--retry", type=float, default=0.05)
    parser.add_argument("--path", default="/invocations")
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs; none: GET")
    args = parser.parse_args()
    if args.photos is None:
        requests = [f"GET {args.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()]
    else:
        files = sorted(args.photos.glob("*.jpg"))
        requests = [invocation(args.path, file.read_bytes()) for file in files]
    finding = drive(args.port, requests, args.clients, args.seconds, args.retry)
    json.dump(finding.summary(), sys.stdout)


if __name__ == "__main__":
    main()
