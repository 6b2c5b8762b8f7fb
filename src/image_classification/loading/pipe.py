"""Samples out of a pipe, one pass after the other: nothing is known before it is read.

In: a function that opens the next pass. Out: samples by their position in the pass. A thread reads
ahead, shuffles within a bounded buffer and hands samples over in an order that depends on the
stream and the seed alone; `read` waits for its position. Memory: the shuffle buffer and 64 images.

    pipe ─► reader thread ─► shuffle buffer ─► ready: position → sample ─► loader's threads
"""

from __future__ import annotations

import io
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from image_classification.errors import ChannelError, DataError
from image_classification.loading.sources import EndOfPass, Source
from image_classification.records.format import ImageRecord
from image_classification.samples import IntArray, Sample

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


OpenPass = Callable[[int, Callable[[], bool]], Iterator[ImageRecord]]
"""(number of the pass, whether to stop) → its records; see `fifo` and `record_stream`."""

_READY = 64  # samples ready to be taken: enough for the threads of a loader
_CLOSING_SECONDS = 5.0  # a writer that has delivered everything closes at once
_log = logging.getLogger(__name__)


class StreamSource(Source):
    """`count` samples of each pass of a pipe.

    `begin` starts a pass and `read` gives its samples by position; positions may be asked for from
    several threads, in about rising order. Samples beyond `count` are left out, and positions that
    a short pass has no sample for are `EndOfPass`; both are reported once.

    Args:
        name: the channel's.
        count: samples of a pass, as the job announces them.
        open_pass: opens pass 0, 1, …; each is opened once.
        seed: of the order.
        shuffle_bytes: encoded bytes that are held to be shuffled; 0 keeps the pipe's order.
        should_stop: asked while the pipe delivers nothing; True ends the pass.

    Attributes:
        class_indices: int64 (0,): no class is known beforehand.
        multi_hot: None, likewise.
    """

    def __init__(
        self,
        name: str,
        count: int,
        open_pass: OpenPass,
        *,
        seed: int = 0,
        shuffle_bytes: int = 0,
        is_multi_label: bool = False,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.name = name
        self._should_stop = should_stop
        self.class_indices: IntArray = np.empty(0, np.int64)
        self._count, self._open_pass, self._seed = count, open_pass, seed
        self._shuffle_bytes, self._is_multi_label = shuffle_bytes, is_multi_label
        self._passes = 0
        self._change = threading.Condition()
        self._ready: dict[int, Sample] = {}
        self._is_stopped, self._is_over = True, True
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._warned = False

    is_countable = False

    def __len__(self) -> int:
        return self._count

    def key(self, index: int) -> str:
        """The place in the pass; `read` gives a sample its own key."""
        return f"{self.name}, image {index} of the pass"

    def begin(self, epoch: int, first: int = 0, rank: int = 0, world_size: int = 1) -> None:
        """Open the next pass, for `epoch`.

        Args:
            epoch: from 0; gives the order a seed of its own.
            first: a multiple of `world_size`; positions below it will not be asked for.
            rank, world_size: positions rank, rank + world_size, … will be, others are not kept.
        """
        self.interrupt()
        self._ready.clear()
        self._is_stopped = self._is_over = False
        self._error = None
        self._thread = threading.Thread(
            target=self._read_pass,
            args=(self._passes, epoch, range(first + rank, self._count, world_size)),
            name="pipe",
            daemon=True,
        )
        self._passes += 1
        self._thread.start()

    def finish(self) -> None:
        """End a pass of which all samples were taken: its end is waited for, but not for long."""
        if self._thread is not None:
            self._thread.join(_CLOSING_SECONDS)
        self.interrupt()

    def interrupt(self) -> None:
        """End the pass, read to its end or not; returns when the pipe is closed."""
        with self._change:
            self._is_stopped = True
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def read(self, index: int) -> Sample:
        """The sample at position `index` of the pass, once.

        Raises:
            EndOfPass: the pass is over, or was ended, before it.
            ChannelError: the stream is damaged.
        """
        with self._change:
            while index not in self._ready:
                if self._error is not None:
                    raise self._error
                if self._is_over or self._is_stopped:
                    raise EndOfPass
                self._change.wait()
            sample = self._ready.pop(index)
            self._change.notify_all()
        return sample

    def close(self) -> None:
        """End the pass."""
        self.interrupt()

    def _read_pass(self, number: int, epoch: int, kept: range) -> None:
        """The reader thread."""
        found = 0
        try:
            records = self._open_pass(number, lambda: self._is_stopped or self._should_stop())
            for record in self._shuffled(records, epoch):
                if found == self._count:  # closing the pipe before its end is allowed
                    self._warn("more; the others are left out")
                    break
                if found in kept:
                    self._hand_over(found, self._sample(record))
                found += 1
            if not found:
                raise ChannelError(f"Unable to start training. Empty pipe in {self.name} channel")
            if found < self._count:
                self._warn(f"{found}; epochs are shorter")
        except PassStopped:
            pass
        except DataError as error:
            self._error = ChannelError(str(error))  # no bad sample: nothing behind it can be read
        except BaseException as error:  # raised again where samples are asked for
            self._error = error
        finally:
            with self._change:
                self._is_over = True
                self._change.notify_all()

    def _hand_over(self, position: int, sample: Sample) -> None:
        with self._change:
            while len(self._ready) >= _READY and not self._is_stopped:
                self._change.wait()
            if self._is_stopped:
                raise PassStopped
            self._ready[position] = sample
            self._change.notify_all()

    def _shuffled(self, records: Iterator[ImageRecord], epoch: int) -> Iterator[ImageRecord]:
        """A buffer is filled, then each record that comes takes the place of a random one."""
        generator = np.random.default_rng([self._seed, epoch])
        buffer: list[ImageRecord] = []
        held = 0
        for record in records:
            buffer.append(record)
            held += len(record.content)
            while held > self._shuffle_bytes:
                taken = _take(buffer, generator)
                held -= len(taken.content)
                yield taken
        while buffer:
            yield _take(buffer, generator)

    def _sample(self, record: ImageRecord) -> Sample:
        key, labels = f"{self.name}#{record.header.id}", record.header.labels
        if self._is_multi_label:
            return Sample(key, 0, record.content, np.array(labels, np.uint8))
        return Sample(key, int(labels[0]), record.content)

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "num_training_samples is %d, but the pipe of channel %s has %s",
                self._count,
                self.name,
                what,
            )


def _take(buffer: list[ImageRecord], generator: np.random.Generator) -> ImageRecord:
    """Remove a random record; the last one takes its place."""
    place = int(generator.integers(len(buffer)))
    buffer[place], buffer[-1] = buffer[-1], buffer[place]
    return buffer.pop()
