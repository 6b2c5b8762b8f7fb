"""Networks as plain data: which layer reads which, for every backend to build the same from.

In: the name of a backbone and the shape of its images. Out: a `Network`, a list of layers in the
order they run, from normalized images to features. No framework is needed to make or read one;
a backend turns each kind of layer into its own, which is all it has to know of an architecture.

A layer's `name` is also the name of its output and the prefix of its weights: the convolution
`stage2.block1.conv1` owns `stage2.block1.conv1.weight`. Convolutions are (out, in / groups, height,
width); a `Norm` owns `weight` (unless it is fixed at one), `bias`, `running_mean` and
`running_var`, each (width,). The head is not part of a network: `head.weight` (classes, width) and
`head.bias` (classes,) are the same for all.
"""

from __future__ import annotations

from image_classification.backends.networks import efficientnet_lite, resnet
from image_classification.backends.networks.layers import (
    INPUT,
    Activation,
    Add,
    Convolution,
    Layer,
    MaxPool,
    Mean,
    Network,
    Norm,
)

__all__ = [
    "INPUT",
    "Activation",
    "Add",
    "Convolution",
    "Layer",
    "MaxPool",
    "Mean",
    "Network",
    "Norm",
    "is_shared",
    "network",
]


def network(backbone: str, shape: tuple[int, int, int]) -> Network:
    """The network of a shared backbone.

    Args:
        backbone: `resnet18` … `resnet200`, `resnet20` … `resnet110`, `efficientnet_lite0` … `2`.
        shape: (channels, height, width) of the images; padding at an even stride depends on it.

    Raises:
        KeyError: no such shared backbone; catalogs are asked first.
    """
    channels, height, width = shape
    if backbone in resnet.PLANS:
        return resnet.network(resnet.PLANS[backbone], channels, height)
    return efficientnet_lite.network(backbone, channels, (height, width))


def is_shared(backbone: str) -> bool:
    """Whether `network` knows it, so that each backend can build it."""
    return backbone in resnet.PLANS or backbone in efficientnet_lite.SCALES
