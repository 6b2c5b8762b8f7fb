"""The TensorFlow engine: one training step, one prediction step, state in and out.

In: batches of uint8 images N·H·W·C and soft targets. Out: losses and logits, arrays under neutral
names, an ONNX file. Runs on the GPU of its rank, else on the CPU. On the CPU the same seed, batches
and number of threads give bit-equal weights, across a stop and a resume as well.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from image_classification.backends import import_errors, pretrained
from image_classification.backends.base import (
    AVERAGE_PREFIX,
    STEPS,
    WEIGHT_PREFIX,
    WHOLE_UPDATE,
    Backbone,
    Engine,
    ModelSpec,
    OptimizerSpec,
    State,
    Update,
    World,
)
from image_classification.backends.state import checked_state
from image_classification.backends.step import StepSamples, kept_features, step_samples
from image_classification.backends.tensorflow import catalog, formats, model
from image_classification.backends.tensorflow.export import export
from image_classification.backends.tensorflow.optimizer import Optimizer, precision_of
from image_classification.backends.tensorflow.ranks import Ranks
from image_classification.backends.tensorflow.step import SharedStep, Step, learning
from image_classification.images.preprocessing import Preprocessing
from image_classification.samples import Batch, FloatArray, UInt8Array

__all__ = ["build", "pretrained_state"]


@contextmanager
def memory_errors() -> Iterator[None]:
    """While the block or function runs, TensorFlow's error about memory becomes a MemoryError.

    Raises:
        MemoryError: the device's memory or the host's does not hold what the block needs.
    """
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        # Without the node it happened in and advice about TensorFlow's own settings.
        reason = str(error.message).splitlines()[0].rpartition("}} ")[2]
        raise MemoryError(reason.partition(" [Op:")[0]) from error


_logger = logging.getLogger(__name__)


def prepare_device(world: World) -> str:
    """TensorFlow's name of this rank's device: a GPU where there is one, else the CPU.

    On the CPU operations become deterministic: a resumed job ends with the same weights, bit for
    bit. On a GPU memory is taken as it is needed, and float32 is float32: predictions promise 1e-4.
    """
    _set_threads(world.threads)
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        tf.config.experimental.enable_op_determinism()
        return "/CPU:0"
    for gpu in gpus:
        _configure(tf.config.experimental.set_memory_growth, gpu, True)
    if world.size > 1:  # of the GPUs that it sees TensorFlow would make a worker each
        _configure(tf.config.set_visible_devices, gpus[world.rank % len(gpus)], "GPU")
        gpus = gpus[:1]
    tf.config.experimental.enable_tensor_float_32_execution(False)
    return f"/GPU:{world.rank % len(gpus)}"


def _set_threads(threads: int) -> None:
    """As many threads within an operation; operations run one after another.

    Several at a time would contend for the same cores, beside the threads that decode images.
    """
    _configure(tf.config.threading.set_intra_op_parallelism_threads, threads)
    _configure(tf.config.threading.set_inter_op_parallelism_threads, 1)


def _configure(setter: object, *values: object) -> None:
    """TensorFlow takes such a value only before its first operation in a process."""
    try:
        setter(*values)  # type: ignore[operator]
    except RuntimeError as error:
        _logger.warning("TensorFlow keeps the setting it began with: %s", error)


def pretrained_state(backbone: Backbone, weights_dir: Path | None) -> State | None:
    """As `backends.pretrained`; for `keras/<class>` also `<weights_dir>/keras/<class>.h5`.

    That is the file `…_notop.h5` of keras.applications under the class's name: it has no head.

    Raises:
        ArtifactError: a file is there but damaged, altered or of another network.
    """
    state = pretrained.pretrained_state(backbone, weights_dir)
    path = weights_dir / f"{backbone.name}.h5" if weights_dir else None
    is_keras = backbone.name.startswith(catalog.PREFIX)
    if state is not None or path is None or not is_keras or not path.is_file():
        return state
    with import_errors(f"backbone {backbone.name!r} needs Keras", "tensorflow"):
        from image_classification.backends.tensorflow.keras_trunk import read_keras_weights

    shape = (3, backbone.input_size, backbone.input_size)
    named = read_keras_weights(backbone.name, path, shape)
    return {WEIGHT_PREFIX + name: array for name, array in named.items()}


@memory_errors()
def build(spec: ModelSpec, optimizer: OptimizerSpec, world: World) -> Engine:
    """A model with fresh weights and its optimizer, on this process's device.

    Raises:
        BackendError: the backbone or the optimizer does not exist.
        AlgorithmError: there are several ranks, and they do not meet.
    """
    return _TensorFlowEngine(spec, optimizer, world)


@dataclass(frozen=True)
class _Step:
    """A step whose numbers may still be on the device."""

    loss: tf.Tensor
    logits: tf.Tensor
    samples: StepSamples

    @memory_errors()
    def fetch(self) -> tuple[float, FloatArray]:
        """Wait: (cross entropy without the head's L2 term, logits float32 (N, classes))."""
        return float(self.loss), self.samples.scattered(self.logits.numpy())


class _TensorFlowEngine:
    """See `backends/base.py` for the protocol."""

    def __init__(self, spec: ModelSpec, settings: OptimizerSpec, world: World) -> None:
        self._spec, self._settings, self._rank, self._steps = spec, settings, world.rank, 0
        self._device = prepare_device(world)
        self._ranks = Ranks(world)
        with tf.device(self._device):
            self._model = model.build(spec)
            self._average = model.build(spec) if spec.averages_weights else None
            learned = learning(self._model, spec)
            self._optimizer = Optimizer(settings, learned)
            self._precision = precision_of(spec.precision, self._device)
            parts = (self._model, self._average, self._optimizer, self._precision, spec, settings)
            is_alone = world.size == 1
            self._step = Step(*parts) if is_alone else SharedStep(*parts, self._ranks)
        channels, height, width = spec.input_shape
        images = tf.TensorSpec([None, height, width, channels], tf.uint8)
        self._logits = tf.function(self._evaluated.logits, input_signature=[images])
        self._is_new_update, self._has_weight = True, False  # of any batch of the update so far
        self.device = "cpu" if "CPU" in self._device else self._device.strip("/").lower()
        counts = {name: int(np.prod(weight.shape)) for name, weight in self._model.weights.items()}
        learns = {name for name, weight in self._model.weights.items() if weight.learns}
        self.parameter_count = sum(counts[name] for name in learns)
        self.trainable_parameter_count = sum(counts[name] for name in learned)

    @memory_errors()
    def train_step(
        self, batch: Batch, learning_rate: float, update: Update = WHOLE_UPDATE
    ) -> _Step:
        """The gradients of one batch and, if it is the update's last, the update.

        Samples of weight 0 are left out of the forward pass; their logits are zeros.
        """
        samples = step_samples(batch.weights)
        rates = np.float32(learning_rate), np.float32(update.average_decay)
        # Of several ranks the step finds out itself whether any has samples.
        has_weight = samples.has_weight or self._ranks.size > 1
        self._has_weight = has_weight or (self._has_weight and not self._is_new_update)
        self._model.trunk.start_step(self._entropy())
        with self._ranks.loss_noticed(), tf.device(self._device):
            inputs = self._inputs(batch, samples, update.share)
            if self._is_new_update and update.is_last and has_weight:
                loss, logits = self._step.whole(*inputs, *rates)
            else:
                if self._is_new_update:
                    self._step.start_gathering()
                add = self._step.add if has_weight else self._step.add_empty
                loss, logits = add(*inputs)
                if update.is_last and self._has_weight:
                    self._step.finish(*rates)
        self._optimizer.has_updated |= update.is_last and self._has_weight
        self._is_new_update = update.is_last
        self._steps += 1
        return _Step(loss, logits, samples)

    @memory_errors()
    def predict_step(self, images: UInt8Array) -> FloatArray:
        """Logits, float32 (N, classes), in evaluation mode and full precision."""
        self._spec.check_images(images)
        with tf.device(self._device):
            logits: FloatArray = self._logits(images).numpy()
        return logits

    def all_reduce(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Float64 (N,) values summed over the ranks."""
        with self._ranks.loss_noticed(), tf.device(self._device):
            return self._ranks.total(values)

    def state(self) -> State:
        """Copies of the weights, the running statistics, the optimizer and the step count."""
        state: State = {}
        for prefix, classifier in ((WEIGHT_PREFIX, self._model), (AVERAGE_PREFIX, self._average)):
            if classifier is not None:
                arrays = classifier.state()
                state.update({prefix + name: array for name, array in arrays.items()})
        state.update(self._optimizer.state())
        state.update(self._precision.state())
        state[STEPS] = np.array(self._steps, dtype=np.int64)
        return state

    def load_state(self, state: State) -> None:
        """Take weights and, where present, the optimizer; nothing changes when any is refused.

        A head that is absent or of another width keeps its fresh weights. Without an optimizer
        part the optimizer and the step count start afresh.

        Raises:
            ArtifactError: a tensor or a slot that does not fit; see `checked_state`.
        """
        learned, shapes = learning(self._model, self._spec), self._model.shapes()
        checked = checked_state(state, shapes, learned, self._spec, self._settings)
        self._model.assign(checked.weights)
        if self._average is not None:
            self._average.assign(self._model.state() | checked.averages)
        self._optimizer.load(checked.slots)
        self._precision.load(state)
        self._steps = checked.steps
        self._is_new_update = True

    def export(self, path: Path, temperature: float = 1.0) -> None:
        """Write the ONNX file, checked against this model; AlgorithmError when they differ."""
        export(self._evaluated, self._spec, path, temperature, self.predict_step)

    def write_format(
        self, name: str, path: Path, temperature: float, preprocessing: Preprocessing
    ) -> None:
        """Write one of the catalog's FORMATS: see `export/formats`."""
        parts = (self._evaluated, self._spec, temperature, preprocessing, self.predict_step)
        formats.write_format(name, path, *parts)

    def release(self) -> None:
        """Leave the other ranks and free the device; the engine cannot be used afterward."""
        self._ranks.leave()
        for name in ("_step", "_optimizer", "_logits", "_model", "_average", "_precision"):
            setattr(self, name, None)
        gc.collect()  # traced functions and variables refer to each other

    @property
    def _evaluated(self) -> model.Classifier:
        """The network of predictions and of the graph."""
        return self._average or self._model

    def _inputs(self, batch: Batch, samples: StepSamples, share: float) -> tuple[Any, ...]:
        self._spec.check_images(batch.images)
        images = batch.images if samples.is_everyone else batch.images[samples.indices]
        targets = np.asarray(batch.targets, np.float32)[samples.indices]
        shape = (len(images), self._model.trunk.width)
        rate = self._spec.dropout_rate
        kept = kept_features(rate, shape, self._spec.seed, self._steps, self._rank)
        factors: FloatArray = np.ones((1, 1), np.float32)
        if kept is not None:
            factors = kept.astype(np.float32)
            factors /= np.float32(1.0 - rate)
        return images, targets, samples.weights, factors, np.float32(share)

    def _entropy(self) -> int:
        mixed = np.random.SeedSequence([self._spec.seed, self._steps, self._rank])
        return int(mixed.generate_state(1)[0])
