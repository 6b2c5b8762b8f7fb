"""The MXNet engine: training steps, predictions, state and export.

MXNet works in the background: a step returns once it has been queued. With more than two ranks the
sums of a repeated job differ in the last digits; see `ranks`.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import autograd

from image_classification.backends import base, step
from image_classification.backends.mxnet.export import export
from image_classification.backends.mxnet.model import MXNetNetwork, NetworkTensors
from image_classification.backends.mxnet.optimizer import LossScale, Optimizer, Tensors
from image_classification.backends.mxnet.ranks import Ranks
from image_classification.backends.pretrained import pretrained_state
from image_classification.backends.state import checked_state, joined_state
from image_classification.samples import Array, Batch, Float64Array, FloatArray, UInt8Array

__all__ = ["build", "pretrained_state"]

_logger = logging.getLogger(__name__)

# MXNet's errors have no types. These are of the host (cpu_device_storage.h), of a GPU
# (pooled_storage_manager.h), and of the C++ library.
_MEMORY_MESSAGES = (
    *("Failed to allocate CPU Memory", "out of memory", "bad_alloc"),
    *("ALLOC_FAILED", "ALLOCATION_FAILED"),  # of cuBLAS and cuDNN
)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn MXNet's errors about memory into a MemoryError.

    The error of a step may be raised only where its numbers are fetched.
    """
    try:
        yield
    except mx.base.MXNetError as error:
        lines = str(error).strip().splitlines() or [""]
        if not any(text in str(error) for text in _MEMORY_MESSAGES):
            raise
        raise MemoryError(lines[-1].removeprefix("MXNetError: ")) from error


def build(spec: base.ModelSpec, optimizer: base.OptimizerSpec, world: base.World) -> base.Engine:
    """See `base.EngineModule`."""
    return _MXNetEngine(spec, optimizer, world)


@dataclass(frozen=True)
class _Step:
    loss: Any
    logits: Any
    samples: step.StepSamples

    @memory_errors()
    def fetch(self) -> tuple[float, FloatArray]:
        return float(self.loss.asscalar()), self.samples.scattered(self.logits.asnumpy())


