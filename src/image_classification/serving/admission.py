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
from image_classification.errors import UserError
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
            f"{self.processes} process(es) of {self.threads} threads, {batches}, "
            f"a queue of {self.queue_size}, {self.body_memory >> 20} MiB for bodies, "
            f"{self.decoding_memory >> 20} MiB for images"
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
    )


def reservation(price: int) -> int:
    """Return the bytes that are set aside, and the limit, for an image whose price is `price`.

    The limit counts addresses, of which an allocator takes some more than it uses (measured: 2 %,
    and 9 MB for small images).
    """
    return price + price // 32 + _ALLOCATOR_MEMORY


def _is_batched(on_gpu: bool) -> bool:
    setting = environment.BATCHING.read().strip().lower()
    if setting not in {"auto", "on", "off"}:
        raise UserError(f"{environment.BATCHING.name} must be auto, on or off, got {setting!r}")
    return on_gpu if setting == "auto" else setting == "on"


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
