"""Samples to batches: decode threads write into reused buffers, in an order no thread can change.

In: a `Source`. Out: `Batch`es of uint8 N·H·W·C. A step's buffer is filled by several tasks of a few
samples each; every sample has its slot, so it does not matter who finishes first. While the caller
works on one batch, the next ones are being filled.

    order ─► step: slots 0 … N−1 ─► tasks ─► threads ─► buffer ─► Batch ─► caller, then free again
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from image_classification.errors import AlgorithmError, DataError
from image_classification.images.augment import Augmentation, augment, draw_numbers
from image_classification.images.preprocessing import Preprocessing, preprocess
from image_classification.loading.bad_samples import BadSamples
from image_classification.loading.order import (
    balanced_order,
    epoch_order,
    rank_count,
    step_generator,
)
from image_classification.loading.sources import EndOfPass, Source
from image_classification.samples import Batch, IntArray, UInt8Array


@dataclass
class Step:
    """A batch in the making: its samples, its buffer and the tasks that fill it."""

    indices: IntArray
    buffer: UInt8Array
    numbers: npt.NDArray[np.void] | None
    tasks: list[Future[None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = len(self.indices)
        self.keys = [""] * count
        self.targets: list[int | UInt8Array] = [0] * count
        self.good = np.zeros(count, np.bool_)

    def batch(self) -> Batch:
        """The good samples; where some are bad, the others move up within the buffer."""
        slots = np.flatnonzero(self.good)
        if len(slots) < len(self.indices):
            self.buffer[: len(slots)] = self.buffer[slots]
        return Batch(
            images=self.buffer[: len(slots)],
            targets=_stacked([self.targets[slot] for slot in slots]),
            weights=np.ones(len(slots), np.float32),
            keys=tuple(self.keys[slot] for slot in slots),
        )


@dataclass(frozen=True)
class SlotFiller:
    """Reads, decodes and prepares single samples; called from the decode threads.

    Attributes:
        source: where samples come from.
        preprocessing: of evaluation.
        augmentation: random training transform; None prepares images as evaluation does.
        bad_samples: what to do about samples that cannot be used.
        key_prefix: before the keys of bad samples.
    """

    source: Source
    preprocessing: Preprocessing
    augmentation: Augmentation | None
    bad_samples: BadSamples
    key_prefix: str

    def fill(self, step: Step, slot: int) -> None:
        """Make slot `slot` of the step from its sample, or leave it out as a bad one.

        Raises:
            DataError: more bad samples than allowed.
        """
        index = int(step.indices[slot])
        sample = None
        try:
            sample = self.source.read(index)
            if step.numbers is None or self.augmentation is None:
                preprocess(sample.data, self.preprocessing, step.buffer[slot])
            else:
                numbers: Any = step.numbers[slot]
                augment(
                    sample.data, self.preprocessing, self.augmentation, numbers, step.buffer[slot]
                )
        except EndOfPass:
            return
        except DataError as error:
            reason = str(error)
        else:
            step.keys[slot] = sample.key
            step.targets[slot] = (
                sample.class_index if sample.multi_hot is None else sample.multi_hot
            )
            step.good[slot] = True
            return
        key = self.source.key(index) if sample is None else sample.key
        self.bad_samples.report(self.key_prefix + key, reason)


def _stacked(targets: list[int | UInt8Array]) -> npt.NDArray[Any]:
    """int64 (N,) of class indices, uint8 (N, classes) of multi-hot rows."""
    if targets and isinstance(targets[0], np.ndarray):
        return np.stack(targets)
    return np.array(targets, np.int64)


_TASK_SAMPLES = 8  # at most; a task costs about 30 µs of interpreter time, a sample 700 µs


class _Run:
    """One pass over an epoch: what is under way, and how to stop it."""

    def __init__(self, filler: SlotFiller) -> None:
        self.pending: deque[Step] = deque()
        self.stopped = threading.Event()
        self.filler = filler

    def stop(self) -> None:
        """Drop what has not begun and wait for the samples being decoded now (milliseconds)."""
        if self.stopped.is_set():
            return
        self.stopped.set()
        self.filler.source.interrupt()  # wakes the threads that wait for a sample
        tasks = [task for step in self.pending for task in step.tasks]
        wait([task for task in tasks if not task.cancel()])
        self.pending.clear()


class Loader:
    """Batches of a source, the same for the same (seed, epoch, rank) whatever the threads do.

    Holds `prefetch + 2` buffers of a batch each: one with the caller, one being handed over, the
    others being filled. Close it, or use it as a context manager, to end its threads.

    Args:
        source: where samples come from; the loader does not close it.
        preprocessing: of evaluation; also gives augmentation its size and resize.
        batch_size: samples of a batch; the last one of an epoch has the rest.
        augmentation: random training transform; None prepares images as evaluation does.
        shuffle: whether every epoch has an order of its own.
        balanced: whether that order has every class equally often.
        seed: of order and augmentation.
        rank, world_size: which part of every epoch is this process's.
        most_samples: of the rank that has most, where each has a source of its own.
        threads: how many decode; one carries about 400 photographs of 500×375 a second.
        prefetch: batches to fill ahead of the caller.
        bad_samples: what to do about samples that cannot be used; None fails at the first.
        key_prefix: before the keys of bad samples, to tell splits apart.

    Attributes:
        samples: how many were handed over in this epoch.
        wait_seconds: how long the caller had to wait for batches in this epoch.
        bad_samples: the bad samples so far.
    """

    def __init__(
        self,
        source: Source,
        preprocessing: Preprocessing,
        batch_size: int,
        *,
        augmentation: Augmentation | None = None,
        shuffle: bool = False,
        balanced: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        threads: int = 1,
        prefetch: int = 2,
        bad_samples: BadSamples | None = None,
        key_prefix: str = "",
        most_samples: int | None = None,
    ) -> None:
        self.source = source
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.shuffle = shuffle
        self.balanced = balanced
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.bad_samples = BadSamples() if bad_samples is None else bad_samples
        self.key_prefix = key_prefix
        self.most_samples = most_samples or rank_count(len(source), 0, world_size)
        self.samples = 0
        self.wait_seconds = 0.0
        self._task_samples = max(1, min(_TASK_SAMPLES, -(-batch_size // (2 * threads))))
        shape = (batch_size, preprocessing.height, preprocessing.width, preprocessing.channels)
        self._buffers = [np.empty(shape, np.uint8) for _ in range(prefetch + 2)]
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="loader")
        self._run: _Run | None = None

    @property
    def steps(self) -> int:
        """Batches of an epoch, the same on every rank; a short rank's last one may be empty."""
        return -(-self.most_samples // self.batch_size)

    def epoch(
        self, number: int, first_step: int = 0, *, shuffle: bool | None = None
    ) -> Generator[Batch, None, None]:
        """The batches of epoch `number` from `first_step` on, equal to those of a whole epoch.

        `shuffle` stands for the loader's own, for this epoch.
        A batch is valid until the next one is asked for. Bad samples are left out, so a batch may
        be shorter than `batch_size`, and empty if all its samples are bad. Beginning an epoch ends
        the one before it.

        Raises (while iterating):
            DataError: more bad samples than allowed.
        """
        if self._run is not None:
            self._run.stop()
        filler = SlotFiller(
            self.source, self.preprocessing, self.augmentation, self.bad_samples, self.key_prefix
        )
        self._run = run = _Run(filler)
        self.samples, self.wait_seconds = 0, 0.0
        order = self.order(number, self.rank, self.world_size, shuffle=shuffle)
        return self._batches(run, order, number, first_step)

    def order(
        self, epoch: int, rank: int, world_size: int, *, shuffle: bool | None = None
    ) -> IntArray:
        """Int64 indices of the samples that `rank` reads in an epoch; of a stream, of its places.

        Rank 0 of 1 reads them all, in the order in which the ranks of any world take turns.
        """
        place = (self.seed, epoch, rank, world_size)
        if self.balanced:
            return balanced_order(self.source.class_indices, *place)
        shuffle = self.shuffle if shuffle is None else shuffle
        shuffle = shuffle and self.source.is_countable  # a stream shuffles itself
        return epoch_order(len(self.source), *place, shuffle)

    def close(self) -> None:
        """End the threads; whatever they have begun is dropped."""
        if self._run is not None:
            self._run.stop()
        self._threads.shutdown(wait=True)

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _batches(
        self, run: _Run, order: IntArray, epoch: int, first_step: int
    ) -> Generator[Batch, None, None]:
        first = first_step * self.batch_size * self.world_size
        self.source.begin(epoch, first, self.rank, self.world_size)
        free: list[UInt8Array] = list(self._buffers)
        upcoming = iter(range(first_step, self.steps))
        try:
            while True:
                if run.stopped.is_set():
                    raise AlgorithmError("the loader was closed, or began another epoch, meanwhile")
                while free and (step := next(upcoming, None)) is not None:
                    self._begin(run, order, epoch, step, free.pop())
                if not run.pending:
                    self.source.finish()
                    return
                ready = self._finish(run)
                batch = ready.batch()
                self.samples += len(batch)
                yield batch
                free.append(ready.buffer)
        finally:
            run.stop()

    def _begin(
        self, run: _Run, order: IntArray, epoch: int, number: int, buffer: UInt8Array
    ) -> None:
        """Hand the samples of step `number` to the threads."""
        indices = order[number * self.batch_size : (number + 1) * self.batch_size]
        numbers = None
        if self.augmentation is not None:
            generator = step_generator(self.seed, epoch, self.rank, number)
            numbers = draw_numbers(self.augmentation, generator, len(indices))
        step = Step(indices, buffer, numbers)
        run.pending.append(step)
        for start in range(0, len(indices), self._task_samples):
            slots = range(start, min(start + self._task_samples, len(indices)))
            step.tasks.append(self._threads.submit(self._fill, run, step, slots))

    def _fill(self, run: _Run, step: Step, slots: range) -> None:
        """Decode some slots of a step; runs in a thread."""
        for slot in slots:
            if run.stopped.is_set():
                return
            run.filler.fill(step, slot)

    def _finish(self, run: _Run) -> Step:
        """Wait for the oldest step; raise what any thread raised, also for a later step."""
        began = time.perf_counter()
        wait(run.pending[0].tasks, return_when=FIRST_EXCEPTION)
        self.wait_seconds += time.perf_counter() - began
        for step in run.pending:
            for task in step.tasks:
                if task.done():
                    task.result()
        return run.pending.popleft()
