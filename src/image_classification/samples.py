"""The values between the parts: a source gives a `Sample`, the loader a `Batch`."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]
UInt64Array = npt.NDArray[np.uint64]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
StructuredArray = npt.NDArray[np.void]  # rows of named fields
Array = npt.NDArray[Any]  # of any dtype

THRESHOLD = 0.5
"""The probability from which a class counts as predicted, if samples may have several."""
IMBALANCED = 10
"""Warn if the largest class has this many times more images than the smallest."""


@dataclass(frozen=True)
class Sample:
    """One encoded image with its class or classes.

    Attributes:
        key: names the sample in messages and reports (a path, or `file.rec#id`, with
            the path of its image in parentheses if that is known).
        class_index: 0 to classes − 1; without meaning if samples have several classes.
        data: the encoded image file, as it was stored.
        multi_hot: uint8 (classes,), 1 for every class of the sample, if samples have several.
    """

    key: str
    class_index: int
    data: bytes
    multi_hot: UInt8Array | None = None


@dataclass(frozen=True)
class Batch:
    """The samples of one step.

    Attributes:
        images: uint8, N·H·W·C, RGB or gray. A view of a buffer that the loader reuses: valid until
            the next batch is asked for. Or their features, float32 (N, width), if the backbone is
            frozen.
        targets: the loader gives int64 (N,) class indices, or uint8 (N, classes) if samples have
            several; a backend trains on float32 (N, classes) soft targets, whose rows add up to 1
            unless samples have several classes.
        weights: float32 (N,), 1 for a sample, 0 for padding, which loss and metrics ignore.
        keys: N sample keys.
        indices: int64 (N,), of the samples in their source; the loader gives them.
    """

    images: Array
    targets: Array
    weights: FloatArray
    keys: tuple[str, ...]
    indices: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.keys)
