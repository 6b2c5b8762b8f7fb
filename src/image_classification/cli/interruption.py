"""Ending on SIGTERM as on an interruption from the keyboard, so that nothing half-written stays."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """In this block SIGTERM (a container is stopped) raises KeyboardInterrupt in the main thread.

    Finished parts of a run with `--resume` stay, everything else is cleaned up; the exit code is
    that of an interruption.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        previous = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: whoever owns it decides
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
