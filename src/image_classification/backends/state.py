"""The tensors of an engine: their first values, and the check of a state before it is loaded."""

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from image_classification.backends import base
from image_classification.backends.update_rules import checked_slots
from image_classification.errors import ArtifactError
from image_classification.samples import Array, FloatArray


def initial_tensor(name: str, shape: tuple[int, ...], seed: int) -> FloatArray:
    """Return the float32 array of a tensor before training.

    Convolution and dense weights are drawn as in the built-in: Xavier, gaussian, by fan in, with
    magnitude 2, which is a standard deviation of √(2 / fan in). BatchNorms start with scale 1,
    shift 0, mean 0 and variance 1; biases are 0.

    Args:
        name: neutral; with the seed it determines the numbers, so that adding a layer does not
            change the others.
        shape: in the neutral layout.
        seed: of the job, 0 or more.
    """
    if len(shape) < 2:
        is_one = name.endswith((".weight", ".running_var"))
        return np.full(shape, 1.0 if is_one else 0.0, np.float32)
    entropy = np.random.SeedSequence([seed, zlib.crc32(name.encode())])
    generator = np.random.Generator(np.random.PCG64(entropy))
    deviation = np.float32(np.sqrt(2.0 / np.prod(shape[1:])))
    return generator.standard_normal(shape, np.float32) * deviation


_HEAD = ("head.weight", "head.bias")


@dataclass(frozen=True)
class CheckedState:
    """The parts of a state that an engine takes over.

    Attributes:
        weights: by neutral name; without the head if that does not fit.
        averages: the same for the averages; {} if the engine keeps none or none were saved.
        slots: `{parameter: {slot: array}}` of the optimizer.
        steps: batches so far; 0 if they were not saved.
    """

    weights: base.State
    averages: base.State
    slots: dict[str, base.State]
    steps: int


Arrays = Mapping[str, Array]


def joined_state(weights: Arrays, averages: Arrays | None, slots: Arrays, steps: int) -> base.State:
    """Return the whole state of an engine: weights by neutral name, slots by their keys."""
    state: base.State = {base.WEIGHT_PREFIX + name: array for name, array in weights.items()}
    state |= {base.AVERAGE_PREFIX + name: array for name, array in (averages or {}).items()}
    return {**state, **slots, base.STEPS: np.array(steps, np.int64)}


def checked_state(
    state: base.State,
    shapes: Mapping[str, tuple[int, ...]],
    learning: Iterable[str],
    spec: base.ModelSpec,
    settings: base.OptimizerSpec,
) -> CheckedState:
    """Check all that `Engine.load_state` copies; other keys of the state are ignored.

    Args:
        state: of `Engine.state`, or parts of it.
        shapes: of each tensor of the network, in the neutral layout.
        learning: names of the tensors that learn.
        spec, settings: of the engine.

    Raises:
        ArtifactError: a tensor or a slot does not fit; see `checked_weights`, `checked_slots`.
    """
    weights, averages, slots = (
        {key: value for key, value in state.items() if key.startswith(prefix)}
        for prefix in (base.WEIGHT_PREFIX, base.AVERAGE_PREFIX, base.OPTIMIZER_PREFIX)
    )
    named = {
        key.replace(base.AVERAGE_PREFIX, base.WEIGHT_PREFIX, 1): v for key, v in averages.items()
    }
    takes_averages = spec.averages_weights and bool(named)
    return CheckedState(
        checked_weights(weights, shapes, spec.backbone),
        checked_weights(named, shapes, spec.backbone) if takes_averages else {},
        checked_slots(slots, {name: shapes[name] for name in learning}, settings),
        int(state.get(base.STEPS, 0)),
    )


def checked_weights(
    state: base.State, shapes: Mapping[str, tuple[int, ...]], backbone: str
) -> base.State:
    """Return the arrays to copy, by neutral name without prefix.

    If a tensor of the head is absent or of another shape, both are left out: the network keeps the
    head it has.

    Args:
        state: `weight/<neutral name>` → array, nothing else.
        shapes: of each tensor of the network, in the neutral layout.
        backbone: its name, for the message.

    Raises:
        ArtifactError: a tensor of the backbone is missing, unknown or of another shape.
    """
    arrays = {key.removeprefix(base.WEIGHT_PREFIX): value for key, value in state.items()}
    received = {name: tuple(array.shape) for name, array in arrays.items()}
    expected = dict(shapes)
    if any(received.get(name) != expected[name] for name in _HEAD):
        for name in _HEAD:
            del expected[name]
            received.pop(name, None)
    for name in sorted(expected.keys() | received.keys()):
        if expected.get(name) != received.get(name):
            raise ArtifactError(
                f"these are not weights of {backbone!r} with this input: {name!r} should be "
                f"{expected.get(name, 'absent')} but is {received.get(name, 'absent')}"
            )
    return {name: arrays[name] for name in expected}
