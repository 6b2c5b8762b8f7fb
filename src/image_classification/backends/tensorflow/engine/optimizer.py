"""The optimisers of `backends/update_rules` as TensorFlow operations, and their state.

In: the weights that learn, their gradients. Out: updated variables, and `optimizer/<slot>/<weight>`
arrays both ways. Keras's own optimisers are not used: `update_rules` says where they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import tensorflow as tf

from image_classification.backends.base import OPTIMIZER_PREFIX, OptimizerSpec, State
from image_classification.backends.tensorflow.model.weight import Weight
from image_classification.backends.update_rules import (
    first_slot,
    is_decayed,
    rule_of,
)

_STEP = "step"

_Slots = Mapping[str, tf.Variable]
_Change = Callable[[tf.Tensor, _Slots, OptimizerSpec], tf.Tensor]


class Optimizer:
    """An optimiser and what it remembers.

    Args:
        spec: name and settings.
        weights: those that learn, by neutral name.

    Raises:
        BackendError: no optimiser has that name.
    """

    def __init__(self, spec: OptimizerSpec, weights: Mapping[str, Weight]) -> None:
        slots = rule_of(spec, "tensorflow").slots_of(spec)
        self._spec, self._weights = spec, weights
        self._shapes = {name: weight.shape for name, weight in weights.items()}
        self._slots: dict[str, dict[str, tf.Variable]] = {
            name: {
                slot: tf.Variable(
                    weight.own(first_slot(slot, shape, spec)) if slot != _STEP else 0.0
                )
                for slot in slots
            }
            for (name, shape), weight in zip(self._shapes.items(), weights.values(), strict=True)
        }
        self.has_updated = False

    def apply(self, gradients: Sequence[tf.Tensor], rate: tf.Tensor) -> None:
        """Update every weight: within a traced function."""
        spec, change = self._spec, _CHANGES[self._spec.name]
        for (name, weight), gradient in zip(self._weights.items(), gradients, strict=True):
            if spec.weight_decay and is_decayed(self._shapes[name]):
                gradient += spec.weight_decay * weight.variable
            slots = self._slots[name]
            if _STEP in slots:
                slots[_STEP].assign_add(1.0)
            weight.variable.assign_sub(rate * change(gradient, slots, spec))

    def state(self) -> State:
        """A copy of every slot; nothing before the first update."""
        if not self.has_updated:
            return {}
        return {
            f"{OPTIMIZER_PREFIX}{slot}/{name}": self._neutral(name, slot, variable)
            for name, slots in self._slots.items()
            for slot, variable in slots.items()
        }

    def load(self, saved: Mapping[str, State]) -> None:
        """Go on with these slots, checked already; the ones that are absent begin afresh."""
        self.has_updated = bool(saved)
        for name, slots in self._slots.items():
            weight = self._weights[name]
            for slot, variable in slots.items():
                fresh = first_slot(slot, self._shapes[name], self._spec)
                value = saved.get(name, {}).get(slot, fresh)
                variable.assign(value if slot == _STEP else weight.own(value))

    def _neutral(self, name: str, slot: str, variable: tf.Variable) -> npt.NDArray[Any]:
        return variable.numpy() if slot == _STEP else self._weights[name].neutral(variable)


def clipped(gradients: Sequence[tf.Tensor], limit: float) -> Sequence[tf.Tensor]:
    """All gradients times min(1, limit / (their common norm + 1e-6)); a limit of 0 is none."""
    if not limit:
        return gradients
    factor = tf.minimum(1.0, limit / (tf.linalg.global_norm(gradients) + 1e-6))
    return [gradient * factor for gradient in gradients]


def _sgd(gradient: tf.Tensor, slots: _Slots, spec: OptimizerSpec) -> tf.Tensor:
    if not spec.momentum:
        return gradient
    return _moved(slots["momentum_buffer"], spec.momentum, gradient)


def _nag(gradient: tf.Tensor, slots: _Slots, spec: OptimizerSpec) -> tf.Tensor:
    if not spec.momentum:
        return gradient
    return gradient + spec.momentum * _moved(slots["momentum_buffer"], spec.momentum, gradient)


def _adam(gradient: tf.Tensor, slots: _Slots, spec: OptimizerSpec) -> tf.Tensor:
    number = slots[_STEP]
    mean = _averaged(slots["exp_avg"], spec.beta_1, gradient)
    square = _averaged(slots["exp_avg_sq"], spec.beta_2, tf.square(gradient))
    corrected = tf.sqrt(square) / tf.sqrt(1.0 - tf.pow(spec.beta_2, number))
    return mean / (1.0 - tf.pow(spec.beta_1, number)) / (corrected + spec.epsilon)


def _rmsprop(gradient: tf.Tensor, slots: _Slots, spec: OptimizerSpec) -> tf.Tensor:
    square = _averaged(slots["square_avg"], spec.decay, tf.square(gradient))
    direction = gradient / (tf.sqrt(square) + spec.epsilon)
    if not spec.momentum:
        return direction
    return _moved(slots["momentum_buffer"], spec.momentum, direction)


def _adagrad(gradient: tf.Tensor, slots: _Slots, spec: OptimizerSpec) -> tf.Tensor:
    total = _moved(slots["sum"], 1.0, tf.square(gradient))
    return gradient / (tf.sqrt(total) + spec.epsilon)


def _adadelta(gradient: tf.Tensor, slots: _Slots, spec: OptimizerSpec) -> tf.Tensor:
    square = _averaged(slots["square_avg"], spec.decay, tf.square(gradient))
    earlier = slots["acc_delta"]
    change = gradient * tf.sqrt((earlier + spec.epsilon) / (square + spec.epsilon))
    _averaged(earlier, spec.decay, tf.square(change))
    return change


def _moved(slot: tf.Variable, factor: float, value: tf.Tensor) -> tf.Tensor:
    """slot = factor · slot + value; its new value."""
    return slot.assign(factor * slot + value).read_value()


def _averaged(slot: tf.Variable, decay: float, value: tf.Tensor) -> tf.Tensor:
    """slot = decay · slot + (1 − decay) · value; its new value."""
    return _moved(slot, decay, (1.0 - decay) * value)


_CHANGES: dict[str, _Change] = {
    "sgd": _sgd,
    "nag": _nag,
    "nesterov": _nag,
    "adam": _adam,
    "rmsprop": _rmsprop,
    "adagrad": _adagrad,
    "adadelta": _adadelta,
}
