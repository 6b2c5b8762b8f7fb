"""BatchNorms that need no node of their own in a graph: what they are folded into, and as what.

An evaluated BatchNorm is a scale and a shift of each channel. In: a `Network`, its weights by
neutral name. Out: which BatchNorm belongs to which convolution, and both numbers in float64.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from image_classification.backends.base import ModelSpec
from image_classification.backends.networks import Convolution, Network, Norm

Weights = Mapping[str, npt.NDArray[Any]]
Affine = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""(scale, shift), each (channels,)."""


def readers(network: Network) -> Counter[str]:
    """How many layers read each value of the network."""
    return Counter(name for layer in network.layers for name in layer.inputs)


def folded_norms(network: Network) -> dict[str, Norm]:
    """The BatchNorm of each convolution that nothing else reads."""
    counts = readers(network)
    convolutions = {layer.name for layer in network.layers if isinstance(layer, Convolution)}
    return {
        layer.inputs[0]: layer
        for layer in network.layers
        if isinstance(layer, Norm)
        and layer.inputs[0] in convolutions
        and counts[layer.inputs[0]] == 1
    }


def normalisation(spec: ModelSpec) -> Affine:
    """What a specification does to the pixels: (1 / std, −mean / std), one value per channel."""
    mean, std = np.array(spec.mean, np.float64), np.array(spec.std, np.float64)
    channels = spec.input_shape[0]
    scale, shift = np.broadcast_to(1 / std, channels), np.broadcast_to(-mean / std, channels)
    return scale, shift


def affine_of(norm: Norm, weights: Weights) -> Affine:
    """What an evaluated BatchNorm computes, in float64: times scale, plus shift."""
    ones = np.ones(norm.width)
    weight, bias, mean, variance = (
        np.asarray(weights.get(f"{norm.name}.{tensor}", ones), np.float64)
        for tensor in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / np.sqrt(variance + norm.epsilon)
    return scale, bias - mean * scale
