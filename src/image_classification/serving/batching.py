"""The micro-batcher: one thread owns the device and runs the waiting requests as one batch.

While a batch runs, requests gather; together they are the next batch. In it, bulk requests
(`scheduling`) queue as if they had arrived a quarter of a second later. An idle device starts at
once. If requests gathered for the last batch, the next one waits to reach the same size, for at
most a quarter of a run. Batches are padded to powers of two, so that the device sees few shapes and
has run each of them before the first request.
"""

import itertools
import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from image_classification.errors import RequestError
from image_classification.samples import FloatArray, UInt8Array
from image_classification.serving.observation import RequestRecord, current_request
from image_classification.serving.runtime import BoundRun, Runtime

_WAIT_SHARE = 0.25
_BULK_LATER = 0.25  # seconds: a bulk request queues as if it had arrived this much later
_BULK_PIECES = 4  # of a batch, so that one fits next to small requests


@dataclass(order=True)
class _Waiting:
    """Images of one request on their way through a batch; in the order in which they run."""

    order: float
    number: int
    images: UInt8Array = field(compare=False)
    record: RequestRecord = field(compare=False)
    since: float = field(compare=False)
    result: Future[FloatArray] = field(default_factory=Future, compare=False)

    @property
    def is_end(self) -> bool:
        """Whether it tells the thread to end."""
        return self.order == float("inf")


class Batcher:
    """A graph whose `run`, called by many threads, becomes fewer runs of larger batches.

    Args:
        runtime: the session; from now on only the batcher's thread runs it.
        image_shape: height, width, channels of one image.
        max_batch: images in the largest batch.

    Raises:
        DeviceError: the device cannot run one of the batch sizes.
    """

    def __init__(self, runtime: Runtime, image_shape: tuple[int, int, int], max_batch: int) -> None:
        self.providers = runtime.providers
        self._shape, self._max_batch = image_shape, max_batch
        self._waiting: queue.PriorityQueue[_Waiting] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._last_size, self._last_seconds = 1, 0.0
        self._runs: dict[int, BoundRun] = {}
        warmed: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._own_device, args=(runtime, warmed), name="batcher", daemon=True
        )
        self._thread.start()
        warmed.result()

    def run(self, images: UInt8Array) -> FloatArray:
        """Return probabilities, float32 (N, classes), of uint8 N·H·W·C images, of any N."""
        record, now = current_request(), time.monotonic()
        size, order = self._max_batch, now
        if record.is_bulk:
            size, order = max(1, self._max_batch // _BULK_PIECES), now + _BULK_LATER
        pieces = [
            _Waiting(order, next(self._numbers), images[start : start + size], record, now)
            for start in range(0, len(images), size)
        ]
        for piece in pieces:
            self._waiting.put(piece)
        results = [piece.result.result() for piece in pieces]
        return results[0] if len(results) == 1 else np.concatenate(results)

    def close(self) -> None:
        """Run the waiting requests, then end the thread."""
        nothing = np.empty((0, *self._shape), np.uint8)
        end = _Waiting(float("inf"), next(self._numbers), nothing, current_request(), 0.0)
        self._waiting.put(end)
        self._thread.join()

    def _own_device(self, runtime: Runtime, warmed: Future[None]) -> None:
        try:
            for size in self._sizes():
                self._runs[size] = runtime.bound((size, *self._shape))
                self._runs[size].run(np.zeros((size, *self._shape), np.uint8))
            warmed.set_result(None)
        except Exception as error:
            warmed.set_exception(error)
            return
        while True:
            first = self._waiting.get()
            if first.is_end:
                return
            self._run_batch(self._gather(first))

    def _sizes(self) -> list[int]:
        sizes = [1 << power for power in range(self._max_batch.bit_length())]
        return sizes if sizes[-1] >= self._max_batch else [*sizes, 2 * sizes[-1]]

    def _gather(self, first: _Waiting) -> list[_Waiting]:
        """Return the next batch; a request that does not fit into it waits for another one."""
        batch, count = [first], len(first.images)
        patience = time.monotonic() + _WAIT_SHARE * self._last_seconds
        while count < self._max_batch:
            wait = patience - time.monotonic() if 1 < count < self._last_size else 0.0
            try:
                following = self._waiting.get(wait > 0, wait or None)
            except queue.Empty:
                break
            if following.is_end or count + len(following.images) > self._max_batch:
                self._waiting.put(following)
                break
            batch.append(following)
            count += len(following.images)
        return batch

    def _run_batch(self, gathered: list[_Waiting]) -> None:
        batch = [waiting for waiting in gathered if _is_wanted(waiting)]
        if not batch:
            return
        start = time.monotonic()
        count = sum(len(waiting.images) for waiting in batch)
        size = next(size for size in self._sizes() if size >= count)
        try:
            images = np.zeros((size, *self._shape), np.uint8)
            np.concatenate([waiting.images for waiting in batch], out=images[:count])
            probabilities = self._runs[size].run(images)
        except Exception as error:
            for waiting in batch:
                waiting.result.set_exception(error)
            return
        self._last_size, self._last_seconds = count, time.monotonic() - start
        done = 0
        for waiting in batch:
            waiting.record.waited(start - waiting.since)
            waiting.record.took_part(count)
            waiting.result.set_result(probabilities[done : done + len(waiting.images)])
            done += len(waiting.images)


def _is_wanted(waiting: _Waiting) -> bool:
    """Whether a client still waits for it; if not, refuse its request."""
    try:
        waiting.record.refuse_if_abandoned()
    except RequestError as error:
        waiting.result.set_exception(error)
        return False
    return True
