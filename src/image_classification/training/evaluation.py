"""Metrics in numpy, the same for every backend: each sample counts once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from image_classification.errors import DataError
from image_classification.samples import Batch, FloatArray, IntArray, UInt8Array

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


MultiHot = UInt8Array | IntArray
"""(N, classes) of 0 and 1."""


def sigmoid(logits: FloatArray) -> FloatArray:
    """Float32 (N, classes) probabilities of (N, classes) logits, without overflow."""
    positive = 1.0 / (1.0 + np.exp(-np.abs(logits)))
    return np.asarray(np.where(logits >= 0, positive, 1.0 - positive), np.float32)


def binary_cross_entropy(multi_hot: MultiHot, probabilities: FloatArray) -> float:
    """Mean of −log p(right decision) over samples and classes; p is kept above 1e-12."""
    if not multi_hot.size:
        return 0.0
    right = np.where(multi_hot, probabilities, 1.0 - probabilities)
    return float(-np.log(np.maximum(right, 1e-12)).mean())


def label_accuracy(multi_hot: MultiHot, probabilities: FloatArray) -> float:
    """Share of right decisions over samples and classes; one that is not a number is wrong."""
    if not multi_hot.size:
        return 0.0
    yes, no = probabilities >= THRESHOLD, probabilities < THRESHOLD
    return float(np.where(multi_hot, yes, no).mean())


def per_label(
    multi_hot: MultiHot, probabilities: FloatArray, names: Sequence[str]
) -> list[dict[str, object]]:
    """One row a class: samples that have it, recall and precision (None where undefined)."""
    predicted = probabilities >= THRESHOLD
    counts = [
        multi_hot.sum(axis=0),
        predicted.sum(axis=0),
        (predicted & (multi_hot > 0)).sum(axis=0),
    ]
    rows: list[dict[str, object]] = []
    for name, samples, said, hits in zip(names, *np.stack(counts).tolist(), strict=True):
        rows.append(
            {
                "label": name,
                "samples": int(samples),
                "recall": hits / samples if samples else None,
                "precision": hits / said if said else None,
            }
        )
    return rows


def positive_weights(multi_hot: MultiHot) -> tuple[float, ...]:
    """How much a class weighs where it is present: images without it per image with it.

    Both sides of every class then add up to the same in the loss. A class that all images or no
    image has weighs 1. The built-in says "from class frequencies" and no formula; this is the
    usual one.
    """
    present = multi_hot.sum(axis=0, dtype=np.int64)
    absent = len(multi_hot) - present
    ratios = absent / np.maximum(present, 1)
    return tuple(np.where((present > 0) & (absent > 0), ratios, 1.0).tolist())


@dataclass(frozen=True)
class Outcomes:
    """What a model said of a split.

    Attributes:
        keys: N sample keys.
        targets: int64 (N,) class indices, or uint8 (N, classes) with several labels a sample.
        probabilities: float32 (N, classes).
    """

    keys: tuple[str, ...]
    targets: npt.NDArray[Any]
    probabilities: FloatArray


def softmax(logits: FloatArray) -> FloatArray:
    """Float32 (N, classes) probabilities of (N, classes) logits, without overflow."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted, dtype=np.float32)
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), np.float32)


def collect(batches: Iterable[Batch], predict: Callable[[UInt8Array], FloatArray]) -> Outcomes:
    """Outcomes of all batches; `predict` maps uint8 images to probabilities.

    Raises:
        DataError: there is no usable sample.
    """
    keys: list[str] = []
    targets: list[npt.NDArray[Any]] = []
    probabilities: list[FloatArray] = []
    for batch in batches:
        if not len(batch):  # all its samples were bad
            continue
        probabilities.append(predict(batch.images))
        keys.extend(batch.keys)
        targets.append(batch.targets.copy())
    if not keys:
        raise DataError("not one image of the split could be used; the log names them")
    return Outcomes(tuple(keys), np.concatenate(targets), np.concatenate(probabilities))


def top_k_accuracy(targets: IntArray, scores: FloatArray, k: int = 1) -> float:
    """Share of samples whose class is among the k highest scores; 0 to 1, 0 for no sample.

    A tie counts against the sample only as far as classes with a lower index tie with it. A score
    that is not a number is never right.
    """
    if not len(targets):
        return 0.0
    own = scores[np.arange(len(targets)), targets][:, None]
    columns = np.arange(scores.shape[1])[None, :]
    behind = (scores < own) | ((scores == own) & (columns >= targets[:, None]))
    ahead = ~behind  # what is not provably behind, so that a NaN counts against the sample
    return float((ahead.sum(axis=1) < k).mean())


def cross_entropy(targets: IntArray, probabilities: FloatArray) -> float:
    """Mean of −log p(class), natural logarithm; probabilities are kept above 1e-12."""
    own = probabilities[np.arange(len(targets)), targets]
    return float(-np.log(np.maximum(own, 1e-12)).mean()) if len(targets) else 0.0


def metric_names(top_k: int | None = None, binary_metric: str | None = None) -> tuple[str, ...]:
    """The names that `metrics_of` gives."""
    asked = ((f"top_k_accuracy_{top_k}",) if top_k else ()) + (
        (binary_metric,) if binary_metric else ()
    )
    return ("loss", "accuracy", *asked)


def metrics_of(
    outcomes: Outcomes, top_k: int | None = None, binary_metric: str | None = None
) -> dict[str, float]:
    """loss, accuracy and, when asked, top_k_accuracy_<k> and a binary metric of a split."""
    targets, probabilities = outcomes.targets, outcomes.probabilities
    if targets.ndim == 2:
        loss = binary_cross_entropy(targets, probabilities)
        return {"loss": loss, "accuracy": label_accuracy(targets, probabilities)}
    values = [cross_entropy(targets, probabilities), top_k_accuracy(targets, probabilities)]
    if top_k:
        values.append(top_k_accuracy(targets, probabilities, top_k))
    if binary_metric:
        scores = probabilities[:, POSITIVE_CLASS]
        values.append(BINARY_METRICS[binary_metric](targets, scores))
    return dict(zip(metric_names(top_k, binary_metric), values, strict=True))


def confusions(outcomes: Outcomes) -> dict[tuple[int, int], int]:
    """(true class, predicted class) → samples, for the pairs that occur; the most frequent first.

    Sparse, because a matrix of ImageNet-21k's classes would be 3.8 GB. Several labels a sample
    cannot be confused one with another: there are no pairs.
    """
    if outcomes.targets.ndim == 2:
        return {}
    predicted = outcomes.probabilities.argmax(axis=1)
    pairs = Counter(zip(outcomes.targets.tolist(), predicted.tolist(), strict=True))
    return dict(pairs.most_common())


def per_class(outcomes: Outcomes, names: Sequence[str]) -> list[dict[str, object]]:
    """One row a class: samples, recall and precision (None where undefined)."""
    if outcomes.targets.ndim == 2:
        return per_label(outcomes.targets, outcomes.probabilities, names)
    predictions = outcomes.probabilities.argmax(axis=1)
    right = outcomes.targets[predictions == outcomes.targets]
    counts = [np.bincount(v, minlength=len(names)) for v in (outcomes.targets, predictions, right)]
    rows: list[dict[str, object]] = []
    for name, samples, predicted, hits in zip(names, *np.stack(counts).tolist(), strict=True):
        rows.append(
            {
                "label": name,
                "samples": samples,
                "recall": hits / samples if samples else None,
                "precision": hits / predicted if predicted else None,
            }
        )
    return rows
