"""The loss of each sample: cross entropy with soft targets, or one of every class on its own.

And the outcome of a step, which MXNet may still be working on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mxnet as mx

from image_classification.backends.base import ModelSpec
from image_classification.backends.mxnet.engine.memory import memory_errors
from image_classification.backends.step_samples import StepSamples
from image_classification.data.samples import FloatArray


@dataclass(frozen=True)
class Step:
    """A step that MXNet may still be working on."""

    loss: Any
    logits: Any
    samples: StepSamples

    @memory_errors()
    def fetch(self) -> tuple[float, FloatArray]:
        """Wait: (cross entropy without the head's L2 term, logits float32 (N, classes))."""
        return float(self.loss.asscalar()), self.samples.scattered(self.logits.asnumpy())


def sample_losses(logits: Any, targets: Any, spec: ModelSpec) -> Any:
    """Float32 (N,): cross entropy; of several labels the mean over the classes.

    Args:
        logits: float32 (N, classes).
        targets: float32 (N, classes), each row adding to 1 unless there may be several classes.
        spec: of the model: `multi_label` and `positive_weights`.
    """
    if not spec.multi_label:
        return -mx.nd.sum(targets * mx.nd.log_softmax(logits, axis=1), axis=1)
    # −log σ(x) = max(−x, 0) + log(1 + e^−|x|), which never overflows; −log(1 − σ(x)) is x more.
    present = mx.nd.relu(-logits) + mx.nd.log1p(mx.nd.exp(-mx.nd.abs(logits)))
    factors = 1.0
    if spec.positive_weights:
        weights = mx.nd.array([spec.positive_weights], ctx=logits.context)
        factors = 1.0 + mx.nd.broadcast_mul(targets, weights - 1.0)
    return mx.nd.mean((1.0 - targets) * logits + factors * present, axis=1)
