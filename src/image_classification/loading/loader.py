"""Samples to batches: threads decode into reused buffers, in an order that no thread can change.

In: a `Source`. Out: `Batch`es of uint8 N·H·W·C. Every sample has its own slot in the buffer of its
batch, so it does not matter which thread finishes first. Several tasks of a few samples each fill
one buffer. While the caller works on one batch, the threads fill the next ones.

    order ─► slots 0 … N−1 ─► tasks ─► threads ─► buffer ─► Batch ─► caller, then free again
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any

import numpy as np

from image_classification.errors import OUT_OF_MEMORY, AlgorithmError, DataError
from image_classification.images.augment import Augmentation, augment, draw_numbers
from image_classification.images.preprocessing import Preprocessing, preprocess
from image_classification.loading import order as orders
from image_classification.loading.bad_samples import BadSamples
from image_classification.loading.sources import EndOfPass, Source
from image_classification.samples import Array, Batch, IntArray, Sample, StructuredArray, UInt8Array

_TASK_SAMPLES = 8  # at most; a task costs about 30 µs of interpreter time, a sample 700 µs


class Loader:
    """Batches of a source, the same for the same (seed, epoch, rank) whatever the threads do.

    Holds `prefetch + 2` buffers of one batch each: one with the caller, one being handed over, and
    the others being filled. Close it, or use it as a context manager, to end its threads.

    Args:
        source: the samples; the loader does not close it.
        preprocessing: of evaluation; augmentation takes its size and resize from it too.
        batch_size: samples per batch; the last batch of an epoch has the rest.
        augmentation: random training transform; None preprocesses images as evaluation does.
        shuffle: whether every epoch has its own order.
        balanced: whether that order has every class equally often.
        seed: of order and augmentation.
        rank, world_size: which share of every epoch this process reads.
        most_samples: samples of the largest rank, where each rank has its own source.
        threads: how many decode; one handles about 400 photographs of 500×375 a second.
        prefetch: batches to fill ahead of the caller.
        bad_samples: what to do with samples that cannot be used; None fails at the first.
        key_prefix: put before the keys of bad samples, to tell splits apart.

    Attributes:
        samples: how many this epoch has handed over so far.
        wait_seconds: how long the caller has waited for batches in this epoch.
        bad_samples: the bad samples so far.
        image_epochs: number of first epochs that read images; None for all epochs.
        feature_seconds: how long the engine has computed the last batch before it was handed over.
    """

    image_epochs: int | None = None
    feature_seconds: float = 0.0

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
        self.most_samples = most_samples or len(range(0, len(source), world_size))
        self.samples = 0
        self.wait_seconds = 0.0
        self._task_samples = max(1, min(_TASK_SAMPLES, -(-batch_size // (2 * threads))))
        shape = (batch_size, preprocessing.height, preprocessing.width, preprocessing.channels)
        self._buffers = [np.empty(shape, np.uint8) for _ in range(prefetch + 2)]
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="loader")
        self._pass: _Pass | None = None
        self._bad_indices: set[int] = set()

    @property
    def steps(self) -> int:
        """Batches per epoch, the same on every rank; the last one may be empty on a short rank."""
        return -(-self.most_samples // self.batch_size)

    def epoch(
        self,
        number: int,
        first_step: int = 0,
        *,
        shuffle: bool | None = None,
        must_stop: Callable[[], bool] = bool,  # noqa: ARG002  # for loaders of features
    ) -> Generator[Batch, None, None]:
        """Yield the batches of epoch `number` from `first_step` on, as in a whole epoch.

        A batch is valid until the next one is asked for. Bad samples are left out, so a batch may
        be shorter than `batch_size`, and is empty if all its samples are bad. Starting an epoch
        ends the one before it. `shuffle` overrides the loader's own order for this epoch.
        `must_stop` is asked by loaders that compute for long before their first batch.

        Raises (while iterating):
            DataError: more bad samples than allowed.
        """
        if self._pass is not None:
            self._pass.stop()
        self._pass = _Pass(self.source)
        self.samples, self.wait_seconds = 0, 0.0
        order = self.order(number, self.rank, self.world_size, shuffle=shuffle)
        return self._batches(self._pass, order, number, first_step)

    def order(
        self, epoch: int, rank: int, world_size: int, *, shuffle: bool | None = None
    ) -> IntArray:
        """The int64 indices of the samples that `rank` reads in `epoch`; positions of a stream.

        Rank 0 of 1 reads them all, in the order in which the ranks of any world take turns.
        """
        if self.balanced and shuffle is None:
            indices = self.source.class_indices
            return orders.balanced_order(indices, self.seed, epoch, rank, world_size)
        shuffle = self.shuffle if shuffle is None else shuffle
        shuffle = shuffle and self.source.is_countable  # a stream shuffles itself
        return orders.epoch_order(len(self.source), self.seed, epoch, rank, world_size, shuffle)

    def lost_classes(self) -> list[int]:
        """Return the class indices whose samples were all bad so far."""
        indices = self.source.class_indices
        if not self._bad_indices or not self.source.is_countable:
            return []
        bad = np.bincount(indices[sorted(self._bad_indices)], minlength=int(indices.max()) + 1)
        return [int(i) for i in np.flatnonzero((bad > 0) & (bad == np.bincount(indices)))]

    def preview(self, most: int) -> tuple[IntArray, UInt8Array]:
        """Return indices and images of the first batch: of its first and last samples, so that
        mixing gives them the same partners. Bad samples are left out; nothing is noted or changed.

        Args:
            most: images, an even number; there are fewer in a small batch, none of a stream.
        """
        if not self.source.is_countable:
            return np.zeros(0, np.int64), self._buffers[0][:0].copy()
        indices = self.order(0, self.rank, self.world_size)[: self.batch_size]
        numbers = None
        if self.augmentation is not None:
            generator = orders.step_generator(self.seed, 0, self.rank, 0)
            numbers = draw_numbers(self.augmentation, generator, len(indices))
        slots = np.arange(len(indices))
        if len(slots) > most:
            slots = np.concatenate([slots[: most // 2], slots[-(most // 2) :]])
        shown, images = [], []
        for slot in slots.tolist():
            out = np.empty(self._buffers[0].shape[1:], np.uint8)
            try:
                sample = self.source.read(int(indices[slot]))
                self._prepare(sample.data, None if numbers is None else numbers[slot], out)
            except (DataError, MemoryError):
                continue
            shown.append(int(indices[slot]))
            images.append(out)
        return np.array(shown, np.int64), np.array(images, np.uint8)

    def empty(self, count: int) -> Array:
        """Return `count` images of zeros, as those of a batch."""
        return np.zeros((count, *self._buffers[0].shape[1:]), np.uint8)

    def close(self) -> None:
        """End the threads; their unfinished work is dropped."""
        if self._pass is not None:
            self._pass.stop()
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
        self, current: _Pass, order: IntArray, epoch: int, first_step: int
    ) -> Generator[Batch, None, None]:
        first = first_step * self.batch_size * self.world_size
        self.source.begin(epoch, first, self.rank, self.world_size)
        free: list[UInt8Array] = list(self._buffers)
        upcoming = iter(range(first_step, self.steps))
        try:
            while True:
                if current.stopped.is_set():
                    raise AlgorithmError("the loader was closed or has started another epoch")
                while free and (step := next(upcoming, None)) is not None:
                    self._start(current, order, epoch, step, free.pop())
                if not current.pending:
                    self.source.finish()
                    return
                began = time.perf_counter()
                slots = current.next_finished()
                self.wait_seconds += time.perf_counter() - began
                batch = slots.batch()
                self.samples += len(batch)
                yield batch
                free.append(slots.buffer)
        finally:
            current.stop()

    def _start(
        self, current: _Pass, order: IntArray, epoch: int, step: int, buffer: UInt8Array
    ) -> None:
        """Hand the samples of one batch to the threads."""
        indices = order[step * self.batch_size : (step + 1) * self.batch_size]
        numbers = None
        if self.augmentation is not None:
            generator = orders.step_generator(self.seed, epoch, self.rank, step)
            numbers = draw_numbers(self.augmentation, generator, len(indices))
        slots = _Slots(indices, buffer, numbers)
        current.pending.append(slots)
        for start in range(0, len(indices), self._task_samples):
            task = range(start, min(start + self._task_samples, len(indices)))
            slots.tasks.append(self._threads.submit(self._fill, current, slots, task))

    def _fill(self, current: _Pass, slots: _Slots, task: range) -> None:
        for slot in task:
            if current.stopped.is_set():
                return
            self._fill_slot(slots, slot)

    def _fill_slot(self, slots: _Slots, slot: int) -> None:
        """Read, decode and preprocess one sample; one that cannot be used goes to `bad_samples`."""
        index, sample = int(slots.indices[slot]), None
        try:
            sample = self.source.read(index)
            numbers = None if slots.numbers is None else slots.numbers[slot]
            self._prepare(sample.data, numbers, slots.buffer[slot])
        except EndOfPass:
            return
        except DataError as error:
            reason = str(error)
        except MemoryError:
            reason = OUT_OF_MEMORY
        else:
            slots.put(slot, sample)
            return
        self._bad_indices.add(index)
        key = self.source.key(index) if sample is None else sample.key
        self.bad_samples.report(self.key_prefix + key, reason)

    def _prepare(self, data: bytes, numbers: Any, out: UInt8Array) -> None:
        """Decode and preprocess an encoded image into `out`."""
        if numbers is None or self.augmentation is None:
            preprocess(data, self.preprocessing, out)
        else:
            augment(data, self.preprocessing, self.augmentation, numbers, out)


class _Pass:
    """One pass over the source: the batches in the making, and how to stop it."""

    def __init__(self, source: Source) -> None:
        self.pending: deque[_Slots] = deque()
        self.stopped = threading.Event()
        self._source = source

    def next_finished(self) -> _Slots:
        """Wait for the oldest batch; raise what any thread raised, also for a later batch."""
        wait(self.pending[0].tasks, return_when=FIRST_EXCEPTION)
        for slots in self.pending:
            for task in slots.tasks:
                if task.done():
                    task.result()
        return self.pending.popleft()

    def stop(self) -> None:
        """Drop what has not started and wait for the samples being decoded now (milliseconds)."""
        if self.stopped.is_set():
            return
        self.stopped.set()
        self._source.interrupt()  # wakes the threads that wait for a sample
        tasks = [task for slots in self.pending for task in slots.tasks]
        wait([task for task in tasks if not task.cancel()])
        self.pending.clear()


class _Slots:
    """A batch in the making: its samples, its buffer and the tasks that fill it."""

    def __init__(
        self, indices: IntArray, buffer: UInt8Array, numbers: StructuredArray | None
    ) -> None:
        count = len(indices)
        self.indices, self.buffer, self.numbers = indices, buffer, numbers
        self.tasks: list[Future[None]] = []
        self._keys = [""] * count
        self._targets: list[int | UInt8Array] = [0] * count
        self._is_filled = np.zeros(count, np.bool_)

    def put(self, slot: int, sample: Sample) -> None:
        """Note the key and target of the sample whose pixels are in `slot`."""
        self._keys[slot] = sample.key
        row = sample.multi_hot
        self._targets[slot] = sample.class_index if row is None else row
        self._is_filled[slot] = True

    def batch(self) -> Batch:
        """The good samples; where some are bad, the others move up within the buffer."""
        good = np.flatnonzero(self._is_filled)
        if len(good) < len(self.indices):
            self.buffer[: len(good)] = self.buffer[good]
        targets = [self._targets[slot] for slot in good]
        has_rows = bool(targets) and isinstance(targets[0], np.ndarray)
        return Batch(
            images=self.buffer[: len(good)],
            targets=np.stack(targets) if has_rows else np.array(targets, np.int64),
            weights=np.ones(len(good), np.float32),
            keys=tuple(self._keys[slot] for slot in good),
            indices=self.indices[good],
        )
