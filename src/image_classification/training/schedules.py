"""The learning rate as a pure function of how many epochs have passed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

ScheduleKind = Literal["constant", "step", "cosine"]


@dataclass(frozen=True)
class Schedule:
    """A learning-rate schedule.

    Attributes:
        kind: constant, step (multiplied by `factor` after each of `step_epochs`) or cosine (falls
            to 0 at the end of the last epoch).
        learning_rate: the rate after the warm-up.
        epochs: length of the job.
        warmup_epochs: rises linearly from 0 over these; may be a fraction.
        step_epochs: rising epoch counts; the factor acts once that many epochs are complete.
        factor: multiplier at each step.
    """

    kind: ScheduleKind
    learning_rate: float
    epochs: int
    warmup_epochs: float = 0.0
    step_epochs: tuple[int, ...] = ()
    factor: float = 1.0

    def rate(self, epoch: float) -> float:
        """The learning rate when `epoch` epochs (with fraction) are complete; ≥ 0."""
        if epoch < self.warmup_epochs:
            return self.learning_rate * epoch / self.warmup_epochs
        if self.kind == "step":
            passed = sum(epoch >= step for step in self.step_epochs)
            return float(self.learning_rate * self.factor**passed)
        if self.kind == "cosine":
            length = max(self.epochs - self.warmup_epochs, 1e-9)
            share = min((epoch - self.warmup_epochs) / length, 1.0)
            return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))
        return self.learning_rate
