"""Metrics of a positive and a negative class, by the names of the TensorFlow built-in.

Computed exactly from all scores; Keras approximates both areas with 200 thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from image_classification.data.samples import FloatArray, IntArray

POSITIVE_CLASS = 1
"""The second class in the order of the label map, which is that of the names."""

THRESHOLD = 0.5

_Counts = npt.NDArray[np.float64]


def precision(targets: IntArray, scores: FloatArray) -> float:
    """Share of the samples called positive that are; 0–1, 0 where none is called so.

    Args:
        targets: int64 (N,), 1 for a positive sample, 0 for a negative one.
        scores: float32 (N,), probability of the positive class; above THRESHOLD is positive.
    """
    called = scores > THRESHOLD
    return _share(int((called & (targets == POSITIVE_CLASS)).sum()), int(called.sum()))


def recall(targets: IntArray, scores: FloatArray) -> float:
    """Share of the positive samples that are called so; 0–1, 0 where there is none."""
    positive = targets == POSITIVE_CLASS
    return _share(int((positive & (scores > THRESHOLD)).sum()), int(positive.sum()))


def roc_auc(targets: IntArray, scores: FloatArray) -> float:
    """Area under the ROC curve, 0–1: how often a positive sample scores above a negative one.

    Equal scores count one half. 0 where a class is absent, as a number is needed in every epoch.
    """
    true, false = _cumulative(targets, scores)
    if not true[-1] or not false[-1]:
        return 0.0
    heights = (true[1:] + true[:-1]) / 2
    return float((np.diff(false) * heights).sum() / (true[-1] * false[-1]))


def average_precision(targets: IntArray, scores: FloatArray) -> float:
    """Area under the precision-recall curve, 0–1, as a sum of steps; 0 without a positive."""
    true, false = _cumulative(targets, scores)
    if not true[-1]:
        return 0.0
    precisions = true[1:] / (true[1:] + false[1:])
    return float((np.diff(true) * precisions).sum() / true[-1])


BINARY_METRICS: Mapping[str, Callable[[IntArray, FloatArray], float]] = {
    "precision": precision,
    "recall": recall,
    "auc": roc_auc,
    "prc": average_precision,
}
"""The values of eval_metric beside accuracy."""


def _cumulative(targets: IntArray, scores: FloatArray) -> tuple[_Counts, _Counts]:
    """(true, false) positives at each distinct threshold, the highest first, beginning at none."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    true = np.cumsum(targets[order] == POSITIVE_CLASS, dtype=np.float64)[ends]
    return np.append(0.0, true), np.append(0.0, ends + 1 - true)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
