"""Metrics in numpy, the same for every backend: each sample counts once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from image_classification.data.samples import Batch, FloatArray, IntArray, UInt8Array


@dataclass(frozen=True)
class Outcomes:
    """What a model said of a split.

    Attributes:
        keys: N sample keys.
        targets: int64 (N,) class indices.
        probabilities: float32 (N, classes).
    """

    keys: tuple[str, ...]
    targets: IntArray
    probabilities: FloatArray


def softmax(logits: FloatArray) -> FloatArray:
    """Float32 (N, classes) probabilities of (N, classes) logits, without overflow."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted, dtype=np.float32)
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), np.float32)


def collect(batches: Iterable[Batch], predict: Callable[[UInt8Array], FloatArray]) -> Outcomes:
    """Outcomes of all batches; `predict` maps uint8 images to probabilities."""
    keys: list[str] = []
    targets: list[npt.NDArray[np.int64]] = []
    probabilities: list[FloatArray] = []
    for batch in batches:
        if not len(batch):  # all its samples were bad
            continue
        probabilities.append(predict(batch.images))
        keys.extend(batch.keys)
        targets.append(batch.targets.copy())
    if not keys:
        return Outcomes((), np.zeros(0, np.int64), np.zeros((0, 0), np.float32))
    return Outcomes(tuple(keys), np.concatenate(targets), np.concatenate(probabilities))


def top_k_accuracy(targets: IntArray, scores: FloatArray, k: int = 1) -> float:
    """Share of samples whose class is among the k highest scores; 0 to 1, 0 for no sample.

    A tie counts against the sample only as far as classes with a lower index tie with it.
    """
    if not len(targets):
        return 0.0
    own = scores[np.arange(len(targets)), targets][:, None]
    columns = np.arange(scores.shape[1])[None, :]
    ahead = (scores > own) | ((scores == own) & (columns < targets[:, None]))
    return float((ahead.sum(axis=1) < k).mean())


def cross_entropy(targets: IntArray, probabilities: FloatArray) -> float:
    """Mean of −log p(class), natural logarithm; probabilities are kept above 1e-12."""
    own = probabilities[np.arange(len(targets)), targets]
    return float(-np.log(np.maximum(own, 1e-12)).mean()) if len(targets) else 0.0


def metrics_of(outcomes: Outcomes, top_k: int | None = None) -> dict[str, float]:
    """loss, accuracy and, when asked, top_k_accuracy_<k> of a split."""
    targets, probabilities = outcomes.targets, outcomes.probabilities
    metrics = {
        "loss": cross_entropy(targets, probabilities),
        "accuracy": top_k_accuracy(targets, probabilities),
    }
    if top_k:
        metrics[f"top_k_accuracy_{top_k}"] = top_k_accuracy(targets, probabilities, top_k)
    return metrics


def confusion_matrix(outcomes: Outcomes, classes: int) -> IntArray:
    """int64 (classes, classes): row = true class, column = predicted class."""
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (outcomes.targets, outcomes.probabilities.argmax(axis=1)), 1)
    return matrix


def per_class(matrix: IntArray, names: Sequence[str]) -> list[dict[str, object]]:
    """One row a class: samples, recall and precision (None where undefined)."""
    rows: list[dict[str, object]] = []
    for index, name in enumerate(names):
        samples, predicted = int(matrix[index].sum()), int(matrix[:, index].sum())
        hits = int(matrix[index, index])
        rows.append(
            {
                "label": name,
                "samples": samples,
                "recall": hits / samples if samples else None,
                "precision": hits / predicted if predicted else None,
            }
        )
    return rows
