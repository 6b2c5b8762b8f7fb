"""The account of a process: each request that it accepts is answered once, or counted as lost.

The first thread that claims a request answers it: the thread that works on it, or the main loop if
that thread hangs or the process ends. Memory that survives the process (`process_state`) counts the
request until its client has read the response or has disconnected.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from image_classification.serving.connection import Connection
from image_classification.serving.http import Request
from image_classification.serving.observation import READ_METHODS, RequestRecord
from image_classification.serving.process_state import SENDING, UNANSWERED, Place, ProcessState


@dataclass(eq=False)
class Work:
    """An accepted request on its way to an answer.

    Attributes:
        is_started: whether a thread works on it.
        place: where its client's socket is deposited while the user's code runs for it.
    """

    connection: Connection
    request: Request
    record: RequestRecord
    is_started: bool = False
    place: Place | None = None
    _claimed: threading.Lock = field(default_factory=threading.Lock)

    def claim(self) -> bool:
        """Whether the caller is the first to answer; then no other thread can answer."""
        is_first = self._claimed.acquire(blocking=False)
        if is_first and self.place is not None:
            self.place.clear()  # then the arbiter cannot answer either
        return is_first

    @property
    def is_claimed(self) -> bool:
        """Whether a thread has claimed it."""
        return self._claimed.locked()


class Account:
    """The accepted requests of a process. Threads call only `working`, `send` and `sent`.

    Args:
        state: where they are counted.
        deposits: whether to deposit the sockets of clients for whom a thread works.
    """

    def __init__(self, state: ProcessState, deposits: bool) -> None:
        self._state, self._deposits = state, deposits
        self._works: set[Work] = set()  # until their threads are done with them
        self._unsent: set[Work] = set()  # answers of which the clients have taken a part

    def __len__(self) -> int:
        """Return how many requests wait for a thread or occupy one."""
        return len(self._works)

    @property
    def lost(self) -> int:
        """How many requests would be lost if the process ended now."""
        return int(self._state.numbers[UNANSWERED])

    def accept(self, connection: Connection, request: Request, record: RequestRecord) -> Work:
        """Take a request into the account."""
        work = Work(connection, request, record)
        self._works.add(work)
        self._count(1)
        return work

    @contextmanager
    def working(self, work: Work) -> Iterator[None]:
        """Note that a thread works on the request while the block runs."""
        work.is_started = True
        if not self._deposits or work.record.method in READ_METHODS:
            yield
            return
        with self._state.depositing(work.connection.socket, work.record.id) as place:
            work.place = place
            if place is not None and work.is_claimed:  # before this thread had noted the place
                place.clear()
            try:
                yield
            finally:
                work.place = None

    def unanswered(self) -> list[Work]:
        """Return the requests that no thread has claimed."""
        return [work for work in self._works if not work.is_claimed]

    def done(self, work: Work) -> None:
        """Forget a request that its thread is done with."""
        self._works.discard(work)

    def send(self) -> None:
        """Note that the answer is given to the kernel next; call `sent` then.

        For most of that time the answer has been sent and the thread only waits to continue, so the
        request does not count as unanswered.
        """
        with self._state.counting:
            self._state.numbers[UNANSWERED] -= 1
            self._state.numbers[SENDING] += 1

    def sent(self, work: Work) -> bool:
        """Note that as much as possible of the answer has been sent; whether that is all of it.

        If the client has disconnected, that counts as all of it.
        """
        is_whole = not work.connection.is_sending
        with self._state.counting:
            self._state.numbers[SENDING] -= 1
            self._state.numbers[UNANSWERED] += not is_whole
        return is_whole

    def await_rest(self, work: Work) -> None:
        """Count a request as answered as soon as its client has taken the rest of the answer."""
        work.request = Request(work.request.head, b"")  # its body is not needed any more
        self._unsent.add(work)

    def review(self) -> None:
        """Count the requests whose clients have taken the rest of their answers by now."""
        whole = {work for work in self._unsent if not work.connection.is_sending}
        if whole:
            self._unsent -= whole
            self._count(-len(whole))

    def _count(self, change: int) -> None:
        with self._state.counting:
            self._state.numbers[UNANSWERED] += change
