"""How many requests a process works on at once, and with how much memory.

On a CPU, one thread more than there are CPUs shares one session: batches gain nothing there. The
extra one runs while another waits for Python's lock or for the main loop (measured on two CPUs, 16
clients: two threads answer 0.88 of what bare processes do, three 0.94, four 0.95). On a GPU two
threads own the device and run the waiting requests as batches (`batching`), while further
threads decode. One process by default: decoding and the graph release Python's lock, and a second
process is a second copy of the model.
"""

import ctypes
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from image_classification.contract import environment
from image_classification.errors import UserError, counted
from image_classification.images.price import picture_limits

THREAD_MEMORY = 64 * 2**20
"""What each thread has for the plain JPEG that it decodes: 45 megapixels that shrink while decoded.

A JPEG that takes more uses the memory for decoding."""

_BASE_MEMORY = 160 * 2**20  # with a model of 20 MB; measured under load: 122–146 MB
_MEMORY_PER_DECODER = 32 * 2**20  # without an image: measured 5 MB of its own, and what it keeps
_LEAST_DECODING_MEMORY = 48 * 2**20
_ALLOCATOR_MEMORY = 16 * 2**20
_LARGEST_BODY_SHARE = 512 * 2**20
_LEAST_ANSWER = 8 * 2**20
_LARGEST_BULK_SHARE = 512 * 2**20  # 10,000 images × 1,000 classes take 150 MB of JSON
_LARGEST_DECODING_SHARE = 2**30
_LARGEST_BATCH_SHARE = 256 * 2**20  # two batches of 890 images of 224 px

_MOST_PROCESSES, _MOST_THREADS = 256, 1000  # of a setting: with more, a start would never end


@dataclass(frozen=True)
class GpuSettings:
    """How a GPU runs the graph; each of them is faster on some GPUs, and off by default.

    Attributes:
        is_half: in float16, except for the head.
        prefers_nhwc: with the channels of a pixel together.
        has_cuda_graphs: as a CUDA graph for each size of a batch.
    """

    is_half: bool = False
    prefers_nhwc: bool = False
    has_cuda_graphs: bool = False


@dataclass(frozen=True)
class Plan:
    """How a server process works.

    Attributes:
        processes: server processes.
        threads: requests a process works on at once.
        queue_size: further received requests that can wait in a process.
        body_memory: bytes of request bodies a process holds at most.
        decoders: decoding processes that a process has at most, see `decoding`.
        decoding_memory: bytes of all images that are decoded at once, except those that a
            thread's own memory holds.
        timeout: seconds after which a waiting request is given up.
        max_batch: largest batch; 1 without batching.
        cpus: of a process.
        compute_timeout: seconds of computing after which a bulk request is given up.
        bulk_memory: bytes of the images and answers of all bulk requests.
        on_gpu: the graph runs on a GPU.
        batch_memory: bytes of the buffers in which batches for a GPU are assembled.
        gpu: how a GPU runs the graph.
        decodes_apart: plain JPEGs too are decoded in decoding processes.
    """

    processes: int
    threads: int
    queue_size: int
    body_memory: int
    decoders: int
    decoding_memory: int
    timeout: int
    max_batch: int
    cpus: int
    compute_timeout: int
    bulk_memory: int
    on_gpu: bool = False
    batch_memory: int = 0
    gpu: GpuSettings = GpuSettings()
    decodes_apart: bool = False

    @property
    def memory(self) -> int:
        """Bytes that the process and its decoding processes take at most, with a small model."""
        threads, decoders = self.threads * THREAD_MEMORY, self.decoders * _MEMORY_PER_DECODER
        requests = self.body_memory + self.bulk_memory + self.decoding_memory
        return _BASE_MEMORY + requests + threads + decoders + self.batch_memory

    @property
    def largest_price(self) -> int:
        """The most bytes that an image can cost, so that its reservation fits."""
        return (self.decoding_memory - _ALLOCATOR_MEMORY) * 32 // 33

    def __str__(self) -> str:
        """Describe the plan in the log line at the start."""
        batches = f"batches of up to {self.max_batch}" if self.max_batch > 1 else "no batches"
        return (
            f"{counted(self.processes, 'processes')} of {counted(self.threads, 'threads')}, "
            f"{batches}, a queue of {self.queue_size}, {self.body_memory >> 20} MiB for bodies, "
            f"{self.decoding_memory >> 20} MiB for images"
            + ", float16" * self.gpu.is_half
            + ", NHWC" * self.gpu.prefers_nhwc
            + ", CUDA graphs" * self.gpu.has_cuda_graphs
            + f", {counted(self.decoders, 'decoding processes')}" * self.decodes_apart
        )


