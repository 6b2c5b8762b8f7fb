"""The connections of a process: deliver whole requests and send answers, within limits.

Runs in the worker's main loop, which never waits for a client. When connections or memory run out,
the slowest clients make room (`most_overdue`).
"""

import errno
import logging
import resource
import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from image_classification.contract import environment
from image_classification.errors import RequestError
from image_classification.serving.connection import (
    LEAST_RATE,
    RECEIVE_SIZE,
    Connection,
    Phase,
    most_overdue,
    slowest,
)
from image_classification.serving.http import CONTINUE, Head, Request
from image_classification.serving.refusals import refusal

_logger = logging.getLogger(__name__)

_SEND_SECONDS = 30.0
_NO_FILES_SECONDS = 0.01
_NOTE_SECONDS = 60.0
_RECEIVES = 4  # in one turn of the loop: a photograph rarely needs more, and others wait meanwhile
_MOST_CONNECTIONS = 1000
_RESERVED = 32

LINGER_SECONDS = 2.0
"""Time for a client to read its refusal, or to finish sending when the process ends."""


@dataclass(frozen=True)
class Limits:
    """What a process accepts from its clients.

    Attributes:
        connections: open at once.
        max_body: bytes of one body.
        body_memory: bytes of requests and answers that are held: of what has arrived, because a
            client that announces a body and is silent costs nothing.
        read_seconds: for a head to arrive, and for a body; see `Connection.take`.
        idle_seconds: a connection stays open between two requests.
    """

    connections: int
    max_body: int
    body_memory: int
    read_seconds: float
    idle_seconds: float

    def most_held(self, size: int) -> int:
        """Return how many bytes can be held together with a body of `size` bytes.

        Each body leaves twice its size to smaller ones, so large bodies that stop halfway fill no
        memory that an ordinary request needs. Two of the largest always fit.
        """
        least = min(self.body_memory, 2 * self.max_body)
        return max(least, self.body_memory - 2 * size)


