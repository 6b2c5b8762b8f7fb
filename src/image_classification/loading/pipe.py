"""A named pipe (FIFO) as a byte stream that can be stopped and does not wait forever."""

import io
import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from image_classification.errors import ChannelError

PATIENCE_SECONDS = 600.0
"""How long a pipe may take to appear, and its writer to deliver the next byte."""
_POLL_SECONDS = 0.1
_BUFFER_BYTES = 1 << 20


class PassStopped(Exception):
    """The reader was told to stop before the end of the pass."""


def open_fifo(
    path: Path,
    is_stopped: Callable[[], bool],
    patience: float = PATIENCE_SECONDS,
    remedy: str = "check its writer",
) -> io.BufferedReader:
    """Open the FIFO at `path` once it exists. Closing it early is allowed and ends the pass.

    Args:
        path: of the FIFO.
        is_stopped: called ten times a second while there is nothing to read.
        patience: seconds without a byte after which it is an error.
        remedy: what that error advises.

    Raises:
        ChannelError: it does not appear, cannot be opened, or (while reading) delivers nothing.
        PassStopped: `is_stopped` returned True, here or while reading.
    """
    wait = _Wait(path, is_stopped, patience, remedy)
    deadline = time.monotonic() + patience
    while not path.exists():
        wait.once(deadline, "did not appear")
    try:
        # Without O_NONBLOCK, open() would wait for a writer and could not be stopped.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise ChannelError(f"{path}: the pipe cannot be opened: {error.strerror}") from error
    return io.BufferedReader(_Fifo(descriptor, wait), _BUFFER_BYTES)


class _Wait:
    def __init__(
        self, path: Path, is_stopped: Callable[[], bool], patience: float, remedy: str
    ) -> None:
        self.path, self.is_stopped, self.patience, self.remedy = path, is_stopped, patience, remedy

    def once(self, deadline: float, what: str) -> None:
        if self.is_stopped():
            raise PassStopped
        if time.monotonic() > deadline:
            raise ChannelError(f"{self.path} {what} for {self.patience:.0f} s: {self.remedy}")
        time.sleep(_POLL_SECONDS / 10)


class _Fifo(io.RawIOBase):
    def __init__(self, descriptor: int, wait: _Wait) -> None:
        self._descriptor, self._wait = descriptor, wait
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Wait for bytes; 0 when all writers have closed the pipe."""
        deadline = time.monotonic() + self._wait.patience
        # Linux reports a hang-up only after a writer has come and gone, so a FIFO that nobody has
        # opened yet is waited for and does not count as an empty one.
        while not self._poll.poll(_POLL_SECONDS * 1000):
            self._wait.once(deadline, "delivered nothing")
        if self._wait.is_stopped():
            raise PassStopped
        return os.readv(self._descriptor, [buffer])

    def close(self) -> None:
        """Close the FIFO; its writer then sees a broken pipe."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()
