"""What a step brings: cross entropy with soft targets, or one of every class on its own; logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from image_classification.backends.base import ModelSpec
from image_classification.backends.step_samples import StepSamples
from image_classification.data.samples import FloatArray


@dataclass(frozen=True)
class Step:
    """A step whose numbers may still be on the device."""

    loss: torch.Tensor
    logits: torch.Tensor
    samples: StepSamples

    def fetch(self) -> tuple[float, FloatArray]:
        """Wait: (cross entropy without the head's L2 term, logits float32 (N, classes))."""
        return float(self.loss), self.samples.scattered(self.logits.float().cpu().numpy())


def sample_losses(logits: torch.Tensor, targets: torch.Tensor, spec: ModelSpec) -> torch.Tensor:
    """Float32 (N,): cross entropy; of several labels the mean over the classes.

    Args:
        logits: float32 (N, classes).
        targets: float32 (N, classes), each row adding to 1 unless there may be several classes.
        spec: of the model: `multi_label` and `positive_weights`.
    """
    if not spec.multi_label:
        return functional.cross_entropy(logits, targets, reduction="none")
    weights = spec.positive_weights
    return functional.binary_cross_entropy_with_logits(
        logits,
        targets,
        reduction="none",
        pos_weight=logits.new_tensor(weights) if weights else None,
    ).mean(dim=1)
