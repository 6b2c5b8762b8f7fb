"""One client's connection: receives requests, sends responses, and never waits for the client.

A client that is slow, silent or greedy costs a connection and the bytes it has sent, never a
thread. When connections, or memory for what they hold, run out, some close. Each wait has a usual
length: a head arrives in one piece, a body at a brisk rate. The connections that exceed their
length most close first, so an honest client is closed only if no other is slower. A connection
stays open while a thread works on its request and while it has unread bytes, so a client that sends
its request at once is always heard, however many others are silent.
"""

import enum
import heapq
import itertools
import math
import selectors
import socket
import struct
import time
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from typing import Any

from image_classification.serving.http import Request, RequestReader

RECEIVE_SIZE = 64 * 2**10
"""Bytes received at once while no more are known to come; a larger buffer costs each call more."""

LEAST_RATE = 64 * 2**10
"""Bytes per second: a client that sends a body or reads a response this fast is never late."""

BRISK_RATE = 2**20
"""Bytes per second: a client that sends a body or reads a response this fast is not overdue."""

_SHARE_AT_ONCE = 32  # one in so many: finding them takes a pass over all, 0.5 ms for 1,000
_LEAST_SLOW_SECONDS = 1.0  # as a refused client has to wait before it tries again
_LEAST_OVERDUE = 0.01  # of the usual length: a new client needs time to send
_MOST_RECEIVED = 256 * 2**10  # at once, of a body that still lacks this much
# How long waits usually last at most, see `most_overdue`.
_HEAD_SECONDS = 1.0
_RATE_SECONDS = 4.0  # of a body or an answer: those that trickle are not worse than idle clients
_KEEP_ALIVE_SECONDS = 10.0  # an answered client usually asks again sooner, if at all
_GONE_MILLISECONDS = 100
# tcpi_state, tcpi_last_data_sent, tcpi_last_data_recv and tcpi_last_ack_recv
_TCP_INFO = struct.Struct("=B43xI4x2I")
_TCP_CLOSE = 7


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
        phase: what it waits for.
        deadline: when (monotonic) waiting ends; infinity while WORKING.
        kept_up: when (monotonic) it last kept up with BRISK_RATE, if it has been silent since; a
            rate in between counts as silence of fewer seconds, see `moved`.
        outgoing: bytes of the answer that the client has not taken yet.
        closes: whether the connection ends after the current answer.
        held: bytes of request and answer that count against the limit of the process.
    """

    def __init__(self, sock: socket.socket, peer: Any, max_body: int) -> None:
        sock.setblocking(False)
        self.socket, self.peer = sock, peer
        self.reader = RequestReader(max_body)
        self.phase, self.kept_up, self.deadline = Phase.IDLE, 0.0, float("inf")
        self.outgoing = memoryview(b"")
        self.closes = False
        self.held = 0
        self._usual_idle = _HEAD_SECONDS
        self._begun: float | None = None  # when its request's head, then its body, began
        self._watched = 0  # the events the main loop waits for

    @cached_property
    def server(self) -> Any:
        """The server's address, as sockets name it."""
        return self.socket.getsockname()

    def wait_for(self, phase: Phase, seconds: float = float("inf")) -> None:
        """Enter `phase`, for at most `seconds`."""
        self.phase = phase
        self.kept_up = time.monotonic()
        self.deadline = self.kept_up + seconds

    def overdue(self, now: float) -> float:
        """Return how long it has been waited for, in usual lengths; 0 while it is worked on."""
        if self.phase is Phase.WORKING:
            return 0.0
        if self.phase is Phase.IDLE:
            usual = self._usual_idle
        elif self.phase is Phase.SENDING or self.reader.head is not None:
            usual = _RATE_SECONDS
        else:
            usual = _HEAD_SECONDS
        return (now - self.kept_up) / usual

    def moved(self, size: int, patience: float) -> None:
        """Note that `size` bytes of a body or an answer moved: no client is late at LEAST_RATE.

        A client that stops is late after `patience` seconds, however fast it was before. The rate
        of the last seconds, as a share of BRISK_RATE, falls by a factor of e in each second of
        silence; so 1/e of that rate is worth 1 s of silence, a sixteenth 2.8 s.
        """
        now = time.monotonic()
        self.deadline = min(now + patience, self.deadline + size / LEAST_RATE)
        rate = math.exp(self.kept_up - now) + size / BRISK_RATE  # of the last seconds
        self.kept_up = now + math.log(min(1.0, max(rate, 1e-99)))

    def receive(self) -> bytes | None:
        """Return received bytes: b"" if the client has closed, None if there are none yet."""
        try:
            missing = self.reader.missing or 0
            return self.socket.recv(min(max(missing, RECEIVE_SIZE), _MOST_RECEIVED))
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""

    def take(self, data: bytes, read_timeout: float) -> Request | None:
        """Return the request that `data` completes, or set the deadline for the rest of it.

        The head has `read_timeout` seconds from its first byte or from the first empty line before
        it, the body as many from the head on; see `moved`. A connection that has received only
        empty lines stays IDLE, and closes at the head's deadline.
        """
        reader, had_head = self.reader, self.reader.head is not None
        request = reader.take(data)
        if request is not None:
            self._begun = None
        elif had_head:
            self.moved(len(data), read_timeout)
        elif reader.has_begun or reader.has_empty_lines:
            if self._begun is None or reader.head is not None:
                self._begun = time.monotonic()
            deadline = self._begun + read_timeout
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
        """Send an answer, as much as the client takes; False if it has disconnected."""
        self.closes, self._usual_idle = closes, _KEEP_ALIVE_SECONDS
        self.outgoing = memoryview(bytes(self.outgoing) + data if self.outgoing else data)
        return self.send_rest()

    def send_rest(self) -> bool:
        """Send the rest of the answer, as much as the client takes; False if it is gone."""
        try:
            while self.outgoing:
                self.outgoing = self.outgoing[self.socket.send(self.outgoing) :]
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            self.outgoing = memoryview(b"")  # nobody takes it
            return False
        self.outgoing = memoryview(b"")  # the last view would keep the whole answer
        return True

    @property
    def is_sending(self) -> bool:
        """Whether the client has yet to take some of the answer; False if it is gone."""
        return bool(self.outgoing) and self.socket.fileno() >= 0

    def has_unread(self) -> bool:
        """Whether bytes of the request that is waited for have arrived, but were not received."""
        return self.phase in (Phase.IDLE, Phase.RECEIVING) and bool(self._peek())

    def has_more(self) -> bool:
        """Whether more than the current request has arrived; callable from any thread."""
        return self.reader.has_begun or bool(self._peek())

    def is_gone(self) -> bool:
        """Whether the client has given up its request; callable from any thread.

        A client that has closed its socket and one that only has nothing more to send differ in
        their reaction to an answer. Before an answer, only the time of the end of their data
        differs: it arrives with the request, or later, when a client gives up. The kernel knows
        both times, however late this process looks. A client that closes at once is answered in
        vain. If an earlier (pipelined) request was answered since the last request arrived, the
        reaction to that answer has shown which kind of client it is.
        """
        if self._peek() != b"":
            return False
        try:
            info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        except (OSError, AttributeError):  # AttributeError: not Linux
            return True
        state, since_answer, since_data, since_end = _TCP_INFO.unpack(info)  # milliseconds
        if since_answer < since_data:
            return bool(state == _TCP_CLOSE)
        return bool(state == _TCP_CLOSE or since_data - since_end > _GONE_MILLISECONDS)

    def _peek(self) -> bytes | None:
        """Return the next byte, unreceived: b"" if the client has closed, None if there is none."""
        try:
            return self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return b""

    def half_close(self) -> None:
        """Shut down sending; an answer in flight still arrives."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the client closed first

    def watch(self, selector: selectors.BaseSelector, events: int, callback: Any) -> None:
        """Make `selector` report these events from now on; 0 for none."""
        if events == self._watched:
            return
        if not events:
            selector.unregister(self.socket)
        elif self._watched:
            selector.modify(self.socket, events, callback)
        else:
            selector.register(self.socket, events, callback)
        self._watched = events


def most_overdue(waiting: Collection[Connection], now: float) -> list[Connection]:
    """Return the connections to close for new ones; none if none is overdue."""
    most = max(1, len(waiting) // _SHARE_AT_ONCE)
    worst = heapq.nlargest(2 * most + 2, waiting, key=lambda one: one.overdue(now))
    can_go = (one for one in worst if one.overdue(now) >= _LEAST_OVERDUE and not one.has_unread())
    return list(itertools.islice(can_go, most))


def slowest(waiting: Iterable[Connection], now: float, faster: float) -> Iterator[Connection]:
    """Yield the connections to end for their memory, the slowest first.

    Args:
        waiting: the connections.
        now: the time (monotonic).
        faster: since when the connection that needs the memory is slow; only slower ones go.
    """
    least = min(now - _LEAST_SLOW_SECONDS, faster)
    slow = [one for one in waiting if one.held and one.kept_up <= least and one.overdue(now)]
    yield from sorted(slow, key=lambda one: one.kept_up)
