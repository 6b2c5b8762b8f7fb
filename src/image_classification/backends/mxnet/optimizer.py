"""The formulas of `update_rules` with MXNet's operators, in place.

Weights, gradients and each slot are one flat array, so that an update takes a few operators.
"""

from collections.abc import Mapping
from typing import Any

import mxnet as mx
import numpy as np

from image_classification.backends import base, update_rules
from image_classification.errors import ArtifactError
from image_classification.samples import Array, FloatArray

Shapes = Mapping[str, tuple[int, ...]]


class Tensors:
    """Float32 tensors in one array on an MXNet device (`context`).

    Attributes:
        flat: the array, (sum of sizes,); (1,) without tensors.
        views: each tensor by name; writing to it writes to `flat`.
    """

    def __init__(self, shapes: Shapes, context: Any) -> None:
        sizes = [int(np.prod(shape)) for shape in shapes.values()]
        ends = np.cumsum(sizes, dtype=np.int64).tolist()
        self.flat = mx.nd.zeros(max(1, sum(sizes)), ctx=context)
        self.views = {
            name: self.flat[end - size : end].reshape(shape)
            for (name, shape), size, end in zip(shapes.items(), sizes, ends, strict=True)
        }

    def write(self, arrays: Mapping[str, Array]) -> None:
        """Copy these arrays into the tensors of their names."""
        for name, array in arrays.items():
            self.views[name][:] = np.asarray(array, np.float32)

    def read(self) -> dict[str, FloatArray]:
        """Wait for the device and return copies by name."""
        host, start, arrays = self.flat.asnumpy(), 0, {}
        for name, view in self.views.items():
            arrays[name] = host[start : start + view.size].reshape(view.shape).copy()
            start += view.size
        return arrays


_FIRST_SCALE = 65536.0
_GROWTH_STEPS = 2000  # updates without overflow after which the scale doubles


class LossScale:
    """The factor of the loss with float16, whose few exponents lose small gradients.

    Updates whose gradients overflow are left out. With float32 the factor is 1.

    Args:
        precision: of training steps.
    """

    def __init__(self, precision: str) -> None:
        self._is_active = precision == "float16"
        self.factor, self._age = _FIRST_SCALE if self._is_active else 1.0, 0

    def unscale(self, gradients: Any) -> bool:
        """Divide the flat gradients by the factor and adapt it; False if they overflowed.

        That waits for the device, with float16 only.
        """
        if not self._is_active:
            return True
        gradients /= self.factor
        if not mx.nd.all_finite(gradients).asscalar():
            self.factor, self._age = self.factor / 2.0, 0
            return False
        self._age += 1
        if self._age >= _GROWTH_STEPS:
            self.factor, self._age = self.factor * 2.0, 0
        return True

    def state(self) -> base.State:
        """Return the factor and its age in updates; {} with float32."""
        if not self._is_active:
            return {}
        return {
            base.LOSS_SCALE: np.array(self.factor, np.float64),
            base.LOSS_SCALE_AGE: np.array(self._age, np.int64),
        }

    def load(self, state: base.State) -> None:
        """Continue with the factor of an engine's state, if it has one."""
        scale, age = state.get(base.LOSS_SCALE), state.get(base.LOSS_SCALE_AGE)
        if self._is_active and scale is not None and age is not None:
            self.factor, self._age = float(scale), int(age)


_COUNT = "step"

Slots = dict[str, Any]
"""Flat NDArrays by slot."""


def _velocity(direction: Any, slots: Slots, spec: base.OptimizerSpec) -> Any:
    if spec.momentum == 0:
        return direction
    velocity = slots["momentum_buffer"]
    velocity *= spec.momentum
    velocity += direction
    return velocity


def _decayed_mean(slot: Any, decay: float, value: Any) -> Any:
    """slot = decay · slot + (1 − decay) · value."""
    slot *= decay
    slot += (1 - decay) * value
    return slot


