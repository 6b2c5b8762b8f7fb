"""How many requests are worked on at once, and what guards each run of the graph.

On a CPU, one thread more than there are CPUs shares one session: batches gain nothing there. The
one more runs where another waits for Python's lock or for the main loop (measured on two CPUs, 16
clients: with two threads 0.88 of what bare processes do, with three 0.94, with four 0.95). On a
GPU one thread owns the device and runs what waits as one batch (`batching`), while further threads
decode. One process by default: the threads leave Python's lock for decoding and for the graph, and
a second process is a second copy of the model.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from image_classification.contract import environment
from image_classification.errors import DeviceError, UserError
from image_classification.images.header import ImageHeader
from image_classification.samples import FloatArray, UInt8Array
from image_classification.serving.health import Health
from image_classification.serving.observation import current_request
from image_classification.serving.prediction import Graph

BYTES_PER_PIXEL = 16
"""What decoding costs at most, seen with a transparent WEBP; a PNG takes 7."""

_FREE_PIXELS = 8 << 20  # what a thread's own memory in the plan is enough for
_JPEG_SHARE = 4  # libjpeg-turbo writes 3 bytes a pixel and keeps nothing else


class PixelGate:
    """Bounds the pixels of large pictures that are decoded at once, first come first served.

    Pictures of up to 8 megapixels, and baseline JPEGs of up to 32, never wait here.

    Args:
        limit: pixels; a picture that has more is decoded while no other large one is.
    """

    def __init__(self, limit: int) -> None:
        self._limit = max(1, limit)
        self._used = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def decoding(self, header: ImageHeader) -> Iterator[None]:
        """Wait until the picture of `header` may be decoded; its place is free after the block.

        What it waits counts as queueing of the thread's current request.
        """
        pixels = header.width * header.height
        if header.format == "JPEG" and not header.is_progressive:
            pixels //= _JPEG_SHARE
        if pixels <= _FREE_PIXELS:
            yield
            return
        pixels = min(pixels, self._limit)
        self._enter(pixels)
        try:
            yield
        finally:
            with self._changed:
                self._used -= pixels
                self._changed.notify_all()

    def _enter(self, pixels: int) -> None:
        place, start = object(), time.monotonic()
        with self._changed:
            self._waiting.append(place)
            self._changed.wait_for(
                lambda: self._waiting[0] is place and self._used + pixels <= self._limit
            )
            self._waiting.popleft()
            self._used += pixels
            self._changed.notify_all()  # the next one may fit beside it
        current_request().queue_ms += (time.monotonic() - start) * 1000


_BASE_MEMORY = 200 * 2**20  # with a model of 20 MB; measured under load: 122–146 MB
_MEMORY_PER_THREAD = 64 * 2**20  # a photograph of 12 megapixels being decoded and resized
_LARGEST_BODY_SHARE = 512 * 2**20
_LARGEST_DECODING_SHARE = 2**30  # of bytes, for images above what a thread's memory is for


@dataclass(frozen=True)
class Plan:
    """How a server process works.

    Attributes:
        processes: server processes.
        threads: requests a process works on at once.
        queue_size: received requests that may wait in a process beside them.
        body_memory: bytes of request bodies a process holds at most.
        large_pixels: of large images that a process decodes at once, see `pixel_gate`.
        timeout: seconds after which a waiting request is given up.
        max_batch: largest batch; 1 without batching.
    """

    processes: int
    threads: int
    queue_size: int
    body_memory: int
    large_pixels: int
    timeout: int
    max_batch: int

    def __str__(self) -> str:
        """For the line at the start."""
        batches = f"batches of up to {self.max_batch}" if self.max_batch > 1 else "no batches"
        return (
            f"{self.processes} process(es) of {self.threads} threads, {batches}, "
            f"a queue of {self.queue_size}, {self.body_memory >> 20} MiB for bodies"
        )


def choose_plan(cpus: int, limit: int) -> Plan:
    """The plan for a machine and the environment's settings.

    Args:
        cpus: CPUs that all processes may use.
        limit: bytes of memory that all processes may use.

    Raises:
        UserError: a setting is malformed.
    """
    processes = environment.SERVER_WORKERS.read_integer(1)
    max_batch = environment.MAX_BATCH_SIZE.read_integer(1) if _is_batched() else 1
    is_multi_model = environment.IS_MULTI_MODEL.read_switch()
    if has_gpu() or is_multi_model:
        processes = 1  # one owner of the device; one holder of the loaded models
    if is_multi_model:
        max_batch = 1
    largest = environment.max_content_length()
    body_memory = max(2 * largest, min(_LARGEST_BODY_SHARE, limit // 8) // processes)
    decoding_memory = min(_LARGEST_DECODING_SHARE, limit // 8) // processes
    free = limit // processes - _BASE_MEMORY - body_memory - decoding_memory
    affordable = max(1, free // _MEMORY_PER_THREAD)
    threads = environment.SERVER_THREADS.read_integer(0)
    if not threads:
        threads = min(-(-cpus // processes) + 1, affordable)
        if max_batch > 1:
            threads += max_batch  # those that wait in a batch decode nothing meanwhile
    return Plan(
        processes=processes,
        threads=threads,
        queue_size=environment.QUEUE_SIZE.read_integer(0),
        body_memory=body_memory,
        large_pixels=decoding_memory // BYTES_PER_PIXEL,
        timeout=environment.SERVER_TIMEOUT.read_integer(1),
        max_batch=max_batch,
    )


def _is_batched() -> bool:
    setting = environment.BATCHING.read().strip().lower()
    if setting not in {"auto", "on", "off"}:
        raise UserError(f"{environment.BATCHING.name} must be auto, on or off, got {setting!r}")
    return has_gpu() if setting == "auto" else setting == "on"


def has_gpu() -> bool:
    """Whether there is an NVIDIA device and a runtime for it; asks neither, so that it may fork."""
    try:
        version("onnxruntime-gpu")
    except PackageNotFoundError:
        return False
    return any(Path("/dev").glob("nvidia[0-9]*"))


class GuardedGraph:
    """A graph whose runs are counted in the request's record, watched, and given up in time.

    Args:
        graph: executes the runs.
        health: told when the device fails, and asked how long a run lasts.
    """

    def __init__(self, graph: Graph, health: Health) -> None:
        self._graph, self._health = graph, health
        self.providers = graph.providers

    def run(self, images: UInt8Array) -> FloatArray:
        """Probabilities, float32 (N, classes), of uint8 N·H·W·C images.

        Raises:
            RequestError: nobody waits for the answer any more (499, 503).
            DeviceError: the runtime failed; the process is unhealthy from now on.
        """
        record = current_request()
        record.refuse_if_abandoned()
        start, queued = time.monotonic(), record.queue_ms
        try:
            with self._health.running():
                probabilities = self._graph.run(images)
        except DeviceError as error:
            self._health.fail(str(error), is_device_lost="CUDAExecutionProvider" in self.providers)
            raise
        # What the run waited for its batch to begin is queueing, not computing.
        record.compute_ms += (time.monotonic() - start) * 1000 - (record.queue_ms - queued)
        record.images += len(images)
        record.batch_size = max(record.batch_size, len(images))
        return probabilities
