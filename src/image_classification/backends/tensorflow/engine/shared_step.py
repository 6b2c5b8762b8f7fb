"""The training step of one rank among several: what they learn from is the batches of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from image_classification.backends.base import ModelSpec, OptimizerSpec
from image_classification.backends.tensorflow.engine.optimizer import Optimizer
from image_classification.backends.tensorflow.engine.precision import Precision
from image_classification.backends.tensorflow.engine.ranks import Ranks
from image_classification.backends.tensorflow.engine.step import Step
from image_classification.backends.tensorflow.model import Classifier


class SharedStep(Step):
    """A `Step` that all ranks take together, each with a batch of its own.

    The gradients are those of all their samples, the running statistics the mean over the ranks
    that had samples. Where none had any, nothing changes.
    """

    def __init__(
        self,
        classifier: Classifier,
        average: Classifier | None,
        optimizer: Optimizer,
        precision: Precision,
        spec: ModelSpec,
        settings: OptimizerSpec,
        ranks: Ranks,
    ) -> None:
        self._ranks = ranks
        moves = () if spec.train_only_head else classifier.weights.values()
        self._moving = [weight.variable for weight in moves if not weight.learns]
        self._weight = tf.Variable(0.0)  # of the update's samples, on all ranks
        super().__init__(classifier, average, optimizer, precision, spec, settings)
        self._head_l2 = settings.head_l2 / ranks.size
        self._own_gradients = self._compiled(super()._gradients)
        self._own_update = self._compiled(super()._update)

    def start_gathering(self) -> None:
        """Forget the gradients that `add` has gathered."""
        super().start_gathering()
        self._weight.assign(0.0)

    def _traced(self, function: Any, signature: Sequence[tf.TensorSpec]) -> Any:
        return self._ranks.traced(function, signature)

    def _compiled(self, function: Any) -> Any:
        """What has no sums in it: those cannot be compiled."""
        return tf.function(function, jit_compile=True) if self._spec.compiles else function

    def _gradients(  # type: ignore[override]
        self,
        is_frozen: bool,
        images: tf.Tensor,
        targets: tf.Tensor,
        weights: tf.Tensor,
        kept: tf.Tensor,
        share: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        own = tf.reduce_sum(weights)
        (weight,) = self._ranks.sum([own])
        self._weight.assign_add(weight)
        before = [tf.identity(variable) for variable in self._moving]
        batch = images, targets, weights, kept, share
        loss, logits, gradients = self._own_gradients(is_frozen, *batch, weight)
        self._ranks.average(self._moving, before, tf.cast(own > 0.0, tf.float32))
        return loss, logits, gradients

    def _update(self, gradients: Sequence[tf.Tensor], rate: tf.Tensor, decay: tf.Tensor) -> None:
        summed = self._ranks.sum(gradients)
        if self._weight > 0.0:
            self._own_update(summed, rate, decay)
        self._weight.assign(0.0)
