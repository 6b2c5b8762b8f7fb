"""One connection: what has arrived, what is still to be sent, and until when that may take."""

from __future__ import annotations

import enum
import json
import socket
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from image_classification.serving.incoming import Received, RequestReader

_BYTES_PER_SECOND = 64 * 2**10  # a body that comes faster than this is never late
_RECEIVE_SIZE = 64 * 2**10  # a larger buffer is mapped and unmapped by malloc for each call


class Phase(enum.Enum):
    """What a connection waits for."""

    IDLE = "the first byte of a request"
    RECEIVING = "the rest of a request"
    WORKING = "the answer, from a thread"
    SENDING = "the caller to take the answer"
    LINGERING = "the caller to close after a refusal"


class Connection:
    """A caller's connection, as the main loop sees it; its socket never blocks.

    Attributes:
        phase: what it waits for.
        deadline: when (monotonic) waiting for that ends; none while WORKING.
        outgoing: bytes of the answer that the caller has not taken yet.
        closes: whether the connection ends with the present answer.
        held: bytes of request that count against the process's limit.
        watched: the events the main loop waits for; 0: none.
    """

    def __init__(self, sock: socket.socket, peer: Any, reader: RequestReader) -> None:
        sock.setblocking(False)
        self.socket, self.peer, self.reader = sock, peer, reader
        self.server = sock.getsockname()
        self.phase = Phase.IDLE
        self.deadline = float("inf")
        self.outgoing = b""
        self.closes = False
        self.held = 0
        self.watched = 0
        self.since = 0.0  # when its phase began

    def wait_for(self, phase: Phase, seconds: float) -> None:
        """Enter `phase`, for at most `seconds`."""
        self.phase = phase
        self.since = time.monotonic()
        self.deadline = self.since + seconds

    def receive(self) -> bytes | None:
        """What has arrived; b"" if the caller has closed, None if nothing came after all."""
        try:
            return self.socket.recv(_RECEIVE_SIZE)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""

    def take(self, data: bytes, read_timeout: float) -> Received | None:
        """The request that `data` completes; else the deadline for more of it is set.

        The head has `read_timeout` seconds from its first byte, the body as many from the head and
        one more for each 64 KiB that came.
        """
        had_head, had_begun = self.reader.has_head, self.phase is Phase.RECEIVING
        received = self.reader.take(data)
        if received is None and self.reader.has_begun:
            if not had_begun or self.reader.has_head != had_head:
                self.wait_for(Phase.RECEIVING, read_timeout)
            came = self.reader.buffered / _BYTES_PER_SECOND if self.reader.has_head else 0
            self.deadline = self.since + read_timeout + came
        return received

    def send(self, data: bytes = b"") -> bool:
        """Send what is outgoing, then `data`, as far as the caller takes it; False: it is gone."""
        self.outgoing += data
        try:
            while self.outgoing:
                self.outgoing = self.outgoing[self.socket.send(self.outgoing) :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            return False
        return True

    def is_gone(self) -> bool:
        """Whether the caller has closed its side; from any thread, without taking any bytes."""
        try:
            return not self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True

    def half_close(self) -> None:
        """Say that no more will be sent; an answer on its way still arrives."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the caller was quicker


def plain_answer(
    status: int, headers: Mapping[str, str], body: bytes, *, is_closing: bool, has_body: bool = True
) -> bytes:
    """An answer that the main loop gives by itself, without the application."""
    lines = [f"HTTP/1.1 {status} {_reason(status)}", "Server: gunicorn"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}", f"Connection: {_persistence(is_closing)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + (body if has_body else b"")


def refusal(status: int, message: str, *, is_closing: bool) -> bytes:
    """One line of JSON that says why; with Retry-After where the same request may pass later."""
    headers = {"Content-Type": "application/json"}
    if status == 503:
        headers["Retry-After"] = "1"
    body = json.dumps({"error": " ".join(message.split())}, ensure_ascii=False).encode()
    return plain_answer(status, headers, body, is_closing=is_closing)


def _reason(status: int) -> str:
    return "Client Closed Request" if status == 499 else HTTPStatus(status).phrase


def _persistence(is_closing: bool) -> str:
    return "close" if is_closing else "keep-alive"
