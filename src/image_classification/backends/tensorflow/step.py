"""The traced functions of a training step: gradients, and updates of the weights.

`Step` is for one process. With several ranks each takes a `SharedStep` with a batch of its own, and
they learn from the samples of all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from image_classification.backends.base import ModelSpec, OptimizerSpec
from image_classification.backends.tensorflow.model import Classifier
from image_classification.backends.tensorflow.optimizer import Optimizer, Precision, clipped
from image_classification.backends.tensorflow.ranks import Ranks


def losses(logits: tf.Tensor, targets: tf.Tensor, spec: ModelSpec) -> tf.Tensor:
    """Return float32 (N,): cross-entropy, with multi_label its mean over the classes.

    A logit bias is added to the logits of the cross-entropy.
    With positive weights p the loss of a class is −p · t · log σ(x) − (1 − t) · log(1 − σ(x)).
    """
    if not spec.multi_label:
        if spec.logit_bias:
            logits += tf.constant(spec.logit_bias, tf.float32)
        return tf.nn.softmax_cross_entropy_with_logits(targets, logits)
    if not spec.positive_weights:
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(targets, logits), axis=1)
    weights = tf.constant(spec.positive_weights, tf.float32)
    weighted = tf.nn.weighted_cross_entropy_with_logits(targets, logits, weights)
    return tf.reduce_mean(weighted, axis=1)


_SCALAR = tf.TensorSpec([], tf.float32)
_ROWS = tf.TensorSpec([None, None], tf.float32)
_TINY = 1.1754944e-38  # the smallest normal float32


@dataclass(frozen=True)
class Learner:
    """A model with all that changes it in training; `average` is its moving average, if any."""

    classifier: Classifier
    average: Classifier | None
    optimizer: Optimizer
    precision: Precision
    spec: ModelSpec
    settings: OptimizerSpec


class Step:
    """Gradients of a batch and updates of the weights.

    A batch is (images uint8 (N, H, W, C), targets float32 (N, classes), weights float32 (N,),
    dropout factors of the features float32 (N, width) or (1, 1), share float32). `whole(*batch,
    rate, decay)` updates the weights from one batch; `add(*batch)` gathers gradients for
    `finish(rate, decay)`; `add_empty(*batch)` gathers those of a batch without weight, which has
    only the head's penalty. All but `finish` return the batch's weighted mean loss and the logits
    float32 (N, classes).

    Args:
        learner: what the steps change.
        takes_features: the images of a batch are features, float32 (N, width): only the head
            learns.
    """

    def __init__(self, learner: Learner, *, takes_features: bool = False) -> None:
        self._takes_features = takes_features
        self._learner, self._spec, spec = learner, learner.spec, learner.spec
        self._head_l2 = learner.settings.head_l2
        learned = learning(learner.classifier, spec)
        self._learning = [weight.variable for weight in learned.values()]
        self._gathered: list[tf.Variable] = []
        channels, height, width = spec.input_shape
        images = tf.TensorSpec([None, height, width, channels], tf.uint8)
        if takes_features:
            images = tf.TensorSpec([None, learner.classifier.trunk.width], tf.float32)
        batch = [images, _ROWS, tf.TensorSpec([None], tf.float32), _ROWS, _SCALAR]
        self.whole = self._traced(self._whole, [*batch, _SCALAR, _SCALAR])
        self.add = self._traced(self._add, batch)
        self.add_empty = self._traced(self._add_empty, batch)
        self.finish = self._traced(self._finish, [_SCALAR, _SCALAR])

    def start_gathering(self) -> None:
        """Set the gathered gradients to zero."""
        if not self._gathered:
            self._gathered = [tf.Variable(tf.zeros_like(v)) for v in self._learning]
        for gathered in self._gathered:
            gathered.assign(tf.zeros_like(gathered))

    def _traced(self, function: Any, signature: Sequence[tf.TensorSpec]) -> Any:
        compiles = True if self._spec.compiles else None
        return tf.function(function, input_signature=signature, jit_compile=compiles)

    def _whole(self, *inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        *batch, rate, decay = inputs
        loss, logits, gradients = self._gradients(self._spec.train_only_head, *batch)
        self._update(gradients, rate, decay)
        return loss, logits

    def _add(self, *batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self._gather(self._spec.train_only_head, batch)

    def _add_empty(self, *batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self._gather(True, batch)

    def _gather(self, is_frozen: bool, batch: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        loss, logits, gradients = self._gradients(is_frozen, *batch)
        for gathered, gradient in zip(self._gathered, gradients, strict=True):
            gathered.assign_add(gradient)
        return loss, logits

    def _finish(self, rate: tf.Tensor, decay: tf.Tensor) -> None:
        self._update([gathered.read_value() for gathered in self._gathered], rate, decay)

    def _gradients(
        self,
        is_frozen: bool,
        images: tf.Tensor,
        targets: tf.Tensor,
        weights: tf.Tensor,
        kept: tf.Tensor,
        share: tf.Tensor,
        weight: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Return (loss, logits, gradients of share · loss); only gradients include the L2 term.

        With `is_frozen` the trunk keeps its statistics, and its gradients are zeros. In the
        gradients the sum of the losses is divided by `weight`, by default the batch's.
        """
        classifier, precision = self._learner.classifier, self._learner.precision
        dtype = precision.dtype
        features = images if self._takes_features else None
        if is_frozen and features is None:
            features = classifier.features(images, dtype=dtype)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._learning)
            if features is None:
                features = classifier.features(images, is_training=True, dtype=dtype)
            logits = classifier.head(features * kept)
            total = tf.tensordot(losses(logits, targets, self._spec), weights, 1)
            loss = total / tf.maximum(tf.reduce_sum(weights), _TINY)
            objective = loss if weight is None else total / tf.maximum(weight, _TINY)
            if self._head_l2:
                penalty = tf.reduce_sum(tf.square(classifier.head_weight))
                objective += self._head_l2 * penalty
            objective = precision.scaled(objective * share)
        zero = tf.UnconnectedGradients.ZERO
        gradients = tape.gradient(objective, self._learning, unconnected_gradients=zero)
        return loss, logits, gradients

    def _update(self, gradients: Sequence[tf.Tensor], rate: tf.Tensor, decay: tf.Tensor) -> None:
        learner = self._learner

        def apply(unscaled: Sequence[tf.Tensor]) -> None:
            learner.optimizer.apply(clipped(unscaled, learner.settings.clip_gradient_norm), rate)

        learner.precision.update(gradients, apply)
        if learner.average is None:
            return
        for name, weight in learner.average.weights.items():
            newest = learner.classifier.weights[name].variable
            weight.variable.assign_sub((1.0 - decay) * (weight.variable - newest))


