"""What a recipe adds to plain training, as numbers: mixing, class weights, averaging, grouping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from image_classification.backends.base import Update
from image_classification.errors import HyperparameterError


@dataclass(frozen=True)
class Recipe:
    """Switches of training that neither built-in has; all are off by default.

    Attributes:
        mixup_alpha, cutmix_alpha: of the Beta distribution of shares; 0 is off.
        class_weights: None, "balanced" or "effective", see `targets.class_weights`.
        balanced_sampling: whether every class is drawn equally often.
        ema_decay: of the moving average of the weights; 0 is off.
        accumulate_batches: batches of one update.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    class_weights: str | None = None
    balanced_sampling: bool = False
    ema_decay: float = 0.0
    accumulate_batches: int = 1

    @classmethod
    def of(cls, values: Mapping[str, Any], batch_size: int) -> Recipe:
        """The recipe of a job's typed hyperparameters.

        Raises:
            HyperparameterError: values that are legal alone but not together.
        """
        recipe = cls(
            mixup_alpha=values["mixup_alpha"],
            cutmix_alpha=values["cutmix_alpha"],
            class_weights=values["class_weights"],
            balanced_sampling=values["balanced_sampling"],
            ema_decay=values["ema_decay"],
            accumulate_batches=values["accumulate_batches"],
        )
        if recipe.class_weights and recipe.balanced_sampling:
            raise HyperparameterError(
                f"class_weights={recipe.class_weights} and balanced_sampling=True would both make "
                "up for the same imbalance: keep one"
            )
        if recipe.mixes and batch_size < 2:
            raise HyperparameterError(
                "mixup_alpha and cutmix_alpha mix the images of a batch: a batch of 1 has no "
                "partner; set at least 2, or leave them out"
            )
        return recipe

    @property
    def mixes(self) -> bool:
        """Whether images are mixed."""
        return bool(self.mixup_alpha or self.cutmix_alpha)

    def update(self, epoch: int, step: int, weights: npt.NDArray[np.float64]) -> Update:
        """How the batch of a step takes part in an update.

        An update of several batches is the update of one batch of all their samples: an engine
        takes the mean loss of each batch by its weight, so the batches share the update by theirs
        (the planned one; bad samples do not change it). Those left at the end of an epoch make a
        smaller update.

        Args:
            epoch, step: from 0.
            weights: float64 (steps,), the weight of the samples of each step of the epoch, summed
                over the ranks.
        """
        first = step - step % self.accumulate_batches
        end = min(first + self.accumulate_batches, len(weights))
        share = float(weights[step] / weights[first:end].sum())
        updates = epoch * -(-len(weights) // self.accumulate_batches)
        updates += first // self.accumulate_batches
        return Update(share, step + 1 == end, average_decay(self.ema_decay, updates))


def average_decay(decay: float, updates: int) -> float:
    """The decay of the moving average after so many updates: lower at first, as in TensorFlow.

    The average would otherwise long remember the weights that training began with.
    """
    return min(decay, (1.0 + updates) / (10.0 + updates))
