"""What a training step hands to the engine, as numbers: rate, targets, weights, mixed images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from image_classification.backends.base import Update, World
from image_classification.data.samples import Batch, FloatArray, IntArray, UInt8Array
from image_classification.data.sampling import mixing_generator, rank_count
from image_classification.training.mixing import blended, mix
from image_classification.training.targets import class_weights, soft_targets

if TYPE_CHECKING:
    from image_classification.data.loader import Loader
    from image_classification.training.settings import Settings


@dataclass
class StepInputs:
    """All of it is a function of the settings, the epoch (from 0) and the step (from 0).

    Attributes:
        settings: of the job.
        classes: width of the head.
        loader: of the training data.
        world: this process among those that train together.
    """

    settings: Settings
    classes: int
    loader: Loader
    world: World

    def learning_rate(self, epoch: int, step: int) -> float:
        """The rate in the middle of the step: a warm-up then never wastes a step on rate 0."""
        return self.settings.schedule.rate(epoch + (step + 0.5) / self.loader.steps)

    def update(self, epoch: int, step: int) -> Update:
        """How the step takes part in an update; the same on every rank."""
        loader = self.loader
        count = rank_count(len(loader.source), 0, self.world.size)
        return self.settings.recipe.update(epoch, step, loader.steps, loader.batch_size, count)

    def prepared(self, epoch: int, step: int, batch: Batch, class_indices: IntArray) -> Batch:
        """With soft targets, class weights and mixed images, which are mixed in place."""
        recipe, weights = self.settings.recipe, batch.weights
        targets = soft_targets(class_indices, self.classes, self.settings.label_smoothing)
        if self._class_weights is not None:
            weights = weights * self._class_weights[class_indices]
        if recipe.mixes and len(batch) > 1 and batch.weights.any():
            generator = mixing_generator(self.settings.seed, epoch, self.world.rank, step)
            share = mix(batch.images, generator, recipe.mixup_alpha, recipe.cutmix_alpha)
            targets, weights = blended(targets, weights, share)
        return replace(batch, targets=targets, weights=weights)

    def padding(self) -> Batch:
        """Two samples of weight 0: they change neither the weights nor the statistics."""
        like = self.loader.preprocessing
        images: UInt8Array = np.zeros((2, like.height, like.width, like.channels), np.uint8)
        return Batch(images, np.zeros(2, np.int64), np.zeros(2, np.float32), ("", ""))

    @cached_property
    def _class_weights(self) -> FloatArray | None:
        kind = self.settings.recipe.class_weights
        if kind is None:
            return None
        return class_weights(self.loader.source.class_indices, self.classes, kind)
