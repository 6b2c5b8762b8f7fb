"""The optimizers of both interfaces as formulas in NumPy, which every backend follows.

In: parameters, gradients and the optimizer's slots, float arrays by neutral name. Out: the same
after one update. The reference backend runs these functions; the others use their framework's
operators and are tested against it. The formulas are those of `torch.optim`.

A slot is saved as `optimizer/<slot>/<parameter>` in the parameter's shape; `step`, the number of
updates so far, is a float32 scalar. A slot that was never used is absent and means zeros (`sum` of
adagrad: the initial accumulator).

MXNet's and Keras's optimizers of these names compute something else, so no backend uses them: both
fold the learning rate into the momentum, which then lags when the rate changes; both add epsilon
under the root in adagrad and rmsprop, and before the correction by β₂ in adam; Keras's weight decay
is decoupled, and Gluon's includes every parameter.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from image_classification.backends import nearest
from image_classification.backends.base import OPTIMIZER_PREFIX, OptimizerSpec, State
from image_classification.errors import ArtifactError, BackendError
from image_classification.samples import Array

Arrays = dict[str, Array]
Slots = dict[str, Arrays]
"""The slots of each parameter by name."""

_SCALAR = "step"


def _velocity(direction: Array, slots: Arrays, spec: OptimizerSpec) -> Array:
    """v = momentum · v + direction; without momentum there is no slot."""
    if spec.momentum == 0:
        return direction
    velocity: Array = spec.momentum * slots["momentum_buffer"] + direction
    slots["momentum_buffer"] = velocity
    return velocity


def _sgd(gradient: Array, slots: Arrays, rate: float, spec: OptimizerSpec) -> Array:
    """v = momentum · v + g; p −= rate · v."""
    return rate * _velocity(gradient, slots, spec)


def _nag(gradient: Array, slots: Arrays, rate: float, spec: OptimizerSpec) -> Array:
    """v = momentum · v + g; p −= rate · (g + momentum · v)."""
    return rate * (gradient + spec.momentum * _velocity(gradient, slots, spec))


def _adam(gradient: Array, slots: Arrays, rate: float, spec: OptimizerSpec) -> Array:
    """m = β₁ · m + (1 − β₁) · g; s = β₂ · s + (1 − β₂) · g²; t is the update's number, from 1.

    p −= rate · (m / (1 − β₁ᵗ)) / (√(s / (1 − β₂ᵗ)) + ε).
    """
    first, second, number = spec.beta_1, spec.beta_2, float(slots["step"])
    slots["exp_avg"] = first * slots["exp_avg"] + (1 - first) * gradient
    slots["exp_avg_sq"] = second * slots["exp_avg_sq"] + (1 - second) * gradient**2
    mean = slots["exp_avg"] / (1 - first**number)
    square = slots["exp_avg_sq"] / (1 - second**number)
    change: Array = rate * mean / (np.sqrt(square) + spec.epsilon)
    return change


def _rmsprop(gradient: Array, slots: Arrays, rate: float, spec: OptimizerSpec) -> Array:
    """s = decay · s + (1 − decay) · g²; d = g / (√s + ε); v = momentum · v + d; p −= rate · v."""
    slots["square_avg"] = spec.decay * slots["square_avg"] + (1 - spec.decay) * gradient**2
    direction = gradient / (np.sqrt(slots["square_avg"]) + spec.epsilon)
    return rate * _velocity(direction, slots, spec)


def _adagrad(gradient: Array, slots: Arrays, rate: float, spec: OptimizerSpec) -> Array:
    """s = s + g², from the initial accumulator on; p −= rate · g / (√s + ε)."""
    slots["sum"] = slots["sum"] + gradient**2
    return rate * gradient / (np.sqrt(slots["sum"]) + spec.epsilon)


def _adadelta(gradient: Array, slots: Arrays, rate: float, spec: OptimizerSpec) -> Array:
    """s = decay · s + (1 − decay) · g²; d = g · √(a + ε) / √(s + ε); p −= rate · d.

    Then a = decay · a + (1 − decay) · d².
    """
    slots["square_avg"] = spec.decay * slots["square_avg"] + (1 - spec.decay) * gradient**2
    ratio = (slots["acc_delta"] + spec.epsilon) / (slots["square_avg"] + spec.epsilon)
    change: Array = gradient * np.sqrt(ratio)
    slots["acc_delta"] = spec.decay * slots["acc_delta"] + (1 - spec.decay) * change**2
    return change * rate


@dataclass(frozen=True)
class UpdateRule:
    """One optimizer.

    Attributes:
        change: (gradient, slots, learning rate, settings) → the array to subtract from the
            parameter; it replaces the slots by their next values.
        slots: their names.
    """

    change: Callable[[Array, Arrays, float, OptimizerSpec], Array]
    slots: tuple[str, ...]

    def slots_of(self, spec: OptimizerSpec) -> tuple[str, ...]:
        """Return the slots in use with these settings."""
        return tuple(s for s in self.slots if s != "momentum_buffer" or spec.momentum != 0)


_NAG = UpdateRule(_nag, ("momentum_buffer",))
RULES: dict[str, UpdateRule] = {
    "sgd": UpdateRule(_sgd, ("momentum_buffer",)),
    "nag": _NAG,
    "nesterov": _NAG,
    "adam": UpdateRule(_adam, ("step", "exp_avg", "exp_avg_sq")),
    "rmsprop": UpdateRule(_rmsprop, ("step", "square_avg", "momentum_buffer")),
    "adagrad": UpdateRule(_adagrad, ("step", "sum")),
    "adadelta": UpdateRule(_adadelta, ("step", "square_avg", "acc_delta")),
}


def rule_of(spec: OptimizerSpec, backend: str) -> UpdateRule:
    """Return the rule that `spec` names; BackendError, which names the backend, if none does."""
    if spec.name not in RULES:
        raise BackendError(
            f"backend {backend!r} has no optimizer {spec.name!r}{nearest(spec.name, RULES)} "
            f"Optimizers: {', '.join(RULES)}"
        )
    return RULES[spec.name]


def first_slot(slot: str, shape: tuple[int, ...], spec: OptimizerSpec) -> Array:
    """Return the float32 array that an absent slot of a parameter of this shape means."""
    if slot == _SCALAR:
        return np.zeros((), np.float32)
    return np.full(shape, spec.initial_accumulator if slot == "sum" else 0.0, np.float32)


def is_decayed(shape: tuple[int, ...]) -> bool:
    """Return whether weight decay includes a parameter: only convolution and dense weights."""
    return len(shape) > 1


def update(
    parameters: Mapping[str, Array],
    gradients: Mapping[str, Array],
    slots: Slots,
    rate: float,
    spec: OptimizerSpec,
) -> Arrays:
    """Return the parameters after one update.

    Gradients are first clipped together; then weight decay is added.

    Args:
        parameters, gradients: by neutral name.
        slots: of each parameter, changed in place; absent ones start.
        rate: learning rate.
        spec: name of the rule and its settings.
    """
    rule = RULES[spec.name]
    factor = clip_factor(gradients, spec.clip_gradient_norm)
    updated: Arrays = {}
    for name, parameter in parameters.items():
        gradient = gradients[name] * factor
        if is_decayed(parameter.shape):
            gradient = gradient + spec.weight_decay * parameter
        own = slots.setdefault(name, {})
        for slot in rule.slots_of(spec):
            own.setdefault(slot, first_slot(slot, parameter.shape, spec))
        if _SCALAR in own:
            own[_SCALAR] = own[_SCALAR] + np.float32(1)
        updated[name] = parameter - rule.change(gradient, own, rate, spec)
    return updated


def clip_factor(gradients: Mapping[str, Array], limit: float) -> float:
    """Return min(1, limit / (‖all gradients‖₂ + 1e-6)); 1 for a limit of 0, which means none."""
    if limit == 0:
        return 1.0
    norm = np.sqrt(sum(float(np.sum(np.square(g, dtype=np.float64))) for g in gradients.values()))
    return min(1.0, limit / (float(norm) + 1e-6))


def checked_slots(
    state: State, shapes: Mapping[str, tuple[int, ...]], spec: OptimizerSpec
) -> dict[str, State]:
    """Return the saved slots as `{parameter: {slot: array}}`.

    Args:
        state: `optimizer/<slot>/<parameter>` → array; it ignores `optimizer/<name>`, an engine's
            own counter or loss scale.
        shapes: of the parameters that learn, by neutral name.
        spec: the optimizer that continues with them.

    Raises:
        ArtifactError: this optimizer has no such slot, or the parameter does not learn here or has
            another shape.
    """
    slots: dict[str, State] = {}
    for key, value in state.items():
        slot, _, name = key.removeprefix(OPTIMIZER_PREFIX).partition("/")
        if not name:
            continue
        fits = name in shapes and value.shape == (() if slot == _SCALAR else tuple(shapes[name]))
        if slot not in RULES[spec.name].slots or not fits:
            raise ArtifactError(
                f"{key!r} {value.shape} is from another optimizer or network than this job's "
                f"{spec.name}: resume with the settings of the checkpoint"
            )
        slots.setdefault(name, {})[slot] = value
    return slots
