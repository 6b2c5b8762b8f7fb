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
    """One encoded image with its class or classes.

    Attributes:
        key: names the sample in messages and reports (a path, or `file.rec#record`).
        class_index: 0 to classes − 1; of no meaning where there may be several classes.
        data: the encoded image file, as it was stored.
        multi_hot: uint8 (classes,), 1 for every class, where there may be several.
    """

    key: str
    class_index: int
    data: bytes
    multi_hot: UInt8Array | None = None


@dataclass(frozen=True)
class Batch:
    """What one step consumes.

    Attributes:
        images: uint8, N·H·W·C, RGB or gray. A view of a buffer that the loader reuses: it is
            valid until the next batch is asked for.
        targets: out of the loader int64 (N,) class indices, or uint8 (N, classes) where a sample
            may have several; float32 (N, classes) soft targets when handed to a backend for
            training, each row adding to 1 unless there may be several classes.
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
