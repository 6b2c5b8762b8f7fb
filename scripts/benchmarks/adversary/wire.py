"""Requests written by hand, and what comes back, on sockets."""

from __future__ import annotations

import contextlib
import re
import socket
import time

REFUSED, SILENT = 0, -1
"""In place of a status: the connection ended without an answer; nothing came in time."""

_STATUS = re.compile(rb"^HTTP/1\.[01] (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def post(
    body: bytes, content_type: str, path: str = "/invocations", lines: str = "", length: int = -1
) -> bytes:
    """Return a request; `lines` are more fields, each ending in CR LF."""
    size = len(body) if length < 0 else length
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {size}\r\n{lines}\r\n"
    ).encode() + body


def connect(port: int, timeout: float) -> socket.socket:
    """Return a connection to the server under attack."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def exchange(
    port: int, request: bytes, timeout: float, is_half_closed: bool = False
) -> tuple[int, bytes]:
    """Send bytes on a connection of their own; return (status, body) of the first answer.

    Args:
        port: of the server under attack.
        request: what is sent, whether it is a request or not.
        timeout: seconds for all of it.
        is_half_closed: whether the caller closes its direction once it has sent.
    """
    end = time.monotonic() + timeout
    try:
        with connect(port, timeout) as connection:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(request)
                if is_half_closed:
                    connection.shutdown(socket.SHUT_WR)
            return receive(connection, end)
    except TimeoutError:
        return SILENT, b""
    except OSError:
        return REFUSED, b""


def receive(connection: socket.socket, end: float) -> tuple[int, bytes]:
    """Return (status, body) of the next answer that comes before `end` (monotonic)."""
    data, answered = b"", SILENT  # or a status whose body does not come: the answer to HEAD
    while True:
        left = end - time.monotonic()
        if left <= 0:
            return answered, b""
        connection.settimeout(left)
        try:
            piece = connection.recv(1 << 16)
        except TimeoutError:
            return answered, b""
        except OSError:
            piece = b""
        data += piece
        while data.startswith(b"HTTP/1.1 100") and b"\r\n\r\n" in data:
            data = data.partition(b"\r\n\r\n")[2]
        head, found, body = data.partition(b"\r\n\r\n")
        status = _STATUS.match(head)
        if found and status:
            answered = int(status[1])
            length = _LENGTH.search(head + b"\r\n")
            size = int(length[1]) if length else 0
            if len(body) >= size:
                return int(status[1]), body[:size]
        if not piece:
            return (int(status[1]) if status and found else REFUSED), body


def counted(statuses: dict[int, int]) -> str:
    """Return how many answers had which status, in words."""
    names = {REFUSED: "closed without an answer", SILENT: "no answer"}
    return ", ".join(
        f"{count} × {names.get(status, status)}" for status, count in sorted(statuses.items())
    )
