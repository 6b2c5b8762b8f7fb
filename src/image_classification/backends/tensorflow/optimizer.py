"""Optimizers with TensorFlow's operators (formulas: `update_rules`), and the precision of steps."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from image_classification.backends import base, update_rules
from image_classification.backends.tensorflow.layers import Weight
from image_classification.samples import Array

_STEP = "step"

_Slots = Mapping[str, tf.Variable]


class Optimizer:
    """An optimizer with its slots.

    Args:
        spec: its name and settings; BackendError for an unknown name.
        weights: those that learn, by neutral name.
    """

    def __init__(self, spec: base.OptimizerSpec, weights: Mapping[str, Weight]) -> None:
        slots = update_rules.rule_of(spec, "tensorflow").slots_of(spec)
        self._spec, self._weights = spec, weights
        self._shapes = {name: weight.shape for name, weight in weights.items()}
        self._slots: dict[str, dict[str, tf.Variable]] = {
            name: {
                slot: tf.Variable(
                    weight.own(update_rules.first_slot(slot, shape, spec)) if slot != _STEP else 0.0
                )
                for slot in slots
            }
            for (name, shape), weight in zip(self._shapes.items(), weights.values(), strict=True)
        }
        self._has_updated = False

    def apply(self, gradients: Sequence[tf.Tensor], rate: tf.Tensor) -> None:
        """Update every weight, in a traced function."""
        spec = self._spec
        for (name, weight), gradient in zip(self._weights.items(), gradients, strict=True):
            if spec.weight_decay and update_rules.is_decayed(self._shapes[name]):
                gradient += spec.weight_decay * weight.variable
            slots = self._slots[name]
            if _STEP in slots:
                slots[_STEP].assign_add(1.0)
            weight.variable.assign_sub(rate * _direction(gradient, slots, spec))

    def note_update(self) -> None:
        """Record that a traced function has updated the weights."""
        self._has_updated = True

    def state(self) -> base.State:
        """Return copies of all slots; {} before the first update."""
        if not self._has_updated:
            return {}
        return {
            f"{base.OPTIMIZER_PREFIX}{slot}/{name}": self._neutral(name, slot, variable)
            for name, slots in self._slots.items()
            for slot, variable in slots.items()
        }

    def load(self, saved: Mapping[str, base.State]) -> None:
        """Replace all slots by `{parameter: {slot: array}}`, checked already."""
        self._has_updated = bool(saved)
        for name, slots in self._slots.items():
            weight = self._weights[name]
            for slot, variable in slots.items():
                fresh = update_rules.first_slot(slot, self._shapes[name], self._spec)
                value = saved.get(name, {}).get(slot, fresh)
                variable.assign(value if slot == _STEP else weight.own(value))

    def _neutral(self, name: str, slot: str, variable: tf.Variable) -> Array:
        if slot == _STEP:
            return np.asarray(variable.numpy())  # TensorFlow returns a NumPy scalar
        return self._weights[name].neutral(variable)


def clipped(gradients: Sequence[tf.Tensor], limit: float) -> Sequence[tf.Tensor]:
    """Return all gradients · min(1, limit / (their common norm + 1e-6)); a limit of 0 is none."""
    if not limit:
        return gradients
    factor = tf.minimum(1.0, limit / (tf.linalg.global_norm(gradients) + 1e-6))
    return [gradient * factor for gradient in gradients]


def _direction(gradient: tf.Tensor, slots: _Slots, spec: base.OptimizerSpec) -> tf.Tensor:
    """Return the tensor that an update subtracts, times the learning rate."""
    match spec.name:
        case "sgd":
            return _velocity(gradient, slots, spec)
        case "nag" | "nesterov":
            if not spec.momentum:
                return gradient
            return gradient + spec.momentum * _velocity(gradient, slots, spec)
        case "adam":
            mean = _averaged(slots["exp_avg"], spec.beta_1, gradient)
            square = _averaged(slots["exp_avg_sq"], spec.beta_2, tf.square(gradient))
            corrected = tf.sqrt(square) / tf.sqrt(1.0 - tf.pow(spec.beta_2, slots[_STEP]))
            correction = 1.0 - tf.pow(spec.beta_1, slots[_STEP])
            return mean / correction / (corrected + spec.epsilon)
        case "rmsprop":
            square = _averaged(slots["square_avg"], spec.decay, tf.square(gradient))
            return _velocity(gradient / (tf.sqrt(square) + spec.epsilon), slots, spec)
        case "adagrad":
            total = _moved(slots["sum"], 1.0, tf.square(gradient))
            return gradient / (tf.sqrt(total) + spec.epsilon)
    square = _averaged(slots["square_avg"], spec.decay, tf.square(gradient))  # adadelta
    earlier = slots["acc_delta"]
    change = gradient * tf.sqrt((earlier + spec.epsilon) / (square + spec.epsilon))
    _averaged(earlier, spec.decay, tf.square(change))
    return change


def _velocity(direction: tf.Tensor, slots: _Slots, spec: base.OptimizerSpec) -> tf.Tensor:
    if not spec.momentum:
        return direction
    return _moved(slots["momentum_buffer"], spec.momentum, direction)


def _moved(slot: tf.Variable, factor: float, value: tf.Tensor) -> tf.Tensor:
    """Set slot = factor · slot + value, and return it."""
    return slot.assign(factor * slot + value).read_value()


def _averaged(slot: tf.Variable, decay: float, value: tf.Tensor) -> tf.Tensor:
    """Set slot = decay · slot + (1 − decay) · value, and return it."""
    return _moved(slot, decay, (1.0 - decay) * value)


_FIRST_SCALE = 65536.0
_GROWTH_STEPS = 2000  # updates without overflow after which the scale doubles


class Precision:
    """The number format of training steps: tf.float32, tf.bfloat16 or tf.float16.

    Weights, statistics, the head, the optimizer and predictions stay float32. float16 has few
    exponents: its loss is scaled so that small gradients do not vanish, and updates whose gradients
    overflow are left out.
    """

    def __init__(self, dtype: tf.DType) -> None:
        self.dtype = dtype
        self._is_scaled = dtype == tf.float16
        self._scale = tf.Variable(_FIRST_SCALE if self._is_scaled else 1.0)
        self._age = tf.Variable(0, dtype=tf.int64)

    def scaled(self, objective: tf.Tensor) -> tf.Tensor:
        """Return the objective to differentiate."""
        return objective * self._scale if self._is_scaled else objective

    def update(
        self, gradients: Sequence[tf.Tensor], apply: Callable[[Sequence[tf.Tensor]], None]
    ) -> None:
        """Apply the unscaled gradients unless they overflowed, and adapt the scale."""
        if not self._is_scaled:
            apply(gradients)
            return
        unscaled = [gradient / self._scale for gradient in gradients]
        finite = [tf.reduce_all(tf.math.is_finite(gradient)) for gradient in unscaled]
        if tf.reduce_all(finite):
            apply(unscaled)
            self._age.assign_add(1)
            if self._age >= _GROWTH_STEPS:
                self._scale.assign(self._scale * 2.0)
                self._age.assign(0)
        else:
            self._scale.assign(self._scale / 2.0)
            self._age.assign(0)

    def state(self) -> base.State:
        """Return the loss scale and its age in updates; {} unless the dtype is float16."""
        if not self._is_scaled:
            return {}
        return {
            base.LOSS_SCALE: np.array(self._scale.numpy(), np.float64),
            base.LOSS_SCALE_AGE: np.array(self._age.numpy(), np.int64),
        }

    def load(self, state: base.State) -> None:
        """Continue with the loss scale of an engine's state, if it has one."""
        scale, age = state.get(base.LOSS_SCALE), state.get(base.LOSS_SCALE_AGE)
        if self._is_scaled and scale is not None and age is not None:
            self._scale.assign(float(scale))
            self._age.assign(int(age))