class _MXNetEngine:
    """See `base.Engine`."""

    @memory_errors()
    def __init__(
        self, spec: base.ModelSpec, settings: base.OptimizerSpec, world: base.World
    ) -> None:
        self._spec, self._settings, self._rank = spec, settings, world.rank
        gpus = mx.context.num_gpus()
        self._context = mx.gpu(world.rank % gpus) if gpus else mx.cpu()
        self.device = f"gpu:{self._context.device_id}" if gpus else "cpu"
        # The built-in's default is float32. Its float16 has no scale of the loss: ours has.
        asked = "float32" if spec.precision == "auto" else spec.precision
        has = {"float32", "float16"} if gpus else {"float32"}
        precision = step.precision_of(asked, has, "MXNet", self.device)
        if spec.compiles:
            _logger.warning("compile=on: MXNet has no compiler for training steps; set compile=off")
        self._loss_scale = LossScale(precision)
        self._network = MXNetNetwork(spec, self._context, precision)
        self._newest = NetworkTensors(self._network, self._context)
        self._newest.initialize(spec.seed)
        self._average: NetworkTensors | None = None
        if spec.averages_weights:
            self._average = NetworkTensors(self._network, self._context)
            self._average.approach(self._newest, 0.0)
        learned = self._network.learned_shapes()
        self._gradients = Tensors(learned, self._context)
        self._optimizer = Optimizer(settings, learned, self._context)
        self._predict: Callable[[Any], Any] | None = None  # of the weights as they are
        self._frozen: Callable[[Any], Any] | None = None  # features for a head that learns alone
        self._ranks = Ranks(world)
        self._steps = 0
        self._is_new_update, self._has_weight = True, False
        self._adds_gradients: bool | None = None  # the mode that MXNet is in
        self.feature_width = self._network.graph.width
        sizes = {name: int(np.prod(shape)) for name, shape in self._network.shapes.items()}
        self.trainable_parameter_count = sum(sizes[name] for name in learned)
        self.parameter_count = sum(n for name, n in sizes.items() if ".running_" not in name)

    @memory_errors()
    def train_step(
        self, batch: Batch, learning_rate: float, update: base.Update = base.WHOLE_UPDATE
    ) -> _Step:
        has_features = step.has_features(batch.images, self._spec)
        samples = step.StepSamples.of(batch.weights)
        images = samples.picked(batch.images)
        images = self._array(images) if has_features else self._network.images(images)
        targets = self._array(samples.picked(np.asarray(batch.targets, np.float32)))
        own = float(samples.weights.sum())
        weights = self._array(samples.weights / max(own, 1e-37))
        sums = self._ranks.sum_numbers(np.array([own, samples.has_weight], np.float64))
        everyone, ranks_with_weight = sums.tolist()
        self._prepare_gradients()
        tensors = self._newest.views
        if not samples.has_weight:  # padding must not change the running statistics
            statistics = self._newest.fixed.flat.copy()
        if self._spec.train_only_head:  # in prediction mode: BatchNorms keep their statistics
            features = images if has_features else self._frozen_features(images)
        with autograd.record():
            if not self._spec.train_only_head:
                features = self._network.features(images, tensors)
            logits = self._network.logits(self._dropped_out(features), tensors)
            loss = mx.nd.sum(_sample_losses(logits, targets, self._spec) * weights)
            share = update.share * self._loss_scale.factor
            objective = self._objective(loss, own / max(everyone, 1e-37)) * share
        objective.backward()
        if not samples.has_weight:
            self._newest.fixed.flat[:] = statistics
        if not self._spec.train_only_head:
            self._ranks.average(self._newest.fixed.flat, samples.has_weight, ranks_with_weight)
        self._predict = None
        self._has_weight = everyone > 0 or (self._has_weight and not self._is_new_update)
        if update.is_last and self._has_weight:
            self._ranks.sum(self._gradients.flat)
            newest, gradients = self._newest.learned.flat, self._gradients.flat
            if self._loss_scale.unscale(gradients):
                self._optimizer.update(newest, gradients, learning_rate)
            if self._average is not None:
                self._average.approach(self._newest, update.average_decay)
        self._is_new_update = update.is_last
        self._steps += 1
        return _Step(loss.detach(), logits.detach(), samples)

    @memory_errors()
    def predict_step(self, images: Array) -> FloatArray:
        has_features = step.has_features(images, self._spec)
        features = self._array(images) if has_features else self._evaluated_features(images)
        logits: FloatArray = self._network.logits(features, self._evaluated.views).asnumpy()
        return logits

    @memory_errors()
    def features_step(self, images: UInt8Array) -> FloatArray:
        step.check_images(images, self._spec)
        features: FloatArray = self._evaluated_features(images).asnumpy()
        return features

    @memory_errors()
    def all_reduce(self, values: Float64Array) -> Float64Array:
        return self._ranks.sum_numbers(values)

    def state(self) -> base.State:
        average = None if self._average is None else self._average.read()
        slots = self._optimizer.state() | self._loss_scale.state()
        return joined_state(self._newest.read(), average, slots, self._steps)

    def load_state(self, state: base.State) -> None:
        """See `base.Engine`; ArtifactError also if parameters had unequal numbers of updates."""
        shapes, learning = self._network.shapes, self._gradients.views
        checked = checked_state(state, shapes, learning, self._spec, self._settings)
        self._optimizer.load(checked.slots)
        self._loss_scale.load(state)
        self._newest.write(checked.weights)
        if self._average is not None:
            self._average.approach(self._newest, 0.0)
            self._average.write(checked.averages)
        self._predict = self._frozen = None
        self._steps = checked.steps

    def export(self, path: Path, temperature: float = 1.0) -> None:
        weights = self._evaluated.read()
        export(path, self._spec, self._network.graph, weights, temperature, self.predict_step)

    def release(self) -> None:
        self._ranks.leave()
        del self._network, self._newest, self._gradients, self._optimizer
        self._average = self._predict = self._frozen = None
        self._context.empty_cache()

    @property
    def _evaluated(self) -> NetworkTensors:
        """The tensors of predictions and of the graph."""
        return self._newest if self._average is None else self._average

    def _evaluated_features(self, images: UInt8Array) -> Any:
        if self._spec.train_only_head:  # a step changes only the head
            return self._frozen_features(self._network.images(images))
        if self._predict is None:
            self._predict = self._network.predictor(self._evaluated.views)
        return self._predict(self._network.images(images))

    def _frozen_features(self, images: Any) -> Any:
        self._frozen = self._frozen or self._network.predictor(self._newest.views)
        return self._frozen(images)

    def _objective(self, loss: Any, fraction: float) -> Any:
        """Return this rank's part of the mean loss of all; it had that fraction of the weight."""
        objective = loss if self._ranks.size == 1 else loss * fraction
        if self._settings.head_l2:
            squares = mx.nd.sum(mx.nd.square(self._newest.views["head.weight"]))
            objective = objective + self._settings.head_l2 / self._ranks.size * squares
        return objective

    def _prepare_gradients(self) -> None:
        """Let the first batch of an update write the gradients, and the others add to them."""
        adds = not self._is_new_update
        if adds != self._adds_gradients:
            names = list(self._gradients.views)
            variables = [self._newest.views[name] for name in names]
            gradients = [self._gradients.views[name] for name in names]
            autograd.mark_variables(variables, gradients, "add" if adds else "write")
            self._adds_gradients = adds
        if self._network.graph.has_dropout:
            mx.random.seed(step.step_seed(self._spec, self._steps, self._rank) >> 1)

    def _dropped_out(self, features: Any) -> Any:
        kept = step.kept_features(self._spec, features.shape, self._steps, self._rank)
        if kept is None:
            return features
        return features * self._array(kept) / (1.0 - self._spec.dropout_rate)

    def _array(self, values: Array) -> Any:
        return mx.nd.array(values, ctx=self._context, dtype=np.float32)


def _sample_losses(logits: Any, targets: Any, spec: base.ModelSpec) -> Any:
    """Return float32 (N,): cross-entropy, with multi_label its mean over the classes."""
    if not spec.multi_label:
        if spec.logit_bias:
            bias = mx.nd.array([spec.logit_bias], ctx=logits.context)
            logits = mx.nd.broadcast_add(logits, bias)
        return -mx.nd.sum(targets * mx.nd.log_softmax(logits, axis=1), axis=1)
    # −log σ(x) = max(−x, 0) + log(1 + e^−|x|), which never overflows; −log(1 − σ(x)) is x more.
    present = mx.nd.relu(-logits) + mx.nd.log1p(mx.nd.exp(-mx.nd.abs(logits)))
    factors = 1.0
    if spec.positive_weights:
        weights = mx.nd.array([spec.positive_weights], ctx=logits.context)
        factors = 1.0 + mx.nd.broadcast_mul(targets, weights - 1.0)
    return mx.nd.mean((1.0 - targets) * logits + factors * present, axis=1)
