"""The connections of a process: whole requests come out, answers go in, nobody is waited for.

Runs in the worker's main loop, on its poller. A caller who is slow, silent or too large costs a
connection and the bytes it has sent, never a thread.
"""

from __future__ import annotations

import enum
import json
import selectors
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from image_classification.errors import RequestError
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


_SEND_SECONDS = 30.0
LINGER_SECONDS = 2.0
"""For a caller to read its refusal, or to send what was on its way when the process ends."""


@dataclass(frozen=True)
class Limits:
    """What a process takes from its callers.

    Attributes:
        connections: at once.
        max_body: bytes of one body.
        body_memory: bytes of all requests that are held.
        read_seconds: for a head to arrive, and for a body; see `Connection.take`.
        idle_seconds: a connection stays open between two requests.
    """

    connections: int
    max_body: int
    body_memory: int
    read_seconds: float
    idle_seconds: float


class Front:
    """The connections of a process.

    Args:
        poller: waits for the sockets; its keys' data are called with the socket.
        config: gunicorn's configuration.
        limits: what is taken.
        on_head: called with the head of a request whose body is still to come; raises a
            RequestError where that body is not worth reading.
        on_request: called with a connection and its whole request; answers with `answer`, or later
            with `Connection.send` in another thread and `sent` in this one.
        on_refusal: told of a request that did not arrive as it should, and of its answer's size.
        defer: calls a function in the next turn of the loop.
    """

    def __init__(
        self,
        poller: selectors.BaseSelector,
        config: Any,
        limits: Limits,
        on_head: Callable[[Any], None],
        on_request: Callable[[Connection, Received], None],
        on_refusal: Callable[[Connection, RequestError, int], None],
        defer: Callable[..., None],
    ) -> None:
        self._poller, self._config, self._limits = poller, config, limits
        self._on_head, self._on_request = on_head, on_request
        self._on_refusal, self._defer = on_refusal, defer
        self._idle_seconds = limits.idle_seconds
        self._held = 0
        self.connections: set[Connection] = set()

    def accept(self, listener: Any) -> bool:
        """Take a new connection if there is one."""
        try:
            sock, peer = listener.accept()
        except OSError:  # none, or gone again
            return False
        connection = Connection(
            sock, peer, RequestReader(self._config, peer, self._limits.max_body)
        )
        self.connections.add(connection)
        self._next(connection)
        return True

    def has_room(self) -> bool:
        """Whether another connection can be taken; the one that idles longest makes room."""
        if len(self.connections) < self._limits.connections:
            return True
        idle = [c for c in self.connections if c.phase is Phase.IDLE]
        if idle:
            self._close(min(idle, key=lambda connection: connection.since))
        return bool(idle)

    def close_late(self) -> None:
        """End the connections whose time is up; a request that did not arrive is told so (408)."""
        now = time.monotonic()
        for connection in [c for c in self.connections if c.deadline < now]:
            if connection.phase is Phase.RECEIVING:
                part = "body" if connection.reader.has_head else "head"
                self._refuse(connection, RequestError(408, f"the {part} did not arrive in time"))
            else:
                self._close(connection)

    def let_go(self, idle_seconds: float) -> None:
        """From now on, connections between two requests stay open only for so long."""
        self._idle_seconds = idle_seconds
        for connection in self.connections:
            if connection.phase is Phase.IDLE:
                connection.wait_for(Phase.IDLE, idle_seconds)

    def set_aside(self, connection: Connection) -> None:
        """Another thread makes the answer."""
        connection.phase, connection.deadline = Phase.WORKING, float("inf")

    def answer(self, connection: Connection, data: bytes) -> None:
        """Send an answer; `connection.closes` says whether it is the last one."""
        self.sent(connection, connection.send(data))

    def sent(self, connection: Connection, is_open: bool) -> None:
        """Go on after an answer was sent as far as it goes: its rest, the end, the next one."""
        if not is_open:
            self._close(connection)
        elif connection.outgoing:
            connection.wait_for(Phase.SENDING, _SEND_SECONDS)
            self._watch(connection, selectors.EVENT_WRITE)
        elif connection.closes:
            self._release(connection)
            connection.half_close()
            connection.wait_for(Phase.LINGERING, LINGER_SECONDS)
            self._watch(connection, selectors.EVENT_READ)
        else:
            self._release(connection)
            self._next(connection)

    def _next(self, connection: Connection) -> None:
        """Wait for the connection's next request, some of which may be here already."""
        connection.wait_for(Phase.IDLE, self._idle_seconds)
        if connection.reader.has_begun:
            self._defer(self._advance, connection, b"")
        else:
            self._watch(connection, selectors.EVENT_READ)

    def _on_event(self, connection: Connection, _: Any) -> None:
        if connection.phase is Phase.SENDING:
            self.sent(connection, connection.send())
            return
        if connection.phase is Phase.WORKING:  # its next request, or its end: after the answer
            self._watch(connection, 0)
            return
        data = connection.receive()
        if data == b"":
            self._close(connection)
        elif data is not None and connection.phase is not Phase.LINGERING:
            self._advance(connection, data)

    def _advance(self, connection: Connection, data: bytes) -> None:
        """Put `data` to what the connection has sent; hand the request over if it is whole."""
        if connection not in self.connections:  # closed since this call was deferred
            return
        had_head = connection.reader.has_head
        try:
            received = connection.take(data, self._limits.read_seconds)
            if connection.reader.has_head and not had_head:
                self._on_head(connection.reader.head)
            body = len(received.body) if received else 0
            self._hold(connection, connection.reader.buffered + body)
        except RequestError as error:
            self._refuse(connection, error)
            return
        if received is not None:
            # Still watched: most callers send nothing before the answer, and to unregister and
            # register a socket for each request costs more than to look once in vain.
            self._on_request(connection, received)
            return
        if connection.reader.wants_continue():
            connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._watch(connection, selectors.EVENT_READ)

    def _hold(self, connection: Connection, size: int) -> None:
        self._held += size - connection.held
        connection.held = size
        limit = self._limits.body_memory
        if self._held > limit and size:
            raise RequestError(
                503,
                f"{limit // 2**20} MiB of requests are held, which is the limit: send it later",
            )

    def _refuse(self, connection: Connection, error: RequestError) -> None:
        """Answer a request that did not arrive as it should; nothing after it can be read."""
        connection.closes = True
        data = refusal(error.status, error.message, is_closing=True)
        self._on_refusal(connection, error, len(data))
        connection.reader.forget()
        self.answer(connection, data)

    def _watch(self, connection: Connection, events: int) -> None:
        if events == connection.watched:
            return
        callback = partial(self._on_event, connection)
        if not events:
            self._poller.unregister(connection.socket)
        elif connection.watched:
            self._poller.modify(connection.socket, events, callback)
        else:
            self._poller.register(connection.socket, events, callback)
        connection.watched = events

    def _release(self, connection: Connection) -> None:
        self._held -= connection.held
        connection.held = 0

    def _close(self, connection: Connection) -> None:
        self._watch(connection, 0)
        self._release(connection)
        self.connections.discard(connection)
        connection.socket.close()
