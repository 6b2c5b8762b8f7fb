"""The TensorFlow engine: training steps, predictions, state and export.

The functions of a step are traced once (`step`); on a GPU their results may still be computed when
a step returns.
"""

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from image_classification.backends import base, import_errors, pretrained, step
from image_classification.backends.state import checked_state, joined_state
from image_classification.backends.tensorflow import catalog, model
from image_classification.backends.tensorflow.export import export
from image_classification.backends.tensorflow.optimizer import Optimizer, Precision
from image_classification.backends.tensorflow.ranks import Ranks
from image_classification.backends.tensorflow.step import Learner, SharedStep, Step, learning
from image_classification.images.preprocessing import Preprocessing
from image_classification.samples import Array, Batch, Float64Array, FloatArray, UInt8Array

_logger = logging.getLogger(__name__)


@contextmanager
def memory_errors() -> Iterator[None]:
    """Turn TensorFlow's error about memory into a MemoryError."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        # Without the name of the node and advice about TensorFlow's settings.
        reason = str(error.message).splitlines()[0].rpartition("}} ")[2]
        raise MemoryError(reason.partition(" [Op:")[0]) from error


def prepare_device(world: base.World) -> str:
    """Set up this rank's GPU, or else the CPU, and return TensorFlow's name of it.

    CPU operations become deterministic, for bit-equal resumed jobs. A GPU allocates memory when it
    needs it and computes float32 in full precision, because predictions promise 1e-4. Operations
    run one after another: several at a time would compete for the cores, also with the threads that
    decode images.
    """
    _configure(tf.config.threading.set_intra_op_parallelism_threads, world.threads)
    _configure(tf.config.threading.set_inter_op_parallelism_threads, 1)
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        tf.config.experimental.enable_op_determinism()
        return "/CPU:0"
    for gpu in gpus:
        _configure(tf.config.experimental.set_memory_growth, gpu, True)
    if world.size > 1:  # TensorFlow would make a worker of each GPU that it sees
        _configure(tf.config.set_visible_devices, gpus[world.rank % len(gpus)], "GPU")
        gpus = gpus[:1]
    tf.config.experimental.enable_tensor_float_32_execution(False)
    return f"/GPU:{world.rank % len(gpus)}"


def precision_names(device: str) -> set[str]:
    """Return the names of the precisions that TensorFlow has on a device, such as /GPU:0.

    The others would fail or be emulated: TensorFlow itself does not ask the GPU.
    """
    if "GPU" not in device:
        return {"float32"}
    gpu = tf.config.get_visible_devices("GPU")[int(device.rpartition(":")[2])]
    details = tf.config.experimental.get_device_details(gpu)
    return step.gpu_precisions(details.get("compute_capability", (0, 0)))


def _configure(setter: Callable[..., None], *values: object) -> None:
    try:
        setter(*values)
    except RuntimeError as error:  # after the first operation of the process
        _logger.warning("TensorFlow is running already and keeps its settings: %s", error)


def pretrained_state(backbone: base.Backbone, weights_dir: Path | None) -> base.State | None:
    """See `base.EngineModule`; for `keras/<class>` also read `<weights_dir>/keras/<class>.h5`.

    That is the file `…_notop.h5` of keras.applications, renamed to the class; it has no head.
    `weights_dir` can also be the file itself.
    """
    state = pretrained.pretrained_state(backbone, weights_dir)
    path = weights_dir
    if path is not None and not path.is_file():
        path = path / f"{backbone.name}.h5"
    is_keras = backbone.name.startswith(catalog.PREFIX)
    if state is not None or path is None or not is_keras or not path.is_file():
        return state
    with import_errors(f"backbone {backbone.name!r} needs Keras", "tensorflow"):
        from image_classification.backends.tensorflow.keras_trunk import read_keras_weights

    shape = (3, backbone.input_size, backbone.input_size)
    named = read_keras_weights(backbone.name, path, shape)
    return {base.WEIGHT_PREFIX + name: array for name, array in named.items()}


@memory_errors()
def build(spec: base.ModelSpec, optimizer: base.OptimizerSpec, world: base.World) -> base.Engine:
    """See `base.EngineModule`."""
    return _TensorFlowEngine(spec, optimizer, world)


@dataclass(frozen=True)
class _Step:
    loss: tf.Tensor
    logits: tf.Tensor
    samples: step.StepSamples

    @memory_errors()
    def fetch(self) -> tuple[float, FloatArray]:
        return float(self.loss), self.samples.scattered(self.logits.numpy())


class _TensorFlowEngine:
    """See `base.Engine`."""

    def __init__(
        self, spec: base.ModelSpec, settings: base.OptimizerSpec, world: base.World
    ) -> None:
        self._spec, self._settings, self._rank, self._steps = spec, settings, world.rank, 0
        self._device = prepare_device(world)
        self._ranks = Ranks(world)
        with tf.device(self._device):
            self._model = model.build(spec)
            self._average = model.build(spec) if spec.averages_weights else None
            learned = learning(self._model, spec)
            self._optimizer = Optimizer(settings, learned)
            has = precision_names(self._device)
            precision = step.precision_of(spec.precision, has, "TensorFlow", self._device)
            self._precision = Precision(tf.as_dtype(precision))
            learner = Learner(
                *(self._model, self._average, self._optimizer, self._precision, spec, settings)
            )
            self._step, self._head_step = (
                Step(learner, takes_features=takes_features)
                if world.size == 1
                else SharedStep(learner, self._ranks, takes_features=takes_features)
                for takes_features in (False, True)
            )
        channels, height, width = spec.input_shape
        images = tf.TensorSpec([None, height, width, channels], tf.uint8)
        self._logits = tf.function(self._evaluated.logits, input_signature=[images])
        self._features = tf.function(self._evaluated.features, input_signature=[images])
        features = tf.TensorSpec([None, self._model.trunk.width], tf.float32)
        self._head = tf.function(self._evaluated.head, input_signature=[features])
        self.feature_width = self._model.trunk.width
        self._is_new_update, self._has_weight = True, False  # of any batch of the update so far
        self.device = "cpu" if "CPU" in self._device else self._device.strip("/").lower()
        counts = {name: int(np.prod(weight.shape)) for name, weight in self._model.weights.items()}
        learns = {name for name, weight in self._model.weights.items() if weight.learns}
        self.parameter_count = sum(counts[name] for name in learns)
        self.trainable_parameter_count = sum(counts[name] for name in learned)

    @memory_errors()
    def train_step(
        self, batch: Batch, learning_rate: float, update: base.Update = base.WHOLE_UPDATE
    ) -> _Step:
        has_features = step.has_features(batch.images, self._spec)
        taken = self._head_step if has_features else self._step
        samples = step.StepSamples.of(batch.weights)
        rates = np.float32(learning_rate), np.float32(update.average_decay)
        # With several ranks the step itself determines whether any of them has samples.
        has_weight = samples.has_weight or self._ranks.size > 1
        self._has_weight = has_weight or (self._has_weight and not self._is_new_update)
        self._model.trunk.start_step(step.step_seed(self._spec, self._steps, self._rank))
        with self._ranks.loss_noticed(), tf.device(self._device):
            inputs = self._inputs(batch, samples, update.share)
            if self._is_new_update and update.is_last and has_weight:
                loss, logits = taken.whole(*inputs, *rates)
            else:
                if self._is_new_update:
                    taken.start_gathering()
                add = taken.add if has_weight else taken.add_empty
                loss, logits = add(*inputs)
                if update.is_last and self._has_weight:
                    taken.finish(*rates)
        if update.is_last and self._has_weight:
            self._optimizer.note_update()
        self._is_new_update = update.is_last
        self._steps += 1
        return _Step(loss, logits, samples)

    @memory_errors()
    def predict_step(self, images: Array) -> FloatArray:
        compute = self._head if step.has_features(images, self._spec) else self._logits
        with tf.device(self._device):
            logits: FloatArray = compute(images).numpy()
        return logits

    @memory_errors()
    def features_step(self, images: UInt8Array) -> FloatArray:
        step.check_images(images, self._spec)
        with tf.device(self._device):
            features: FloatArray = self._features(images).numpy()
        return features

    def all_reduce(self, values: Float64Array) -> Float64Array:
        with self._ranks.loss_noticed(), tf.device(self._device):
            return self._ranks.total(values)

    def state(self) -> base.State:
        average = self._average.state() if self._average else None
        slots = self._optimizer.state() | self._precision.state()
        return joined_state(self._model.state(), average, slots, self._steps)

    def load_state(self, state: base.State) -> None:
        learned, shapes = learning(self._model, self._spec), self._model.shapes()
        checked = checked_state(state, shapes, learned, self._spec, self._settings)
        self._model.assign(checked.weights)
        if self._average is not None:
            self._average.assign(self._model.state() | checked.averages)
        self._optimizer.load(checked.slots)
        self._precision.load(state)
        self._steps = checked.steps
        self._is_new_update = True

    def given_head(self) -> base.State | None:
        """See `base.HeadGiver`."""
        head = getattr(self._model.trunk, "head", None)
        return head and {base.WEIGHT_PREFIX + name: value for name, value in head.items()}

    def export(self, path: Path, temperature: float = 1.0) -> None:
        export(self._evaluated, self._spec, path, temperature, self.predict_step)

    def write_format(
        self, name: str, path: Path, temperature: float, preprocessing: Preprocessing
    ) -> None:
        """See `base.FormatWriter`."""
        with import_errors(f"format {name!r} needs Keras", "tensorflow"):
            from image_classification.backends.tensorflow import formats

        predict = self.predict_step
        formats.write_format(
            name, path, self._evaluated, self._spec, temperature, preprocessing, predict
        )

    def release(self) -> None:
        self._ranks.leave()
        functions = ("_step", "_head_step", "_logits", "_features", "_head")
        for name in (*functions, "_optimizer", "_model", "_average", "_precision"):
            setattr(self, name, None)
        gc.collect()  # traced functions and variables refer to one another

    @property
    def _evaluated(self) -> model.Classifier:
        """The network of predictions and of the graph."""
        return self._average or self._model

    def _inputs(self, batch: Batch, samples: step.StepSamples, share: float) -> tuple[Any, ...]:
        images = samples.picked(batch.images)
        targets = samples.picked(np.asarray(batch.targets, np.float32))
        shape = len(images), self._model.trunk.width
        kept = step.kept_features(self._spec, shape, self._steps, self._rank)
        factors: FloatArray = np.ones((1, 1), np.float32)
        if kept is not None:
            factors = kept.astype(np.float32)
            factors /= np.float32(1.0 - self._spec.dropout_rate)
        return images, targets, samples.weights, factors, np.float32(share)
