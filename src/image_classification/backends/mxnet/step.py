"""The MXNet engine: one training step, one prediction step, state in and out.

In: batches of uint8 images N·H·W·C and soft targets. Out: losses and logits, arrays under neutral
names, an ONNX file. Runs on the GPU of its rank where MXNet has one, else on the CPU. On the CPU
the same seed, batches and number of threads give bit-equal weights, across a stop and a resume as
well; of more than two ranks see `ranks`.
MXNet works in the background: a step returns when it has been handed over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import numpy.typing as npt
from mxnet import autograd

from image_classification.backends.base import (
    AVERAGE_PREFIX,
    STEPS,
    WEIGHT_PREFIX,
    WHOLE_UPDATE,
    ModelSpec,
    OptimizerSpec,
    State,
    Update,
    World,
)
from image_classification.backends.mxnet.export import export
from image_classification.backends.mxnet.model import MXNetNetwork, NetworkTensors
from image_classification.backends.mxnet.optimizer import Optimizer, Tensors
from image_classification.backends.mxnet.ranks import Ranks
from image_classification.backends.state import checked_state
from image_classification.backends.step import StepSamples, kept_features, step_samples
from image_classification.samples import Batch, FloatArray, UInt8Array

# An MXNetError has no type of its own for it: of the host (cpu_device_storage.h), of a GPU
# (pooled_storage_manager.h), and of the C++ library.
_SAID = ("Failed to allocate CPU Memory", "out of memory", "bad_alloc")


@contextmanager
def memory_errors() -> Iterator[None]:
    """While the block or function runs, MXNet's errors about memory become a MemoryError.

    MXNet works in the background: what fails in a step may be said where its numbers are fetched.

    Raises:
        MemoryError: the device's memory or the host's does not hold what the block needs.
    """
    try:
        yield
    except mx.base.MXNetError as error:
        lines = str(error).strip().splitlines() or [""]
        if not any(text in str(error) for text in _SAID):
            raise
        raise MemoryError(lines[-1].removeprefix("MXNetError: ")) from error


@dataclass(frozen=True)
class Step:
    """A step that MXNet may still be working on."""

    loss: Any
    logits: Any
    samples: StepSamples

    @memory_errors()
    def fetch(self) -> tuple[float, FloatArray]:
        """Wait: (cross entropy without the head's L2 term, logits float32 (N, classes))."""
        return float(self.loss.asscalar()), self.samples.scattered(self.logits.asnumpy())


def sample_losses(logits: Any, targets: Any, spec: ModelSpec) -> Any:
    """Float32 (N,): cross entropy; of several labels the mean over the classes.

    Args:
        logits: float32 (N, classes).
        targets: float32 (N, classes), each row adding to 1 unless there may be several classes.
        spec: of the model: `multi_label` and `positive_weights`.
    """
    if not spec.multi_label:
        return -mx.nd.sum(targets * mx.nd.log_softmax(logits, axis=1), axis=1)
    # −log σ(x) = max(−x, 0) + log(1 + e^−|x|), which never overflows; −log(1 − σ(x)) is x more.
    present = mx.nd.relu(-logits) + mx.nd.log1p(mx.nd.exp(-mx.nd.abs(logits)))
    factors = 1.0
    if spec.positive_weights:
        weights = mx.nd.array([spec.positive_weights], ctx=logits.context)
        factors = 1.0 + mx.nd.broadcast_mul(targets, weights - 1.0)
    return mx.nd.mean((1.0 - targets) * logits + factors * present, axis=1)


_logger = logging.getLogger(__name__)


class MXNetEngine:
    """See `backends/base.py` for the protocol."""

    @memory_errors()
    def __init__(self, spec: ModelSpec, settings: OptimizerSpec, world: World) -> None:
        self._spec, self._settings, self._rank = spec, settings, world.rank
        gpus = mx.context.num_gpus()
        self._context = mx.gpu(world.rank % gpus) if gpus else mx.cpu()
        _check_precision(spec.precision, self._context)
        self._network = MXNetNetwork(spec, self._context)
        self._newest = NetworkTensors(self._network, self._context)
        self._newest.initialize(spec.seed)
        self._average: NetworkTensors | None = None
        if spec.averages_weights:
            self._average = NetworkTensors(self._network, self._context)
            self._average.approach(self._newest, 0.0)
        learned = self._network.learned_shapes()
        self._gradients = Tensors(learned, self._context)
        self._optimizer = Optimizer(settings, learned, self._context)
        self._predict: Callable[[Any], Any] | None = None  # made when it is needed
        self._frozen: Callable[[Any], Any] | None = None  # likewise: features under the new head
        self._ranks = Ranks(world)
        self._steps = 0
        self._is_new_update, self._has_weight = True, False
        self._adds_gradients: bool | None = None  # as MXNet was last told
        self.device = str(self._context)
        self.trainable_parameter_count = _size(learned)
        parameters = {n: s for n, s in self._network.shapes.items() if ".running_" not in n}
        self.parameter_count = _size(parameters)

    @memory_errors()
    def train_step(self, batch: Batch, learning_rate: float, update: Update = WHOLE_UPDATE) -> Step:
        """The gradients of one batch and, if it is the update's last, the update.

        Samples of weight 0 are left out of the forward pass; their logits are zeros.
        """
        samples = step_samples(batch.weights)
        picked = batch.images if samples.is_everyone else batch.images[samples.indices]
        images = self._network.images(picked)
        targets = self._array(np.asarray(batch.targets, np.float32)[samples.indices])
        own = float(samples.weights.sum())
        weights = self._array(samples.weights / max(own, 1e-37))
        sums = self._ranks.sum_numbers(np.array([own, samples.has_weight], np.float64))
        everyone, ranks_with_weight = sums.tolist()
        self._prepare_gradients()
        tensors = self._newest.views
        if not samples.has_weight:  # padding shall leave no trace in the running statistics
            statistics = self._newest.fixed.flat.copy()
        if self._spec.train_only_head:  # in prediction mode: BatchNorms keep their statistics
            self._frozen = self._frozen or self._network.predictor(tensors)
            features = self._frozen(images)
        with autograd.record():
            if not self._spec.train_only_head:
                features = self._network.features(images, tensors)
            logits = self._network.logits(self._dropped_out(features), tensors)
            loss = mx.nd.sum(sample_losses(logits, targets, self._spec) * weights)
            objective = self._objective(loss, own / max(everyone, 1e-37)) * update.share
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
            self._optimizer.update(newest, gradients, learning_rate)
            if self._average is not None:
                self._average.approach(self._newest, update.average_decay)
        self._is_new_update = update.is_last
        self._steps += 1
        return Step(loss.detach(), logits.detach(), samples)

    @memory_errors()
    def predict_step(self, images: UInt8Array) -> FloatArray:
        """Logits, float32 (N, classes), in evaluation mode."""
        if self._predict is None:
            self._predict = self._network.predictor(self._evaluated.views)
        features = self._predict(self._network.images(images))
        logits: FloatArray = self._network.logits(features, self._evaluated.views).asnumpy()
        return logits

    @memory_errors()
    def all_reduce(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Float64 (N,) values summed over the ranks."""
        return self._ranks.sum_numbers(values)

    def state(self) -> State:
        """Copies of the weights, the running statistics, the optimizer and the step count."""
        parts = {WEIGHT_PREFIX: self._newest}
        if self._average is not None:
            parts[AVERAGE_PREFIX] = self._average
        state: State = {
            prefix + name: array for prefix, part in parts.items() for name, array in _read(part)
        }
        state.update(self._optimizer.state())
        state[STEPS] = np.array(self._steps, dtype=np.int64)
        return state

    def load_state(self, state: State) -> None:
        """Take weights and, where present, the optimizer; nothing where anything is refused.

        A head that is absent or of another width keeps its fresh weights. Without an optimizer
        part the optimizer and the step count start afresh.

        Raises:
            ArtifactError: see `checked_state`; or the parameters had unequal numbers of updates.
        """
        shapes, learning = self._network.shapes, self._gradients.views
        checked = checked_state(state, shapes, learning, self._spec, self._settings)
        self._optimizer.load(checked.slots)
        self._newest.write(checked.weights)
        if self._average is not None:
            self._average.approach(self._newest, 0.0)
            self._average.write(checked.averages)
        self._predict = self._frozen = None
        self._steps = checked.steps

    def export(self, path: Path, temperature: float = 1.0) -> None:
        """Write the ONNX file, checked against this model; AlgorithmError when they differ."""
        weights = self._evaluated.read()
        export(path, self._spec, self._network.graph, weights, temperature, self.predict_step)

    def release(self) -> None:
        """Leave the other ranks and free the device; the engine cannot be used afterward."""
        self._ranks.leave()
        del self._network, self._newest, self._gradients, self._optimizer
        self._average = self._predict = self._frozen = None
        self._context.empty_cache()

    @property
    def _evaluated(self) -> NetworkTensors:
        """The tensors of predictions and of the graph."""
        return self._newest if self._average is None else self._average

    def _objective(self, loss: Any, fraction: float) -> Any:
        """This rank's part of all ranks' mean loss: it had that fraction of their weight."""
        objective = loss if self._ranks.size == 1 else loss * fraction
        if self._settings.head_l2:
            squares = mx.nd.sum(mx.nd.square(self._newest.views["head.weight"]))
            objective = objective + self._settings.head_l2 / self._ranks.size * squares
        return objective

    def _prepare_gradients(self) -> None:
        """An update's first batch writes the gradients, its others add to them."""
        adds = not self._is_new_update
        if adds != self._adds_gradients:
            names = list(self._gradients.views)
            variables = [self._newest.views[name] for name in names]
            gradients = [self._gradients.views[name] for name in names]
            autograd.mark_variables(variables, gradients, "add" if adds else "write")
            self._adds_gradients = adds
        if self._network.graph.has_dropout:
            mixed = np.random.SeedSequence([self._spec.seed, self._steps, self._rank])
            mx.random.seed(int(mixed.generate_state(1)[0]) >> 1)

    def _dropped_out(self, features: Any) -> Any:
        rate, seed = self._spec.dropout_rate, self._spec.seed
        kept = kept_features(rate, features.shape, seed, self._steps, self._rank)
        return features if kept is None else features * self._array(kept) / (1.0 - rate)

    def _array(self, values: npt.NDArray[Any]) -> Any:
        return mx.nd.array(values, ctx=self._context, dtype=np.float32)


def _read(tensors: NetworkTensors) -> list[tuple[str, FloatArray]]:
    return list(tensors.read().items())


def _size(shapes: Any) -> int:
    return sum(int(np.prod(shape)) for shape in shapes.values())


def _check_precision(name: str, context: Any) -> None:
    if name not in {"auto", "float32"}:
        _logger.warning("precision=%s: MXNet on %s computes in float32 instead", name, context)
