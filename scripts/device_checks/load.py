"""A batcher under full load, without HTTP and decoding: how fast, and how busy is the device?"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from image_classification.samples import FloatArray, UInt8Array
from image_classification.serving.batching import Batcher

MAX_BATCH = 32
"""The product's default."""


@dataclass(frozen=True)
class Speed:
    """What a batcher did.

    Attributes:
        images_per_second, images_per_run: means.
        busy_share: 0–1, of the time in which at least one run was under way.
        probabilities: of all images, before the load.
    """

    images_per_second: float
    images_per_run: float
    busy_share: float
    probabilities: FloatArray


def speed_of(
    runtime: Any, images: UInt8Array, *, threads: int, clients: int, seconds: float
) -> Speed:
    """Keep a batcher full for some seconds; each client asks for one image at a time.

    Args:
        runtime: a `serving.runtime.Runtime` or what stands for one.
        images: uint8 (N, H, W, C).
        threads: of the batcher.
        clients, seconds: of the load.
    """
    device = _Recorded(runtime)
    batcher = Batcher(device, images.shape[1:], MAX_BATCH, threads)  # type: ignore[arg-type]
    probabilities = batcher.run(images)
    began = time.monotonic()
    end = began + seconds

    def ask(index: int) -> None:
        own = images[index % len(images)][None]
        while time.monotonic() < end:
            batcher.run(own)

    askers = [threading.Thread(target=ask, args=(index,)) for index in range(clients)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    batcher.close()
    runs = [run for run in device.runs if run[0] >= began]
    busy, end = 0.0, began
    for start, stop, _ in sorted(runs):
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    count = sum(run[2] for run in runs)
    took = end - began
    return Speed(count / took, count / len(runs), busy / took, probabilities)


@dataclass
class _Recorded:
    """A runtime whose runs are recorded: begin, end (monotonic), images with those of padding."""

    runtime: Any
    runs: list[tuple[float, float, int]] = field(default_factory=list)

    @property
    def providers(self) -> list[str]:
        return list(self.runtime.providers)

    @property
    def outputs(self) -> frozenset[str]:
        return frozenset(self.runtime.outputs)

    def host_buffer(self, shape: tuple[int, ...]) -> UInt8Array:
        buffer: UInt8Array = self.runtime.host_buffer(shape)
        return buffer

    def bound(self, shape: tuple[int, ...]) -> _RecordedRun:
        return _RecordedRun(self.runtime.bound(shape), self.runs)


@dataclass(frozen=True)
class _RecordedRun:
    run_of_size: Any
    runs: list[tuple[float, float, int]]

    def run(self, images: UInt8Array) -> FloatArray:
        began = time.monotonic()
        found: FloatArray = self.run_of_size.run(images)
        self.runs.append((began, time.monotonic(), len(images)))
        return found
