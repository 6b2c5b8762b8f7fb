"""How busy the server's batcher keeps a device: a fake one, with as many clients as a GPU's plan.

No GPU is needed: the fake device has a queue like that of a GPU, and a run of it takes the time of
its batch but no CPU time. It is idle if a batch arrives after it has ended the one before.
"""

from __future__ import annotations

import statistics
import threading
import time

import numpy as np

from image_classification.samples import FloatArray, UInt8Array
from image_classification.serving.batching import Batcher

_SHAPE = (224, 224, 3)
_MAX_BATCH = 32


class FakeDevice:
    """A runtime whose runs take `fixed` seconds and `each` for an image, one after another."""

    def __init__(self, fixed: float, each: float) -> None:
        self.providers, self.outputs = ["fake"], frozenset[str]()
        self._fixed, self._each = fixed, each
        self._lock = threading.Lock()
        self.begun = self.ends = self.busy = 0.0
        self.sizes: list[int] = []

    def host_buffer(self, shape: tuple[int, ...]) -> UInt8Array:
        return np.zeros(shape, np.uint8)

    def bound(self, _shape: tuple[int, ...]) -> FakeDevice:
        return self

    def run(self, images: UInt8Array) -> FloatArray:
        seconds = self._fixed + self._each * len(images)
        with self._lock:
            start = max(time.monotonic(), self.ends)
            self.begun, self.ends = self.begun or start, start + seconds
            self.busy += seconds
            self.sizes.append(len(images))
            wait = self.ends - time.monotonic()
        time.sleep(max(0.0, wait))
        return np.zeros((len(images), 10), np.float32)

    def forget(self) -> None:
        """Forget what it has done."""
        self.begun = self.ends = self.busy = 0.0
        self.sizes = []


def busy_share(
    clients: int = 64,
    seconds: float = 3.0,
    decode_ms: float = 3.0,
    fixed_ms: float = 4.0,
    each_ms: float = 0.5,
    threads: int = 2,
) -> dict[str, float]:
    """Return the share of the time in which a fake device computed, and images per second.

    Args:
        clients: threads that send an image and wait for its answer, again and again.
        seconds: length of the measurement.
        decode_ms: what a client does between two images, without a CPU.
        fixed_ms, each_ms: what a run takes, and what each of its images adds.
        threads: of the batcher.
    """
    device = FakeDevice(fixed_ms / 1000, each_ms / 1000)
    batcher = Batcher(device, _SHAPE, _MAX_BATCH, threads)  # type: ignore[arg-type]
    device.forget()
    until = time.monotonic() + seconds
    answered = [0] * clients

    def ask(number: int) -> None:
        image = np.full((1, *_SHAPE), number % 256, np.uint8)
        while time.monotonic() < until:
            time.sleep(decode_ms / 1000)
            batcher.run(image)
            answered[number] += 1

    asking = [threading.Thread(target=ask, args=(number,)) for number in range(clients)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    batcher.close()
    whole = device.ends - device.begun
    return {
        "clients": clients,
        "busy_share": device.busy / whole,
        "images_per_second": sum(answered) / whole,
        "mean_batch": statistics.mean(device.sizes),
    }


def busy_shares(seconds: float = 3.0, rounds: int = 3) -> dict[str, dict[str, float]]:
    """Return `busy_share` with one thread and with the two of a GPU, in turns, of median rounds."""
    cases = [(clients, threads) for clients in (16, 64) for threads in (1, 2)]
    seen: dict[tuple[int, int], list[dict[str, float]]] = {case: [] for case in cases}
    for _ in range(rounds):
        for clients, threads in cases:
            seen[clients, threads].append(busy_share(clients, seconds, threads=threads))
    return {
        f"{clients} clients, {threads} thread(s)": {
            key: statistics.median(row[key] for row in rows) for key in rows[0]
        }
        for (clients, threads), rows in seen.items()
    }
