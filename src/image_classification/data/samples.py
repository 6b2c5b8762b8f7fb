"""What crosses the seams of the data flow: `Sample` out of a source, `Batch` out of the loader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """One encoded image with its class.

    Attributes:
        key: names the sample in messages and reports (a path, or `file.rec#record`).
        class_index: 0 to classes − 1.
        data: the encoded image file, as it was stored.
    """

    key: str
    class_index: int
    data: bytes


@dataclass(frozen=True)
class Batch:
    """What one step consumes.

    Attributes:
        images: uint8, N·H·W·C, RGB or grey. A view of a buffer that the loader reuses: it is
            valid until the next batch is asked for.
        targets: int64 (N,) class indices out of the loader; float32 (N, classes) soft targets,
            each row adding to 1, when handed to a backend for training.
        weights: float32 (N,), 1 for a sample, 0 for padding; the loss and the metrics leave the
            zeros out.
        keys: N sample keys.
    """

    images: UInt8Array
    targets: npt.NDArray[Any]
    weights: FloatArray
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)
