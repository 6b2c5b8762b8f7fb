"""The micro-batcher: its threads own the device and run the waiting requests as batches.

Each thread has buffers of its own. On a CPU there is one thread: while a batch runs, requests
gather, and together they are the next batch. An idle device starts at once. If requests gathered
for the last batch, the next one waits to reach the same size, for at most a quarter of a run.

On a GPU there are two threads, which take turns. While the device computes a batch, the other
thread assembles the next one and hands it over: as soon as it is full, or shortly before the device
is expected to end. So the device has its next batch before it ends the last one, whose requests are
answered meanwhile, and a batch is as large as it would be if it were made when the device is free.

In a batch, bulk requests (`scheduling`) queue as if they had arrived a quarter of a second later.
Batches are padded to powers of two, so that the device sees few shapes and has run each of them
before the first request.
"""

import heapq
import itertools
import logging
import math
import threading
import time
from collections.abc import Collection, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from image_classification.contract import environment
from image_classification.errors import RequestError
from image_classification.samples import FloatArray, UInt8Array
from image_classification.serving.admission import Plan
from image_classification.serving.graph_outputs import Outputs
from image_classification.serving.observation import RequestRecord, current_request
from image_classification.serving.runtime import BoundRun, Runtime

_WAIT_SHARE = 0.25
_BULK_LATER = 0.25  # seconds: a bulk request queues as if it had arrived this much later
_BULK_PIECES = 4  # of a batch, so that one fits next to small requests
_WAKE_SECONDS = 0.002  # to wake and to get Python's lock, whose holders give way after 1 ms

_logger = logging.getLogger(__name__)


@dataclass(order=True)
class _Waiting:
    """Images of one request on their way through a batch; in the order in which they run."""

    order: float
    number: int
    images: UInt8Array = field(compare=False)
    record: RequestRecord = field(compare=False)
    wanted: frozenset[str] = field(default=frozenset(), compare=False)  # outputs of the graph
    result: Future[Outputs] = field(default_factory=Future, compare=False)
    run: tuple[float, float] = field(default=(0.0, 0.0), compare=False)  # its begin and end


@dataclass(eq=False)
class _Buffers:
    """What one thread runs batches with: the host's memory, and a run for each batch size."""

    images: UInt8Array
    runs: dict[int, BoundRun]
    runtime: Runtime

    def run(self, images: UInt8Array, wanted: frozenset[str]) -> Outputs:
        """Run a batch of one of the sizes; with more outputs, not on buffers that stay."""
        if wanted:
            return self.runtime.run_outputs(images, wanted)
        return Outputs(self.runs[len(images)].run(images))


@dataclass(eq=False)
class _Batch:
    """A batch that a thread has handed, or is about to hand, to the device."""

    size: int
    since: float


def batch_sizes(max_batch: int) -> list[int]:
    """Return the sizes to which batches are padded: powers of two, the last ≥ `max_batch`."""
    sizes = [1 << power for power in range(max_batch.bit_length())]
    return sizes if sizes[-1] >= max_batch else [*sizes, 2 * sizes[-1]]


def batch_threads(image_shape: tuple[int, int, int], plan: Plan) -> int:
    """Return how many threads own the device: two on a GPU, if there is memory for two batches.

    ONNX Runtime supports CUDA graphs in one thread only.
    """
    if plan.gpu.has_cuda_graphs:
        return 1
    size = batch_sizes(plan.max_batch)[-1] * math.prod(image_shape)
    if 2 * size <= plan.batch_memory:
        return 2
    if plan.on_gpu:
        _logger.warning(
            "The GPU waits between batches: two of %d MiB do not fit into %d MiB; lower %s",
            size >> 20,
            plan.batch_memory >> 20,
            environment.MAX_BATCH_SIZE.name,
        )
    return 1


