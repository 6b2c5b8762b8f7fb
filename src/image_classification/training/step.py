"""What a training step hands to the engine, as numbers: rate, targets, weights, mixed images."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from image_classification.backends.base import Update, World
from image_classification.loading.order import mixing_generator
from image_classification.samples import Batch, FloatArray, IntArray, UInt8Array
from image_classification.training.mixup import blended, mix

if TYPE_CHECKING:
    from image_classification.loading.loader import Loader
    from image_classification.training.settings import Settings


_BETA = 0.999


def soft_targets(
    class_indices: npt.NDArray[np.integer[Any]], classes: int, smoothing: float = 0.0
) -> FloatArray:
    """Float32 (N, classes); each row adds to 1, but multi-hot rows stay what they are.

    Args:
        class_indices: int64 (N,), 0 to classes − 1; or multi-hot (N, classes).
        classes: number of classes.
        smoothing: s in [0, 1]: every class gets s / classes, the true one 1 − s on top.
    """
    if class_indices.ndim == 2:
        return class_indices.astype(np.float32)
    targets = np.full((len(class_indices), classes), smoothing / classes, np.float32)
    targets[np.arange(len(class_indices)), class_indices] += np.float32(1.0 - smoothing)
    return targets


def class_weights(class_indices: IntArray, classes: int, kind: str) -> FloatArray:
    """Float32 (classes,) weights of samples by class; their mean over the samples is 1.

    Args:
        class_indices: int64 (N,), of the training samples.
        classes: number of classes; one without a sample has weight 0.
        kind: "balanced": N / (classes · n), scikit-learn's; "effective": in proportion to
            (1 − β) / (1 − βⁿ) with β = 0.999, which favors rare classes less, see Cui et al.,
            "Class-Balanced Loss Based on Effective Number of Samples" (2019).
    """
    counts = np.bincount(class_indices, minlength=classes).astype(np.float64)
    effective = counts if kind == "balanced" else (1.0 - _BETA**counts) / (1.0 - _BETA)
    weights = np.divide(1.0, effective, out=np.zeros(classes), where=counts > 0)
    return np.asarray(weights * counts.sum() / (weights * counts).sum(), np.float32)


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
    _epoch: int = -1
    _step_weights: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def learning_rate(self, epoch: int, step: int) -> float:
        """The rate in the middle of the step: a warm-up then never wastes a step on rate 0."""
        return self.settings.schedule.rate(epoch + (step + 0.5) / self.loader.steps)

    def update(self, epoch: int, step: int) -> Update:
        """How the step takes part in an update; the same on every rank."""
        if epoch != self._epoch:
            self._epoch, self._step_weights = epoch, self._planned_weights(epoch)
        return self.settings.recipe.update(epoch, step, self._step_weights)

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

    def _planned_weights(self, epoch: int) -> npt.NDArray[np.float64]:
        """Float64 (steps,), proportional to the weight of each step's samples if none is bad."""
        loader = self.loader
        starts = np.arange(loader.steps) * loader.batch_size
        if self._class_weights is None:  # by the rank that has most
            return np.diff(starts, append=loader.most_samples).astype(np.float64)
        order = loader.order(epoch, rank=0, world_size=1)  # of all ranks, which take turns in it
        weights = self._class_weights[loader.source.class_indices[order]]
        return np.add.reduceat(weights, starts * self.world.size, dtype=np.float64)

    @cached_property
    def _class_weights(self) -> FloatArray | None:
        kind = self.settings.recipe.class_weights
        if kind is None:
            return None
        return class_weights(self.loader.source.class_indices, self.classes, kind)