def learning(classifier: Classifier, spec: ModelSpec) -> dict[str, Any]:
    """Return the weights that have a gradient, by neutral name: all, or those of the head."""
    return {
        name: weight
        for name, weight in classifier.weights.items()
        if weight.learns and (name.startswith("head.") or not spec.train_only_head)
    }


class SharedStep(Step):
    """A `Step` that all ranks take together, each with a batch of its own.

    The gradients are those of all samples, and the running statistics the mean over the ranks that
    had samples. If none had any, nothing changes.
    """

    def __init__(self, learner: Learner, ranks: Ranks, *, takes_features: bool = False) -> None:
        self._ranks = ranks
        weights = () if learner.spec.train_only_head else learner.classifier.weights.values()
        self._moving = [weight.variable for weight in weights if not weight.learns]
        self._weight = tf.Variable(0.0)  # of the update's samples, on all ranks
        super().__init__(learner, takes_features=takes_features)
        self._head_l2 = learner.settings.head_l2 / ranks.size
        self._own_gradients = self._compiled(super()._gradients)
        self._own_update = self._compiled(super()._update)

    def start_gathering(self) -> None:
        super().start_gathering()
        self._weight.assign(0.0)

    def _traced(self, function: Any, signature: Sequence[tf.TensorSpec]) -> Any:
        return self._ranks.traced(function, signature)

    def _compiled(self, function: Any) -> Any:
        """Compile a function without sums over the ranks, which cannot be compiled."""
        return tf.function(function, jit_compile=True) if self._spec.compiles else function

    def _gradients(
        self, is_frozen: bool, *batch: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        _images, _targets, weights, *_ = batch
        own = tf.reduce_sum(weights)
        (weight,) = self._ranks.sum([own])
        self._weight.assign_add(weight)
        before = [tf.identity(variable) for variable in self._moving]
        loss, logits, gradients = self._own_gradients(is_frozen, *batch, weight)
        self._ranks.average(self._moving, before, tf.cast(own > 0.0, tf.float32))
        return loss, logits, gradients

    def _update(self, gradients: Sequence[tf.Tensor], rate: tf.Tensor, decay: tf.Tensor) -> None:
        summed = self._ranks.sum(gradients)
        if self._weight > 0.0:
            self._own_update(summed, rate, decay)
        self._weight.assign(0.0)
