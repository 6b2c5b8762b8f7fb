"""Targets as numbers: class indices become the rows that the loss compares with."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from image_classification.data.samples import FloatArray, IntArray

_BETA = 0.999


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


def class_weights(class_indices: IntArray, classes: int, kind: str) -> FloatArray:
    """Float32 (classes,) weights of samples by class; their mean over the samples is 1.

    Args:
        class_indices: int64 (N,), of the training samples.
        classes: number of classes; one without a sample has weight 0.
        kind: "balanced": N / (classes · n), scikit-learn's; "effective": in proportion to
            (1 − β) / (1 − βⁿ) with β = 0.999, which favours rare classes less, see Cui et al.,
            "Class-Balanced Loss Based on Effective Number of Samples" (2019).
    """
    counts = np.bincount(class_indices, minlength=classes).astype(np.float64)
    effective = counts if kind == "balanced" else (1.0 - _BETA**counts) / (1.0 - _BETA)
    weights = np.divide(1.0, effective, out=np.zeros(classes), where=counts > 0)
    return np.asarray(weights * counts.sum() / (weights * counts).sum(), np.float32)
