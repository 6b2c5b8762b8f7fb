"""The moving average of a model's weights and statistics, kept as a second model."""

from __future__ import annotations

import copy

from image_classification.backends.base import State
from image_classification.backends.torch.model import Classifier, load_weights


class AveragedModel:
    """A model and its average: a second model, because predictions and the graph are made from it.

    Args:
        newest: the model that learns.
    """

    def __init__(self, newest: Classifier) -> None:
        self.model = copy.deepcopy(newest)
        self._newest = newest

    def update(self, decay: float) -> None:
        """average = decay · average + (1 − decay) · weights; decay 0 starts it at the weights."""
        pairs = zip(self.model.tensors(), self._newest.tensors(), strict=True)
        for (_, average), (_, newest) in pairs:
            average.lerp_(newest, 1.0 - decay)

    def load(self, arrays: State) -> None:
        """Start the average at the model's weights, with these in their place."""
        self.update(0.0)
        load_weights(self.model, arrays)