class Batcher:
    """A graph whose `run`, called by many threads, becomes fewer runs of larger batches.

    Args:
        runtime: the session; from now on only the batcher's threads run it.
        image_shape: height, width, channels of one image.
        max_batch: images in the largest batch.
        threads: 1, or 2 so that the device gets a batch while it computes another one.

    Raises:
        DeviceError: the device cannot run one of the batch sizes.
    """

    def __init__(
        self,
        runtime: Runtime,
        image_shape: tuple[int, int, int],
        max_batch: int,
        threads: int = 1,
    ) -> None:
        self.providers, self.outputs = runtime.providers, runtime.outputs
        self._shape, self._max_batch = image_shape, max_batch
        self._sizes = batch_sizes(max_batch)
        self._numbers = itertools.count()
        self._changed = threading.Condition()  # guards all that follows
        self._waiting: list[_Waiting] = []  # a heap
        self._images = 0  # that wait
        self._is_closed = False
        self._is_pipelined = threads > 1
        self._handed: list[_Batch] = []  # those that the device has not returned, in order
        self._ended = 0.0  # when the device returned the last one
        self._last_size, self._last_seconds = 1, 0.0
        self._seconds = dict.fromkeys(self._sizes, 0.0)  # that the device last took for a size
        self._handing_seconds = 0.0  # from the decision to run a batch until the device has it
        self._threads: list[threading.Thread] = []
        try:
            for _ in range(threads):
                self._start_thread(runtime)
        except Exception:
            self.close()
            raise

    def run(self, images: UInt8Array) -> FloatArray:
        """Return probabilities, float32 (N, classes), of uint8 N·H·W·C images, of any N."""
        return self.run_outputs(images, ()).probabilities

    def run_outputs(self, images: UInt8Array, wanted: Collection[str]) -> Outputs:
        """Return the probabilities and the wanted `outputs` of images, as `run` does."""
        record, now = current_request(), time.monotonic()
        size, order = self._max_batch, now
        if record.is_bulk:
            size, order = max(1, self._max_batch // _BULK_PIECES), now + _BULK_LATER
        pieces = [
            _Waiting(
                order, next(self._numbers), images[start : start + size], record, frozenset(wanted)
            )
            for start in range(0, len(images), size)
        ]
        for piece in pieces:
            self._put(piece)
        results = [piece.result.result() for piece in pieces]
        record.waited(_without_runs(now, (piece.run for piece in pieces)))
        return results[0] if len(results) == 1 else Outputs.joined(results)

    def close(self) -> None:
        """Run the waiting requests, then end the threads."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _start_thread(self, runtime: Runtime) -> None:
        """Start a thread, and wait until it has run each size.

        Not next to another one: cuDNN measures which algorithm is the fastest for a size.
        """
        ready: Future[None] = Future()
        thread = threading.Thread(
            target=self._own_device, args=(runtime, ready), name="batcher", daemon=True
        )
        self._threads.append(thread)
        thread.start()
        ready.result()

    def _put(self, piece: _Waiting) -> None:
        """Let a piece wait; wake a thread if there is something for it to decide."""
        with self._changed:
            enough = self._max_batch if self._is_pipelined else self._last_size
            before = self._images
            heapq.heappush(self._waiting, piece)
            self._images += len(piece.images)
            if not before or before < enough <= self._images:
                self._changed.notify()

    def _own_device(self, runtime: Runtime, ready: Future[None]) -> None:
        try:
            buffers = self._warm_up(runtime)
            ready.set_result(None)
        except Exception as error:
            ready.set_exception(error)
            return
        while (following := self._next_batch()) is not None:
            self._run_batch(buffers, *following)

    def _warm_up(self, runtime: Runtime) -> _Buffers:
        images = runtime.host_buffer((self._sizes[-1], *self._shape))
        runs = {}
        for size in self._sizes:
            runs[size] = runtime.bound((size, *self._shape))
            runs[size].run(images[:size])
        return _Buffers(images, runs, runtime)

    def _next_batch(self) -> tuple[_Batch, list[_Waiting]] | None:
        """Wait for the next batch, which is the device's from now on; None: there will be none."""
        with self._changed:
            began = float("inf")  # when something waited and this thread had nothing to do
            while True:
                now = time.monotonic()
                if self._waiting:
                    began = min(began, now)
                    wait = self._start(began) - now
                    if wait <= 0:
                        batch = _Batch(self._sizes[-1], now)
                        self._handed.append(batch)
                        gathered = self._gather()
                        if self._waiting:
                            self._changed.notify()  # the other thread has the next batch
                        return batch, gathered
                    self._changed.wait(wait)
                elif self._is_closed:
                    return None
                else:
                    began = float("inf")
                    self._changed.wait()

    def _start(self, began: float) -> float:
        """Return when (monotonic) to make a batch of what waits since `began`; with the lock."""
        if self._is_closed or self._images >= self._max_batch:
            return began
        if not self._is_pipelined:
            is_short = 1 < self._images < self._last_size
            return began + _WAIT_SHARE * self._last_seconds if is_short else began
        if not self._handed:
            return began
        first = self._handed[0]
        expected = max(first.since, self._ended) + self._seconds[first.size]
        return expected - self._handing_seconds - _WAKE_SECONDS

    def _gather(self) -> list[_Waiting]:
        """Return the next batch; a request that does not fit into it waits; with the lock."""
        batch: list[_Waiting] = []
        count = 0
        while self._waiting and (
            not batch or count + len(self._waiting[0].images) <= self._max_batch
        ):
            batch.append(heapq.heappop(self._waiting))
            count += len(batch[-1].images)
        self._images -= count
        return batch

    def _run_batch(self, buffers: _Buffers, batch: _Batch, gathered: list[_Waiting]) -> None:
        """Run what a client still waits for, and give each request its rows or the error."""
        decided = batch.since
        wanted = [waiting for waiting in gathered if _is_wanted(waiting)]
        count = sum(len(waiting.images) for waiting in wanted)
        if not count:
            self._returned(batch)
            return
        try:
            size = next(size for size in self._sizes if size >= count)
            images = buffers.images[:size]
            np.concatenate([waiting.images for waiting in wanted], out=images[:count])
            images[count:] = 0  # no image of another request
            with self._changed:
                batch.size, batch.since = size, time.monotonic()
                self._handing_seconds = batch.since - decided
            details = frozenset().union(*(waiting.wanted for waiting in wanted))
            found = buffers.run(images, details)
        except Exception as error:
            self._returned(batch)
            for waiting in wanted:
                waiting.result.set_exception(error)
            return
        run = self._returned(batch, count)
        done = 0
        for waiting in wanted:
            waiting.run = run
            waiting.record.took_part(count)
            part = slice(done, done + len(waiting.images))
            waiting.result.set_result(found.part(part, waiting.wanted))
            done += len(waiting.images)

    def _returned(self, batch: _Batch, count: int = 0) -> tuple[float, float]:
        """Note that the device is done with a batch, of `count` images; return begin and end."""
        with self._changed:
            began, now = max(batch.since, self._ended), time.monotonic()
            self._handed.remove(batch)
            if count:
                self._ended = now
                self._seconds[batch.size] = self._last_seconds = now - began
                self._last_size = count
            self._changed.notify()
        return began, now


def _without_runs(since: float, runs: Iterable[tuple[float, float]]) -> float:
    """Return the seconds from `since` until the last run ends in which none of the runs is on."""
    seconds = 0.0
    for began, ended in sorted(runs):
        seconds += max(0.0, began - since)
        since = max(since, ended)
    return seconds


def _is_wanted(waiting: _Waiting) -> bool:
    """Whether a client still waits for it; if not, refuse its request."""
    try:
        waiting.record.refuse_if_abandoned()
    except RequestError as error:
        waiting.result.set_exception(error)
        return False
    return True
