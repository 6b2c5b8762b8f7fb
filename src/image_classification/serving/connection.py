"""The connections of a process: deliver whole requests, send answers, never wait for a client.

Runs in the worker's main loop. A client that is slow, silent or greedy costs a connection and the
bytes it has sent, never a thread.
"""

import enum
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from image_classification.errors import RequestError
from image_classification.serving.http import CONTINUE, Head, Request, RequestReader
from image_classification.serving.refusals import refusal

_BYTES_PER_SECOND = 64 * 2**10  # a body that arrives faster than this is never late
_RECEIVE_SIZE = 64 * 2**10  # a larger buffer is mapped and unmapped by malloc for each call
_SEND_SECONDS = 30.0

LINGER_SECONDS = 2.0
"""Time for a client to read its refusal, or to finish sending when the process ends."""


class Phase(enum.Enum):
    """What a connection waits for."""

    IDLE = "the first byte of a request"
    RECEIVING = "the rest of a request"
    WORKING = "the answer, from a thread"
    SENDING = "the client to take the answer"
    LINGERING = "the client to close after a refusal"


class Connection:
    """A client's connection; its socket never blocks.

    Attributes:
        phase: what it waits for, since the time `since`.
        deadline: when (monotonic) waiting ends; infinity while WORKING.
        outgoing: bytes of the answer that the client has not taken yet.
        closes: whether the connection ends after the current answer.
        held: bytes of request that count against the limit of the process.
    """

    def __init__(self, sock: socket.socket, peer: Any, max_body: int) -> None:
        sock.setblocking(False)
        self.socket, self.peer, self.server = sock, peer, sock.getsockname()
        self.reader = RequestReader(max_body)
        self.phase, self.since, self.deadline = Phase.IDLE, 0.0, float("inf")
        self.outgoing = b""
        self.closes = False
        self.held = 0
        self._begun: float | None = None  # when its request's head, then its body, began
        self._watched = 0  # the events the main loop waits for

    def wait_for(self, phase: Phase, seconds: float = float("inf")) -> None:
        """Enter `phase`, for at most `seconds`."""
        self.phase = phase
        self.since = time.monotonic()
        self.deadline = self.since + seconds

    def receive(self) -> bytes | None:
        """Return received bytes: b"" if the client has closed, None if there are none yet."""
        try:
            return self.socket.recv(_RECEIVE_SIZE)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""

    def take(self, data: bytes, read_timeout: float) -> Request | None:
        """Return the request that `data` completes, or set the deadline for the rest of it.

        The head has `read_timeout` seconds from its first byte or from the first empty line before
        it; the body gets as many again, plus one for each 64 KiB received. A connection that has
        received only empty lines stays IDLE, and closes at the head's deadline.
        """
        reader, had_head = self.reader, self.reader.head is not None
        request = reader.take(data)
        if request is not None:
            self._begun = None
        elif reader.has_begun or reader.has_empty_lines:
            has_head = reader.head is not None
            if self._begun is None or has_head != had_head:
                self._begun = time.monotonic()
            received = reader.buffered / _BYTES_PER_SECOND if has_head else 0
            deadline = self._begun + read_timeout + received
            if not reader.has_begun:
                deadline = min(deadline, self.deadline)
            elif self.phase is not Phase.RECEIVING:
                self.wait_for(Phase.RECEIVING)
            self.deadline = deadline
        return request

    def hold(self, size: int) -> int:
        """Count `size` bytes of request from now on; return how many more than before."""
        change, self.held = size - self.held, size
        return change

    def answer(self, data: bytes, *, closes: bool) -> bool:
        """Send an answer, as far as the client takes it; False if it is gone."""
        self.closes = closes
        self.outgoing += data
        return self.send_rest()

    def send_rest(self) -> bool:
        """Send the rest of the answer, as far as the client takes it; False if it is gone."""
        try:
            while self.outgoing:
                self.outgoing = self.outgoing[self.socket.send(self.outgoing) :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            return False
        return True

    @property
    def is_sending(self) -> bool:
        """Whether the client has yet to take some of the answer; False if it is gone."""
        return bool(self.outgoing) and self.socket.fileno() >= 0

    def is_gone(self) -> bool:
        """Whether the client has closed its side; callable from any thread, consumes no bytes."""
        try:
            return not self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True

    def half_close(self) -> None:
        """Shut down sending; an answer in flight still arrives."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the client closed first

    def watch(self, selector: selectors.BaseSelector, events: int, callback: Any) -> None:
        """Have `selector` report these events from now on; 0 for none."""
        if events == self._watched:
            return
        if not events:
            selector.unregister(self.socket)
        elif self._watched:
            selector.modify(self.socket, events, callback)
        else:
            selector.register(self.socket, events, callback)
        self._watched = events


@dataclass(frozen=True)
class Limits:
    """What a process accepts from its clients.

    Attributes:
        connections: open at once.
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


class Receiver(Protocol):
    """Receives whole requests; the worker implements it."""

    def admit(self, head: Head) -> None:
        """Raise a RequestError if a request with this head is refused before its body arrives."""

    def dispatch(self, connection: Connection, request: Request) -> None:
        """Answer with `Connections.answer`, now or later, in this thread.

        Another thread may send the answer by `Connection.answer`; this one then calls
        `Connections.sent`.
        """

    def note_refusal(self, connection: Connection, error: RequestError, sent_bytes: int) -> None:
        """Record the refusal of a request that did not arrive whole."""

    def defer(self, call: Callable[..., None], *arguments: Any) -> None:
        """Call a function in the next turn of the main loop."""


class Connections:
    """The connections of a process.

    Args:
        selector: waits for the sockets; the data of its keys is called with the socket.
        limits: what the process accepts from clients.
        receiver: gets the requests.
    """

    def __init__(
        self, selector: selectors.BaseSelector, limits: Limits, receiver: Receiver
    ) -> None:
        self._selector, self._limits, self._receiver = selector, limits, receiver
        self._idle_seconds = limits.idle_seconds
        self._held = 0
        self._open: set[Connection] = set()

    def __len__(self) -> int:
        return len(self._open)

    def accept(self, listener: Any) -> bool:
        """Take a new connection if there is one."""
        try:
            sock, peer = listener.accept()
        except OSError:  # none, or gone again
            return False
        connection = Connection(sock, peer, self._limits.max_body)
        self._open.add(connection)
        self._await_next(connection)
        return True

    def has_room(self) -> bool:
        """Whether another connection can be taken; the one that is idle longest makes room."""
        if len(self._open) < self._limits.connections:
            return True
        idle = [c for c in self._open if c.phase is Phase.IDLE]
        if idle:
            self._close(min(idle, key=lambda connection: connection.since))
        return bool(idle)

    def close_late(self) -> None:
        """End the connections whose time is up; incomplete requests get a 408."""
        now = time.monotonic()
        for connection in [c for c in self._open if c.deadline < now]:
            if connection.phase is Phase.RECEIVING:
                missing = "head" if connection.reader.head is None else "body"
                self._refuse(connection, RequestError(408, f"the {missing} did not arrive in time"))
            else:
                self._close(connection)

    def refuse_incomplete(self, error: RequestError) -> None:
        """Refuse the requests that have arrived in part."""
        for connection in [c for c in self._open if c.phase is Phase.RECEIVING]:
            self._refuse(connection, error)

    def let_go(self, idle_seconds: float) -> None:
        """From now on, keep connections open between two requests only for `idle_seconds`."""
        self._idle_seconds = idle_seconds
        for connection in self._open:
            if connection.phase is Phase.IDLE:
                connection.wait_for(Phase.IDLE, idle_seconds)

    def answer(self, connection: Connection, data: bytes, *, closes: bool) -> None:
        """Send an answer; `closes` if it is the last one of the connection."""
        self.sent(connection, connection.answer(data, closes=closes))

    def sent(self, connection: Connection, is_open: bool) -> None:
        """Continue after an answer: send its rest, close, or await the next request."""
        if not is_open:
            self._close(connection)
        elif connection.outgoing:
            connection.wait_for(Phase.SENDING, _SEND_SECONDS)
            self._watch(connection, selectors.EVENT_WRITE)
        elif connection.closes:
            self._held += connection.hold(0)
            connection.half_close()
            connection.wait_for(Phase.LINGERING, LINGER_SECONDS)
            self._watch(connection, selectors.EVENT_READ)
        else:
            self._held += connection.hold(0)
            self._await_next(connection)

    def _await_next(self, connection: Connection) -> None:
        """Wait for the connection's next request, some of which may be here already."""
        connection.wait_for(Phase.IDLE, self._idle_seconds)
        if connection.reader.has_begun:
            self._receiver.defer(self._advance, connection, b"")
        else:
            self._watch(connection, selectors.EVENT_READ)

    def _on_event(self, connection: Connection, _: Any) -> None:
        if connection.phase is Phase.SENDING:
            self.sent(connection, connection.send_rest())
            return
        if connection.phase is Phase.WORKING:  # its next request or its end: after the answer
            self._watch(connection, 0)
            return
        data = connection.receive()
        if data == b"":
            self._close(connection)
        elif data is not None and connection.phase is not Phase.LINGERING:
            self._advance(connection, data)

    def _advance(self, connection: Connection, data: bytes) -> None:
        """Add `data` to the connection's request; pass the request on if it is whole."""
        if connection not in self._open:  # closed since this call was deferred
            return
        reader, had_head = connection.reader, connection.reader.head is not None
        try:
            request = connection.take(data, self._limits.read_seconds)
            if reader.head is not None and not had_head:
                self._receiver.admit(reader.head)
            self._hold(connection, reader.buffered + (len(request.body) if request else 0))
        except RequestError as error:
            self._refuse(connection, error)
            return
        if request is not None:
            # Still watched: most clients send nothing before the answer, and to unregister and
            # register a socket for each request costs more than to look once in vain.
            connection.wait_for(Phase.WORKING)
            self._receiver.dispatch(connection, request)
            return
        if reader.wants_continue():
            connection.answer(CONTINUE, closes=False)
        self._watch(connection, selectors.EVENT_READ)

    def _hold(self, connection: Connection, size: int) -> None:
        self._held += connection.hold(size)
        limit = self._limits.body_memory
        if self._held > limit and size:
            raise RequestError(
                503,
                f"the server already holds {limit >> 20} MiB of requests, its limit: send it "
                "again later",
            )

    def _refuse(self, connection: Connection, error: RequestError) -> None:
        """Answer a request that did not arrive whole; nothing after it can be read."""
        data = refusal(error.status, error.message).to_bytes(is_closing=True)
        self._receiver.note_refusal(connection, error, len(data))
        connection.reader.forget()
        self.answer(connection, data, closes=True)

    def _watch(self, connection: Connection, events: int) -> None:
        connection.watch(self._selector, events, partial(self._on_event, connection))

    def _close(self, connection: Connection) -> None:
        self._watch(connection, 0)
        self._held += connection.hold(0)
        self._open.discard(connection)
        connection.socket.close()
