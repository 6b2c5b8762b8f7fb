"""Metrics in numpy, the same for every backend: each sample counts once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from image_classification.data.samples import Batch, FloatArray, IntArray, UInt8Array
from image_classification.errors import DataError
from image_classification.training import multi_label
from image_classification.training.binary_metrics import BINARY_METRICS, POSITIVE_CLASS


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
        loss = multi_label.binary_cross_entropy(targets, probabilities)
        return {"loss": loss, "accuracy": multi_label.label_accuracy(targets, probabilities)}
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
        return multi_label.per_label(outcomes.targets, outcomes.probabilities, names)
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