def _direction(gradient: Any, slots: Slots, number: int, spec: base.OptimizerSpec) -> Any:
    """Return the array that update `number` subtracts, times the learning rate."""
    match spec.name:
        case "sgd":
            return _velocity(gradient, slots, spec)
        case "nag" | "nesterov":
            return gradient + spec.momentum * _velocity(gradient, slots, spec)
        case "adam":
            mean = _decayed_mean(slots["exp_avg"], spec.beta_1, gradient)
            square = _decayed_mean(slots["exp_avg_sq"], spec.beta_2, mx.nd.square(gradient))
            root = mx.nd.sqrt(square / (1 - spec.beta_2**number)) + spec.epsilon
            return mean / (1 - spec.beta_1**number) / root
        case "rmsprop":
            square = _decayed_mean(slots["square_avg"], spec.decay, mx.nd.square(gradient))
            return _velocity(gradient / (mx.nd.sqrt(square) + spec.epsilon), slots, spec)
        case "adagrad":
            slots["sum"] += mx.nd.square(gradient)
            return gradient / (mx.nd.sqrt(slots["sum"]) + spec.epsilon)
    square = _decayed_mean(slots["square_avg"], spec.decay, mx.nd.square(gradient))  # adadelta
    ratio = (slots["acc_delta"] + spec.epsilon) / (square + spec.epsilon)
    change = gradient * mx.nd.sqrt(ratio)
    _decayed_mean(slots["acc_delta"], spec.decay, mx.nd.square(change))
    return change


class Optimizer:
    """An optimizer with its slots.

    Args:
        spec: its name and settings; BackendError for an unknown name.
        shapes: of the parameters that learn, those with weight decay first.
        context: MXNet device.
    """

    def __init__(self, spec: base.OptimizerSpec, shapes: Shapes, context: Any) -> None:
        self._spec, self._shapes, self._context = spec, shapes, context
        slots = update_rules.rule_of(spec, "mxnet").slots_of(spec)
        self._slots = {slot: Tensors(shapes, context) for slot in slots if slot != _COUNT}
        self._counts = _COUNT in slots
        self._decayed = sum(int(np.prod(s)) for s in shapes.values() if update_rules.is_decayed(s))
        self.reset()

    def reset(self) -> None:
        """Set all slots to their first values."""
        self._updates = 0
        for slot, tensors in self._slots.items():
            tensors.flat[:] = float(update_rules.first_slot(slot, (1,), self._spec)[0])

    def update(self, weights: Any, gradients: Any, learning_rate: float) -> None:
        """Update the flat `weights`; the flat `gradients` are overwritten."""
        spec = self._spec
        if spec.clip_gradient_norm:  # the factor stays on the device: no wait
            norm = mx.nd.sqrt(mx.nd.sum(mx.nd.square(gradients), keepdims=True))
            factor = mx.nd.minimum(spec.clip_gradient_norm / (norm + 1e-6), 1.0)
            gradients[:] = mx.nd.broadcast_mul(gradients, factor)
        if spec.weight_decay and self._decayed:
            decayed = gradients[: self._decayed]
            decayed += spec.weight_decay * weights[: self._decayed]
        self._updates += 1
        slots = {slot: tensors.flat for slot, tensors in self._slots.items()}
        weights -= learning_rate * _direction(gradients, slots, self._updates, spec)

    def state(self) -> base.State:
        """Return `optimizer/<slot>/<parameter>` → array; {} before the first update."""
        if self._updates == 0:
            return {}
        state: base.State = {
            f"{base.OPTIMIZER_PREFIX}{slot}/{name}": array
            for slot, tensors in self._slots.items()
            for name, array in tensors.read().items()
        }
        if self._counts:
            count = np.array(self._updates, np.float32)
            state.update(
                {f"{base.OPTIMIZER_PREFIX}{_COUNT}/{name}": count for name in self._shapes}
            )
        return state

    def load(self, slots: Mapping[str, base.State]) -> None:
        """Replace all slots by `{parameter: {slot: array}}`, checked already.

        Raises:
            ArtifactError: the parameters had unequal numbers of updates; nothing has changed.
        """
        counts = {float(own[_COUNT]) for own in slots.values() if _COUNT in own}
        if len(counts) > 1:
            raise ArtifactError(
                "the parameters of this checkpoint had different numbers of updates, "
                f"{sorted(counts)}, but the backend 'mxnet' needs one number for all: resume with "
                "another backend"
            )
        self.reset()
        for slot, tensors in self._slots.items():
            tensors.write({name: own[slot] for name, own in slots.items() if slot in own})
        self._updates = int(counts.pop()) if counts else int(bool(slots))
