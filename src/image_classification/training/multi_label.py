"""Several labels an image: independent sigmoids, their loss, accuracy and per-class figures.

A class is predicted where its probability is at least `THRESHOLD`. Accuracy is the mean over
classes of the share of right decisions, which is what the MXNet built-in documents for
`multi_label=1` ("the mean accuracy over classes").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from image_classification.data.samples import FloatArray, IntArray, UInt8Array

THRESHOLD = 0.5

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
