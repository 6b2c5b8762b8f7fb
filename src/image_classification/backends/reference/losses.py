"""The loss of each sample and its gradient by the logits, all float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from image_classification.backends.base import ModelSpec

Array = npt.NDArray[Any]


def sample_losses(logits: Array, targets: Array, spec: ModelSpec) -> tuple[Array, Array]:
    """(losses (N,), gradients (N, classes)).

    With one class for an image the cross entropy −Σ t · log softmax(x); with several the mean over
    the classes of −w · t · log σ(x) − (1 − t) · log(1 − σ(x)), w being the positive weight.
    """
    if spec.multi_label:
        return _several(logits, targets, np.array(spec.positive_weights or 1.0))
    shifted = logits - logits.max(axis=1, keepdims=True)
    logarithms = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    total = targets.sum(axis=1, keepdims=True)
    return -(targets * logarithms).sum(axis=1), total * np.exp(logarithms) - targets


def _several(logits: Array, targets: Array, positive: Array) -> tuple[Array, Array]:
    absent, present = np.logaddexp(0, logits), np.logaddexp(0, -logits)  # −log(1 − σ), −log σ
    sigmoid = np.exp(-present)
    losses = positive * targets * present + (1 - targets) * absent
    gradients = (1 - targets) * sigmoid - positive * targets * (1 - sigmoid)
    return losses.mean(axis=1), gradients / logits.shape[1]
