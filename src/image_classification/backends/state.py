"""Whether a state is this engine's, asked before any of its arrays is copied."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from image_classification.backends.base import (
    AVERAGE_PREFIX,
    OPTIMIZER_PREFIX,
    STEPS,
    WEIGHT_PREFIX,
    ModelSpec,
    OptimizerSpec,
    State,
)
from image_classification.backends.update_rules import checked_slots
from image_classification.errors import ArtifactError
from image_classification.samples import FloatArray


def initial_tensor(name: str, shape: tuple[int, ...], seed: int) -> FloatArray:
    """Float32 array of a tensor before training.

    Convolution and dense weights are drawn as the built-in draws them: Xavier, gaussian, by fan
    in, magnitude 2, which is a standard deviation of √(2 / fan in). BatchNorms begin with scale 1,
    shift 0, mean 0 and variance 1; biases are 0.

    Args:
        name: neutral; with the seed it decides the numbers, so that one more layer elsewhere
            changes no other.
        shape: in the neutral layout: convolutions (out, in, height, width), dense (out, in).
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
    """What an engine takes of a state.

    Attributes:
        weights: by neutral name; without the head where that does not fit.
        averages: likewise, laid over the weights; {} where none are kept or saved.
        slots: `{parameter: {slot: array}}` of the optimizer.
        steps: batches so far; 0 where they were not saved.
    """

    weights: State
    averages: State
    slots: dict[str, State]
    steps: int


def checked_state(
    state: State,
    shapes: Mapping[str, tuple[int, ...]],
    learning: Iterable[str],
    spec: ModelSpec,
    settings: OptimizerSpec,
) -> CheckedState:
    """All that `Engine.load_state` copies; what else is in the state is passed over.

    Args:
        state: as `Engine.state` gives it, or parts of it.
        shapes: of every tensor of the network, in the neutral layout.
        learning: names of those that learn.
        spec, settings: of the engine.

    Raises:
        ArtifactError: a tensor or a slot that does not fit; see `checked_weights`,
            `checked_slots`.
    """
    weights, averages, slots = (
        {key: value for key, value in state.items() if key.startswith(prefix)}
        for prefix in (WEIGHT_PREFIX, AVERAGE_PREFIX, OPTIMIZER_PREFIX)
    )
    named = {key.replace(AVERAGE_PREFIX, WEIGHT_PREFIX, 1): v for key, v in averages.items()}
    takes_averages = spec.averages_weights and bool(named)
    return CheckedState(
        checked_weights(weights, shapes, spec.backbone),
        checked_weights(named, shapes, spec.backbone) if takes_averages else {},
        checked_slots(slots, {name: shapes[name] for name in learning}, settings),
        int(state.get(STEPS, 0)),
    )


def checked_weights(state: State, shapes: Mapping[str, tuple[int, ...]], backbone: str) -> State:
    """The arrays to copy, by neutral name without prefix.

    Those of the head are left out when one of them is absent or of another shape: the network then
    keeps the head it has.

    Args:
        state: `weight/<neutral name>` → array; nothing else.
        shapes: of every tensor of the network, in the neutral layout: convolutions (out, in,
            height, width), dense layers (out, in).
        backbone: its name, for the message.

    Raises:
        ArtifactError: a tensor of the backbone is missing, unknown, or of another shape.
    """
    arrays = {key.removeprefix(WEIGHT_PREFIX): value for key, value in state.items()}
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
                f"{expected.get(name, 'absent')} and is {received.get(name, 'absent')}"
            )
    return {name: arrays[name] for name in expected}
