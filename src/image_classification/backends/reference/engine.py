"""The reference engine: training steps, predictions, state and export, in one process.

NumPy's BLAS takes the number of threads from OMP_NUM_THREADS.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from image_classification.backends import base, step, update_rules
from image_classification.backends.pretrained import pretrained_state
from image_classification.backends.reference.export import export
from image_classification.backends.reference.model import Classifier, Pass, head
from image_classification.backends.state import checked_state, joined_state
from image_classification.errors import BackendError
from image_classification.samples import Array, Batch, Float64Array, FloatArray, UInt8Array

__all__ = ["build", "pretrained_state"]


def sample_losses(logits: Array, targets: Array, spec: base.ModelSpec) -> tuple[Array, Array]:
    """Return (losses (N,), gradients (N, classes)).

    The loss is the cross-entropy −Σ t · log softmax(x + b) with the logit bias b; with multi_label
    the mean over the classes of −w · t · log σ(x) − (1 − t) · log(1 − σ(x)) with the positive
    weight w.
    """
    if spec.multi_label:
        return _several(logits, targets, np.array(spec.positive_weights or 1.0))
    biased = logits + np.array(spec.logit_bias or 0.0)
    shifted = biased - biased.max(axis=1, keepdims=True)
    logarithms = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    total = targets.sum(axis=1, keepdims=True)
    return -(targets * logarithms).sum(axis=1), total * np.exp(logarithms) - targets


def _several(logits: Array, targets: Array, positive: Array) -> tuple[Array, Array]:
    absent, present = np.logaddexp(0, logits), np.logaddexp(0, -logits)  # −log(1 − σ), −log σ
    sigmoid = np.exp(-present)
    losses = positive * targets * present + (1 - targets) * absent
    gradients = (1 - targets) * sigmoid - positive * targets * (1 - sigmoid)
    return losses.mean(axis=1), gradients / logits.shape[1]


def build(spec: base.ModelSpec, optimizer: base.OptimizerSpec, world: base.World) -> base.Engine:
    """See `base.EngineModule`; also BackendError for several processes and for compilation."""
    if world.size > 1:
        raise BackendError(
            f"backend 'reference' trains in one process, and this job has {world.size}: "
            "use one host, or another backend"
        )
    if spec.compiles:
        raise BackendError("compile=on: backend 'reference' has no compiler; set compile=off")
    step.precision_of(spec.precision, {"float32"}, "the reference", "cpu")
    return _ReferenceEngine(spec, optimizer)


@dataclass(frozen=True)
class _Step:
    loss: float
    logits: FloatArray

    def fetch(self) -> tuple[float, FloatArray]:
        return self.loss, self.logits


class _ReferenceEngine:
    """See `base.Engine`."""

    device = "cpu"

    def __init__(self, spec: base.ModelSpec, settings: base.OptimizerSpec) -> None:
        update_rules.rule_of(settings, "reference")
        self._spec, self._settings = spec, settings
        self._model = Classifier(spec)
        self._average = dict(self._model.tensors) if spec.averages_weights else None
        self._slots: update_rules.Slots = {}
        self._gradients: dict[str, Array] = {}
        self._steps = 0
        self._has_weight = False  # of any batch of the update so far
        self.feature_width = self._model.network.width
        sizes = {name: tensor.size for name, tensor in self._model.tensors.items()}
        self.parameter_count = sum(n for name, n in sizes.items() if ".running_" not in name)
        self.trainable_parameter_count = sum(sizes[name] for name in self._model.learning)

    def train_step(
        self, batch: Batch, learning_rate: float, update: base.Update = base.WHOLE_UPDATE
    ) -> _Step:
        has_features = step.has_features(batch.images, self._spec)
        samples = step.StepSamples.of(batch.weights)
        images = samples.picked(batch.images)
        if has_features:
            features, made = images.astype(np.float64), Pass()
        elif self._spec.train_only_head:
            features, made = self._model.features(images), Pass()
        else:
            features, made = self._model.training_features(images)
        targets = samples.picked(np.asarray(batch.targets, np.float64))
        loss, logits = self._add_gradients(features, targets, samples, made, update.share)
        if samples.has_weight:
            self._model.tensors.update(made.statistics)
        self._has_weight |= samples.has_weight
        if update.is_last and self._has_weight:
            self._update(learning_rate, update.average_decay)
        if update.is_last:
            self._has_weight, self._gradients = False, {}
        self._steps += 1
        return _Step(loss, samples.scattered(logits.astype(np.float32)))

    def predict_step(self, images: Array) -> FloatArray:
        tensors = self._evaluated
        has_features = step.has_features(images, self._spec)
        features = images if has_features else self._model.features(images, tensors)
        return head(features, tensors).astype(np.float32)

    def features_step(self, images: UInt8Array) -> FloatArray:
        step.check_images(images, self._spec)
        return self._model.features(images, self._evaluated).astype(np.float32)

    def all_reduce(self, values: Float64Array) -> Float64Array:
        return np.array(values, np.float64)

    def state(self) -> base.State:
        slots = {
            f"{base.OPTIMIZER_PREFIX}{slot}/{name}": value
            for name, own in self._slots.items()
            for slot, value in own.items()
        }
        state = joined_state(self._model.tensors, self._average, slots, self._steps)
        return {key: array.copy() for key, array in state.items()}

    def load_state(self, state: base.State) -> None:
        shapes = {name: tensor.shape for name, tensor in self._model.tensors.items()}
        learning = self._model.learning
        checked = checked_state(state, shapes, learning, self._spec, self._settings)
        self._model.tensors.update(_as_float32(checked.weights))
        if self._average is not None:
            self._average = self._model.tensors | _as_float32(checked.averages)
        self._slots = {name: _as_float32(own) for name, own in checked.slots.items()}
        self._steps = checked.steps

    def export(self, path: Path, temperature: float = 1.0) -> None:
        export(self._model, self._evaluated, path, temperature, self.predict_step)

    def release(self) -> None:
        self._model.tensors.clear()
        self._average = None
        self._slots.clear()

    @property
    def _evaluated(self) -> dict[str, FloatArray]:
        return self._model.tensors if self._average is None else self._average

    def _add_gradients(
        self, features: Array, targets: Array, samples: step.StepSamples, made: Pass, share: float
    ) -> tuple[float, Array]:
        """Add the gradients of one batch; return (its weighted mean loss, its logits)."""
        spec, tensors = self._spec, self._model.tensors
        kept = step.kept_features(spec, features.shape, self._steps, rank=0)
        factor = 1.0 if kept is None else kept / (1.0 - spec.dropout_rate)
        seen = features * factor
        logits = head(seen, tensors)
        losses, of_logits = sample_losses(logits, targets, spec)
        weights = samples.weights / max(float(samples.weights.sum()), 1e-38)
        of_logits = of_logits * weights[:, None]
        gradients = {"head.weight": of_logits.T @ seen, "head.bias": of_logits.sum(axis=0)}
        gradients["head.weight"] += 2 * self._settings.head_l2 * tensors["head.weight"]
        if made.values:
            of_features = (of_logits @ tensors["head.weight"]) * factor
            gradients |= self._model.gradients(made, of_features)
        for name in self._model.learning:
            self._gradients[name] = self._gradients.get(name, 0.0) + share * gradients[name]
        return float(losses @ weights), logits

    def _update(self, learning_rate: float, average_decay: float) -> None:
        tensors = self._model.tensors
        learning = {name: tensors[name] for name in self._model.learning}
        gradients, self._gradients = self._gradients, {}
        updated = update_rules.update(
            learning, gradients, self._slots, learning_rate, self._settings
        )
        tensors.update(_as_float32(updated))
        self._slots = {name: _as_float32(own) for name, own in self._slots.items()}
        if self._average is not None:
            for name, average in self._average.items():
                mixed = average_decay * average + (1 - average_decay) * tensors[name]
                self._average[name] = mixed.astype(np.float32)


def _as_float32(arrays: Mapping[str, Array]) -> dict[str, FloatArray]:
    return {name: np.array(array, np.float32) for name, array in arrays.items()}
