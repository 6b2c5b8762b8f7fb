"""Early stopping: when validation accuracy no longer improves, by each built-in's own rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class EarlyStopping:
    """The rule.

    Attributes:
        patience: epochs without improvement that are tolerated.
        min_epochs: epochs that must be complete before it may act.
        relative_tolerance: a gain of at most this share of the best is none (MXNet's rule).
        absolute_tolerance: a gain of at most this is none (Keras' min_delta).
    """

    patience: int
    min_epochs: int = 0
    relative_tolerance: float = 0.0
    absolute_tolerance: float = 0.0

    def is_due(self, accuracies: Sequence[float]) -> bool:
        """Whether to stop after epochs that reached these validation accuracies, in order."""
        best, waited = float("-inf"), 0
        for accuracy in accuracies:
            margin = self.absolute_tolerance
            if best > 0:
                margin = max(margin, self.relative_tolerance * best)
            if accuracy > best + (margin if best > float("-inf") else 0.0):
                best, waited = accuracy, 0
            else:
                waited += 1
        return len(accuracies) >= self.min_epochs and waited >= self.patience
