"""Whether this process can answer: what a ping rests on, and why the process must be replaced."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_logger = logging.getLogger(__name__)


class Health:
    """The state of one server process; it only ever goes from sound to faulty."""

    def __init__(self) -> None:
        self._fault: str | None = None
        self._is_device_lost = False
        self._running: dict[int, float] = {}  # thread → when its run began

    @property
    def fault(self) -> str | None:
        """Why the process can no longer answer, in one line; None while it can."""
        return self._fault

    @property
    def is_device_lost(self) -> bool:
        """Whether a new process on the same machine would fail too: a GPU that has fallen out."""
        return self._is_device_lost

    @property
    def ping_status(self) -> int:
        """The HTTP status of a ping: 200, or 503 from the first fault on."""
        return 503 if self._fault else 200

    def fail(self, reason: str, *, is_device_lost: bool = False) -> None:
        """The process cannot go on: `reason` is logged, and the worker ends it."""
        if self._fault is None:
            _logger.error("this process cannot answer any more: %s", reason)
        self._is_device_lost |= is_device_lost
        self._fault = self._fault or reason

    @contextmanager
    def running(self) -> Iterator[None]:
        """A run of a graph or of the user's code, which may run the graph in turn.

        One that never ends is a fault that nobody else would see.
        """
        thread = threading.get_ident()
        if thread in self._running:  # the outer run is watched already
            yield
            return
        self._running[thread] = time.monotonic()
        try:
            yield
        finally:
            del self._running[thread]

    def longest_run(self) -> float:
        """Seconds that the oldest of the current runs has lasted; 0 without one."""
        now = time.monotonic()
        return now - min(list(self._running.values()), default=now)
