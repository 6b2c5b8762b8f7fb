"""Targets as numbers: class indices become the rows that the loss compares with."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from image_classification.data.samples import FloatArray


def soft_targets(
    class_indices: npt.NDArray[np.integer[Any]], classes: int, smoothing: float = 0.0
) -> FloatArray:
    """Float32 (N, classes); each row adds to 1, but multi-hot rows stay what they are.

    Args:
        class_indices: int64 (N,), 0 to classes − 1; or multi-hot (N, classes).
        classes: number of classes.
        smoothing: s in [0, 1]: every class gets s / classes, the true one 1 − s on top.
    """
    if class_indices.ndim == 2:
        return class_indices.astype(np.float32)
    targets = np.full((len(class_indices), classes), smoothing / classes, np.float32)
    targets[np.arange(len(class_indices)), class_indices] += np.float32(1.0 - smoothing)
    return targets
