"""Targets as numbers: class indices become the rows that the loss compares with."""

from __future__ import annotations

import numpy as np

from image_classification.data.samples import FloatArray, IntArray


def soft_targets(class_indices: IntArray, classes: int, smoothing: float = 0.0) -> FloatArray:
    """Float32 (N, classes); each row adds to 1.

    Args:
        class_indices: int64 (N,), 0 to classes − 1.
        classes: number of classes.
        smoothing: s in [0, 1]: every class gets s / classes, the true one 1 − s on top.
    """
    targets = np.full((len(class_indices), classes), smoothing / classes, np.float32)
    targets[np.arange(len(class_indices)), class_indices] += np.float32(1.0 - smoothing)
    return targets
