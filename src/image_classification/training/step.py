"""Prepare the input of training steps: learning rate, targets, weights, mixed images.

Everything is a function of the settings, the epoch and the step (both from 0), so that a job that
resumes within an epoch continues with the same numbers.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from image_classification.backends.base import Update, World
from image_classification.loading.loader import Loader
from image_classification.loading.order import mixing_generator
from image_classification.samples import Array, Batch, Float64Array, FloatArray, IntArray
from image_classification.training.mixup import mix_images, mix_targets
from image_classification.training.settings import Settings

_BETA = 0.999


def smooth_labels(class_indices: Array, classes: int, smoothing: float = 0.0) -> FloatArray:
    """Return soft targets, float32 (N, classes); each row adds to 1. Multi-hot rows stay as is.

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
    """Return the weight of each class's samples, float32 (classes,); their mean over samples is 1.

    Args:
        class_indices: int64 (N,), of the training samples.
        classes: number of classes; one without a sample has weight 0.
        kind: "balanced": N / (classes · n), as in scikit-learn; "effective": in proportion to
            (1 − β) / (1 − βⁿ) with β = 0.999, which favors rare classes less; see Cui et al.,
            "Class-Balanced Loss Based on Effective Number of Samples" (2019).
    """
    counts = np.bincount(class_indices, minlength=classes).astype(np.float64)
    effective = counts if kind == "balanced" else (1.0 - _BETA**counts) / (1.0 - _BETA)
    weights = np.divide(1.0, effective, out=np.zeros(classes), where=counts > 0)
    return np.asarray(weights * counts.sum() / (weights * counts).sum(), np.float32)


def logit_bias(class_indices: IntArray, classes: int, tau: float) -> FloatArray:
    """Return τ · log(share of the class among the samples), float32 (classes,).

    The loss adds it to the logits, so that a frequent class needs larger logits than a rare one to
    be as likely; predictions are without it, as for classes of equal frequency: the logit-adjusted
    loss of Menon et al., "Long-Tail Learning via Logit Adjustment" (2021), equation 10.

    Args:
        class_indices: int64 (N,), N ≥ 1, of the training samples.
        classes: number of classes; one without a sample counts as if it had one.
        tau: τ, ≥ 0.
    """
    counts = np.maximum(np.bincount(class_indices, minlength=classes), 1)
    return np.asarray(tau * np.log(counts / counts.sum()), np.float32)


@dataclass(frozen=True)
class Step:
    """One training step, as planned before its epoch begins.

    Attributes:
        epoch, index: from 0.
        learning_rate: the rate in the middle of the step, so that a warm-up never wastes a step
            on rate 0.
        update: the step's part in an update of the weights; the same on every rank.
    """

    epoch: int
    index: int
    learning_rate: float
    update: Update


@dataclass(frozen=True)
class StepInputs:
    """Plans the steps of an epoch and prepares their batches.

    Attributes:
        settings: of the job.
        classes: width of the head.
        loader: of the training data.
        world: this process among those that train together.
        first_epoch: at which the schedule begins.
    """

    settings: Settings
    classes: int
    loader: Loader
    world: World
    first_epoch: int = 0

    def plan(self, epoch: int) -> list[Step]:
        """Return the steps of an epoch."""
        schedule, recipe, count = self.settings.schedule, self.settings.recipe, self.loader.steps
        weights = self._planned_weights(epoch)
        return [
            Step(
                epoch,
                index,
                schedule.rate(epoch - self.first_epoch + (index + 0.5) / count),
                recipe.update(epoch - self.first_epoch, index, weights),
            )
            for index in range(count)
        ]

    def prepared(self, step: Step, batch: Batch, class_indices: IntArray) -> Batch:
        """Return the batch with soft targets and class weights; its images are mixed in place."""
        recipe, weights = self.settings.recipe, batch.weights
        targets = smooth_labels(class_indices, self.classes, self.settings.label_smoothing)
        if self._class_weights is not None:
            weights = weights * self._class_weights[class_indices]
        alphas = (recipe.mixup_alpha, recipe.cutmix_alpha)
        if any(alphas) and len(batch) > 1 and batch.weights.any():
            position = (self.settings.seed, step.epoch, self.world.rank, step.index)
            share = mix_images(batch.images, mixing_generator(*position), *alphas)
            targets, weights = mix_targets(targets, weights, share)
        return replace(batch, targets=targets, weights=weights)

    def padding(self) -> Batch:
        """Return two samples of weight 0: they change neither the weights nor the statistics."""
        images = self.loader.empty(2)
        return Batch(images, np.zeros(2, np.int64), np.zeros(2, np.float32), ("", ""))

    def _planned_weights(self, epoch: int) -> Float64Array:
        """Return float64 (steps,), proportional to the weight of each step's samples.

        Bad samples are not known in advance and count as well.
        """
        loader = self.loader
        starts = np.arange(loader.steps) * loader.batch_size
        if self._class_weights is None:  # those of the rank with the most samples
            return np.diff(starts, append=loader.most_samples).astype(np.float64)
        order = loader.order(epoch, rank=0, world_size=1)  # of all ranks, which take turns in it
        weights = self._class_weights[loader.source.class_indices[order]]
        return np.add.reduceat(weights, starts * self.world.size, dtype=np.float64)

    @cached_property
    def _class_weights(self) -> FloatArray | None:
        kind = self.settings.recipe.class_weights
        if kind is None or kind == "logit_adjust":  # which is a part of the engine's loss
            return None
        return class_weights(self.loader.source.class_indices, self.classes, kind)
