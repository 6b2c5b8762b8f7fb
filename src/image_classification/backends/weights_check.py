"""Whether arrays are the weights of a network, asked before any of them is copied into it."""

from __future__ import annotations

from collections.abc import Mapping

from image_classification.backends.base import WEIGHT_PREFIX, State
from image_classification.errors import ArtifactError

_HEAD = ("head.weight", "head.bias")


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
