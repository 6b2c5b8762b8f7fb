"""HTTP by hand, for clients that do what no HTTP library does."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests.contract.jobs import Answer, Server


class Client:
    """A connection to the server."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        self._answers = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> Answer:
        """Return the next response; status 0 if the server has closed the connection."""
        first = self._answers.readline()
        if not first:
            return Answer(0, b"")
        headers = {}
        while (line := self._answers.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        body = self._answers.read(int(headers.get("Content-Length", "0")))
        return Answer(int(first.split()[1]), body, headers)

    def is_closed(self) -> bool:
        """Return whether the server has closed the connection, after reading what it sent."""
        try:
            return self._answers.read() == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._answers.close()
        self.socket.close()


@contextmanager
def connected(server: Server) -> Iterator[Client]:
    client = Client(server)
    try:
        yield client
    finally:
        client.close()


def request(body: bytes = b"", *, length: int | None = None, lines: str = "") -> bytes:
    """Return an invocation; `length` and `lines` (each ending in CR LF) make it invalid."""
    announced = len(body) if length is None else length
    return (
        "POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
        f"Content-Length: {announced}\r\n{lines}\r\n"
    ).encode() + body


def chunked_head(lines: str = "") -> bytes:
    """Return the head of an invocation with chunked encoding."""
    return (
        "POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
        f"Transfer-Encoding: chunked\r\n{lines}\r\n"
    ).encode()
