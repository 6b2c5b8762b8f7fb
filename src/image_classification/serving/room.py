"""Which connections close when connections, or memory for what they hold, run out.

Each wait has a usual length: a head arrives in one piece, a body at a brisk rate. The connections
that exceed their length most close first, so an honest client is closed only if no other is slower.
A connection stays open while a thread works on its request and while it has unread bytes, so a
client that sends its request at once is always heard, however many others are silent.
"""

import heapq
import itertools
from collections.abc import Collection, Iterable, Iterator
from typing import Protocol, TypeVar

BRISK_RATE = 2**20
"""Bytes per second: a client that sends a body or reads a response this fast is not overdue."""

_SHARE_AT_ONCE = 32  # one in so many: finding them takes a pass over all, 0.5 ms for 1,000
_LEAST_SLOW_SECONDS = 1.0  # as a refused client has to wait before it tries again
_LEAST_OVERDUE = 0.01  # of the usual length: a new client needs time to send


class Waiting(Protocol):
    """A connection, as far as this module knows it."""

    held: int  # bytes of its request or answer
    kept_up: float

    def overdue(self, now: float) -> float:
        """Return how long it has been waited for, in usual lengths; 0 while it is worked on."""

    def has_unread(self) -> bool:
        """Whether bytes of it have arrived that were not read yet."""


W = TypeVar("W", bound=Waiting)


def most_overdue(waiting: Collection[W], now: float) -> list[W]:
    """Return the connections to close for new ones; none if none is overdue."""
    most = max(1, len(waiting) // _SHARE_AT_ONCE)
    worst = heapq.nlargest(2 * most + 2, waiting, key=lambda one: one.overdue(now))
    can_go = (one for one in worst if one.overdue(now) >= _LEAST_OVERDUE and not one.has_unread())
    return list(itertools.islice(can_go, most))


def slowest(waiting: Iterable[W], now: float, faster: float) -> Iterator[W]:
    """Yield the connections to end for their memory, the slowest first.

    Args:
        waiting: the connections.
        now: the time (monotonic).
        faster: since when the connection that needs the memory is slow; only slower ones go.
    """
    least = min(now - _LEAST_SLOW_SECONDS, faster)
    slow = [one for one in waiting if one.held and one.kept_up <= least and one.overdue(now)]
    yield from sorted(slow, key=lambda one: one.kept_up)