def choose_plan(cpus: int, limit: int, *, on_gpu: bool = False) -> Plan:
    """Choose the plan for a machine and the environment's settings.

    Args:
        cpus: CPUs that all processes may use.
        limit: bytes of memory that all processes may use.
        on_gpu: whether the graph runs on a GPU.

    Raises:
        UserError: a setting is malformed.
    """
    processes = environment.SERVER_WORKERS.read_integer(1, maximum=_MOST_PROCESSES)
    max_batch = 1
    if _is_batched(on_gpu):
        max_batch = environment.MAX_BATCH_SIZE.read_integer(1, maximum=_MOST_THREADS)
    is_multi_model = environment.IS_MULTI_MODEL.read_switch()
    if on_gpu or is_multi_model:
        processes = 1  # one owner of the device; one holder of the loaded models
    if is_multi_model:
        max_batch = 1
    largest = environment.max_content_length()
    body_memory = max(2 * largest, min(_LARGEST_BODY_SHARE, limit // 8) // processes)
    bulk_memory = max(largest + _LEAST_ANSWER, min(_LARGEST_BULK_SHARE, limit // 16) // processes)
    share = limit // processes
    decoders = _decoders(share)
    decodes_apart = decoders > 0
    if not decoders:
        decoders = max(1, min(-(-cpus // processes), share // 16 // _MEMORY_PER_DECODER))
    batch_memory = min(_LARGEST_BATCH_SHARE, limit // 16) if on_gpu and max_batch > 1 else 0
    free = share - _BASE_MEMORY - body_memory - bulk_memory - decoders * _MEMORY_PER_DECODER
    free -= batch_memory
    decoding_memory = max(
        reservation(picture_limits().memory), min(_LARGEST_DECODING_SHARE, limit // 8) // processes
    )
    decoding_memory = max(_LEAST_DECODING_MEMORY, min(decoding_memory, free - THREAD_MEMORY))
    affordable = max(1, (free - decoding_memory) // THREAD_MEMORY)
    threads = environment.SERVER_THREADS.read_integer(0, maximum=_MOST_THREADS)
    if not threads:
        threads = min(-(-cpus // processes) + 1, affordable)
        if max_batch > 1:
            threads += max_batch  # threads that wait in a batch decode nothing meanwhile
    return Plan(
        processes=processes,
        threads=threads,
        queue_size=environment.QUEUE_SIZE.read_integer(0),
        body_memory=body_memory,
        decoders=decoders,
        decoding_memory=decoding_memory,
        timeout=environment.SERVER_TIMEOUT.read_integer(1),
        max_batch=max_batch,
        cpus=-(-cpus // processes),
        compute_timeout=environment.COMPUTE_TIMEOUT.read_integer(1),
        bulk_memory=bulk_memory,
        on_gpu=on_gpu,
        batch_memory=batch_memory,
        gpu=_gpu_settings(on_gpu, max_batch),
        decodes_apart=decodes_apart,
    )


def reservation(price: int) -> int:
    """Return the bytes that are set aside, and the limit, for an image whose price is `price`.

    The limit counts addresses, of which an allocator takes some more than it uses (measured: 2%,
    and 9 MB for small images).
    """
    return price + price // 32 + _ALLOCATOR_MEMORY


def _is_batched(on_gpu: bool) -> bool:
    setting = environment.BATCHING.read().strip().lower()
    if setting not in {"auto", "on", "off"}:
        raise UserError(f"{environment.BATCHING.name} must be auto, on or off, got {setting!r}")
    return on_gpu if setting == "auto" else setting == "on"


def _gpu_settings(on_gpu: bool, max_batch: int) -> GpuSettings:
    """Read the settings of a GPU; a UserError on a CPU, where they would do nothing or harm."""
    precision = environment.SERVING_PRECISION.read().strip().lower()
    if precision not in {"float32", "float16"}:
        raise UserError(
            f"{environment.SERVING_PRECISION.name} must be float32 or float16, got {precision!r}"
        )
    given = {
        environment.SERVING_PRECISION: precision == "float16",
        environment.PREFER_NHWC: environment.PREFER_NHWC.read_switch(),
        environment.CUDA_GRAPHS: environment.CUDA_GRAPHS.read_switch(),
    }
    for variable, is_on in given.items():
        if is_on and not on_gpu:
            raise UserError(
                f"{variable.name}={variable.read()} needs a GPU, and this server computes on the "
                f"CPU: unset it, or use a GPU (see {environment.DEVICE.name})"
            )
    if given[environment.CUDA_GRAPHS] and max_batch == 1:
        raise UserError(
            f"{environment.CUDA_GRAPHS.name}={environment.CUDA_GRAPHS.read()} needs batches, which "
            f"this server does not make: unset it, or {environment.BATCHING.name}, "
            f"{environment.MAX_BATCH_SIZE.name} and {environment.IS_MULTI_MODEL.name}"
        )
    return GpuSettings(*given.values())


def _decoders(memory: int) -> int:
    """Return the number of decoding processes that is set; 0: none is."""
    count = environment.DECODERS.read_integer(0, maximum=_MOST_PROCESSES)
    most = max(1, memory // 4 // _MEMORY_PER_DECODER)
    if count > most:
        raise UserError(
            f"{environment.DECODERS.name}={count} is too many for {memory >> 20} MiB of memory: at "
            f"most {most}, with {_MEMORY_PER_DECODER >> 20} MiB each"
        )
    return count


_PAGE = os.sysconf("SC_PAGE_SIZE")


def memory_used() -> int:
    """Return the resident bytes of this process; 0 if the kernel does not report it (not Linux)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0


class MemoryBudget:
    """Memory for the models of an endpoint, by estimates; from any thread.

    Args:
        total: bytes.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._used = 0
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """The bytes that are taken."""
        return self._used

    def take(self, size: int) -> bool:
        """Take bytes; False if fewer are left."""
        with self._lock:
            if self._used + size > self.total:
                return False
            self._used += size
            return True

    def give(self, size: int) -> None:
        """Give taken bytes back."""
        with self._lock:
            self._used -= size


def return_free_memory() -> None:
    """Make glibc return freed memory to the system."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
        if trim is not None:
            trim(0)