def affordable_connections() -> int:
    """Return how many connections can be open: half of the open files; the rest is for models.

    The limit of files is raised as far as the process may, because many platforms set 1,024.
    """
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * _MOST_CONNECTIONS
    if files < wanted and files != resource.RLIM_INFINITY:
        raised = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, most))
            files = raised
        except (OSError, ValueError):
            pass  # a sandbox forbids it
    if files == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return min(_MOST_CONNECTIONS, max(2, files // 2))


def read_limits(body_memory: int, idle_seconds: float) -> Limits:
    """Return the limits that the environment and the system set, with these two."""
    return Limits(
        connections=affordable_connections(),
        max_body=environment.max_content_length(),
        body_memory=body_memory,
        read_seconds=environment.READ_TIMEOUT.read_integer(1),
        idle_seconds=idle_seconds,
    )


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
        # For pings, while a thread works for each of the other connections.
        self._reserved = min(_RESERVED, -(-limits.connections // 8))
        self._held = 0
        self._open: set[Connection] = set()
        self._next_note = 0.0  # when the next log line about too many can follow
        self._incomplete: set[Connection] = set()

    def __len__(self) -> int:
        return len(self._open)

    @property
    def incomplete(self) -> int:
        """The number of requests that have arrived in part."""
        return len(self._incomplete)

    def accept(self, listener: Any) -> bool:
        """Take a new connection if there is one, and what it has sent."""
        if not self.has_room():
            return False
        try:
            sock, peer = listener.accept()
        except OSError as error:  # no connection, or it has closed already
            if error.errno in (errno.EMFILE, errno.ENFILE) and not self._make_room():
                time.sleep(_NO_FILES_SECONDS)  # the listener would wake the loop at once
            return False
        if len(self._open) >= self._limits.connections:
            self._make_room()
        connection = Connection(sock, peer, self._limits.max_body)
        self._open.add(connection)
        connection.wait_for(Phase.IDLE, self._idle_seconds)
        self._receive(connection)
        return True

    def has_room(self) -> bool:
        """Whether another connection can be taken, perhaps in the place of one that is overdue."""
        return len(self._open) < self._limits.connections + self._reserved or bool(
            self._make_room()
        )

    def close_late(self) -> None:
        """End the connections whose time is up; incomplete requests get a 408."""
        now = time.monotonic()
        for connection in [c for c in self._open if c.deadline < now]:
            if connection.phase is Phase.RECEIVING:
                missing = "head" if connection.reader.head is None else "body"
                error = RequestError(
                    408,
                    f"the {missing} did not arrive in time: send it at once, a long body at "
                    f"{LEAST_RATE >> 10} KiB/s or faster",
                )
                self._refuse(connection, error)
            else:
                self._drop(connection)

    def refuse_incomplete(self, error: RequestError) -> None:
        """Refuse the requests that have arrived in part."""
        for connection in list(self._incomplete):
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
            if connection.phase is not Phase.SENDING:
                connection.wait_for(Phase.SENDING, _SEND_SECONDS)
                self._watch(connection, selectors.EVENT_WRITE)
                self._held += connection.hold(len(connection.outgoing))
                if self._held > self._limits.body_memory:
                    self._free_memory(time.monotonic(), self._limits.body_memory)
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
            before = len(connection.outgoing)
            is_open = connection.send_rest()
            connection.moved(before - len(connection.outgoing), _SEND_SECONDS)
            self.sent(connection, is_open)
        elif connection.phase is Phase.WORKING:  # its next request or its end: after the answer
            self._watch(connection, 0)
        else:
            self._receive(connection)

    def _receive(self, connection: Connection) -> None:
        for _ in range(_RECEIVES):
            data = connection.receive()
            if data is None:
                self._watch(connection, selectors.EVENT_READ)
                return
            if not data:
                self._end(connection)
                return
            if connection.phase is Phase.LINGERING:
                return
            self._advance(connection, data)
            if len(data) < RECEIVE_SIZE or connection.phase is not Phase.RECEIVING:
                return

    def _end(self, connection: Connection) -> None:
        """Close a connection whose client has closed its side."""
        reader = connection.reader
        if connection.phase is Phase.RECEIVING and reader.has_begun:
            missing = "head" if reader.head is None else "body"
            error = RequestError(400, f"the connection ended before the {missing} was complete")
            self._refuse(connection, error)  # the client can still read
        else:
            self._close(connection)

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
            self._incomplete.discard(connection)
            self._receiver.dispatch(connection, request)
            return
        if connection.phase is Phase.RECEIVING:
            self._incomplete.add(connection)
        if reader.wants_continue():
            connection.answer(CONTINUE, closes=False)
        self._watch(connection, selectors.EVENT_READ)

    def _hold(self, connection: Connection, size: int) -> None:
        self._held += connection.hold(size)
        limit = self._limits.most_held(size + (connection.reader.missing or 0))
        if self._held > limit and size:
            self._free_memory(connection.kept_up, limit)
            if self._held > limit:
                raise RequestError(
                    503,
                    f"the server already holds {limit >> 20} MiB of requests, its limit: send this "
                    "one again later",
                )

    def _make_room(self) -> int:
        """Close the connections that are most overdue; return how many."""
        going = most_overdue(self._open, time.monotonic())
        lacking, answer = "connections", b""
        for connection in going:
            if connection.phase is Phase.RECEIVING and connection.reader.head is None:
                # No request yet. Thousands may come at once: one answer for all, and no log line.
                error = _too_slow(lacking)
                answer = answer or refusal(error.status, error.message).to_bytes(is_closing=True)
                connection.answer(answer, closes=True)
                self._close(connection)
            else:
                self._give_up(connection, lacking, lingers=False)
        if going and time.monotonic() > self._next_note:
            self._next_note = time.monotonic() + _NOTE_SECONDS
            _logger.warning(
                "%s connections are open, which is the limit: new ones replace the slowest",
                len(self._open) + len(going),
            )
        return len(going)

    def _free_memory(self, faster: float, limit: int) -> None:
        """While more than `limit` bytes are held, end the slowest clients; see `slowest`."""
        for connection in slowest(self._open, time.monotonic(), faster):
            if self._held > limit:
                self._give_up(connection, "memory")

    def _give_up(self, connection: Connection, lacking: str, *, lingers: bool = True) -> None:
        """Refuse the request, or drop the answer, of a client that is too slow."""
        if connection.phase is Phase.RECEIVING:
            self._refuse(connection, _too_slow(lacking), lingers=lingers)
        else:
            self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        """Close a connection; a response that is cut off leaves a log line."""
        if connection.phase is Phase.SENDING:
            left = len(connection.outgoing)
            _logger.warning("A client read its response too slowly, closed: %s bytes left", left)
        self._close(connection)

    def _refuse(self, connection: Connection, error: RequestError, *, lingers: bool = True) -> None:
        """Answer a request that did not arrive whole; nothing after it can be read."""
        data = refusal(error.status, error.message).to_bytes(is_closing=True)
        self._receiver.note_refusal(connection, error, len(data))
        connection.reader.forget()
        self._incomplete.discard(connection)
        self._held += connection.hold(0)
        if lingers:
            self.answer(connection, data, closes=True)
        else:
            connection.answer(data, closes=True)
            self._close(connection)

    def _watch(self, connection: Connection, events: int) -> None:
        connection.watch(self._selector, events, partial(self._on_event, connection))

    def _close(self, connection: Connection) -> None:
        self._watch(connection, 0)
        self._held += connection.hold(0)
        self._open.discard(connection)
        self._incomplete.discard(connection)
        connection.socket.close()


def _too_slow(lacking: str) -> RequestError:
    return RequestError(
        503, f"the server has no {lacking} left for a client this slow: send the request again"
    )
