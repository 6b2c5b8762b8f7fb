"""A FIFO as a stream: one pass over a channel in Pipe mode, opened once and read to its end.

In: the path of a FIFO that the platform makes and fills, possibly later. Out: a buffered stream.
Nothing here blocks for longer than a poll, so that a run that stops early is not held up.
"""

from __future__ import annotations

import io
import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from image_classification.errors import ChannelError

PATIENCE_SECONDS = 600.0
"""How long a pass may take to appear, and its writer to deliver the next byte."""
_POLL_SECONDS = 0.1
_BUFFER_BYTES = 1 << 20


class PassStopped(Exception):
    """The reader was told to stop before the end of the pass."""


def open_fifo(
    path: Path, is_stopped: Callable[[], bool], patience: float = PATIENCE_SECONDS
) -> io.BufferedReader:
    """The stream of `path`; waits until it exists. Closing it early is allowed and ends the pass.

    Args:
        path: of the FIFO.
        is_stopped: asked ten times a second while there is nothing to read.
        patience: seconds without a byte after which it is an error.

    Raises:
        ChannelError: it does not appear, cannot be opened, or (while reading) delivers nothing.
        PassStopped: `is_stopped` said so, here or while reading.
    """
    deadline = time.monotonic() + patience
    while not path.exists():
        _wait(path, is_stopped, deadline, "did not appear")
    try:
        # Without O_NONBLOCK open() would wait for a writer and could not be stopped.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise ChannelError(f"{path}: the pipe cannot be opened: {error.strerror}") from error
    return io.BufferedReader(_Fifo(path, descriptor, is_stopped, patience), _BUFFER_BYTES)


class _Fifo(io.RawIOBase):
    def __init__(
        self, path: Path, descriptor: int, is_stopped: Callable[[], bool], patience: float
    ) -> None:
        self._path, self._descriptor = path, descriptor
        self._is_stopped, self._patience = is_stopped, patience
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Wait for bytes; 0 when all writers have closed it."""
        deadline = time.monotonic() + self._patience
        # Linux reports a hang-up only after a writer has come and gone, so a FIFO that nobody has
        # opened yet is waited for and not taken for an empty one.
        while not self._poll.poll(_POLL_SECONDS * 1000):
            _wait(self._path, self._is_stopped, deadline, "delivered nothing")
        if self._is_stopped():
            raise PassStopped
        return os.readv(self._descriptor, [buffer])

    def close(self) -> None:
        """Close the FIFO; its writer then sees a broken pipe."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def _wait(path: Path, is_stopped: Callable[[], bool], deadline: float, what: str) -> None:
    if is_stopped():
        raise PassStopped
    if time.monotonic() > deadline:
        raise ChannelError(
            f"{path} {what} for too long: is the channel in Pipe mode (TrainingInputMode=Pipe), "
            "and is there an object below its S3 prefix?"
        )
    time.sleep(_POLL_SECONDS / 10)
