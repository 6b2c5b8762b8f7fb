"""The shared backbones as plain data, from which every backend builds the same network.

In: the name of a backbone and the shape of its images. Out: a `Network`, a list of layers in the
order they run, from normalized images to features. It needs no framework; a backend only translates
each kind of layer.

Neutral names and layouts: a layer's name is also the name of its output and the prefix of its
weights; the convolution `stage2.block1.conv1` owns `stage2.block1.conv1.weight`. Convolutions are
(out, in / groups, height, width), and a `bias` is (out,). A `Norm` owns `weight` (unless it is
fixed at one), `bias`, `running_mean` and `running_var`, each (width,). The head is not part of a
network: all models have `head.weight` (classes, width) and `head.bias` (classes,).
"""

from collections.abc import Mapping

from image_classification.backends.networks import (
    efficientnet,
    efficientnet_lite,
    mobilenet,
    resnet,
    resnet_v1_5,
)
from image_classification.backends.networks.layers import Network


def network(backbone: str, shape: tuple[int, int, int]) -> Network:
    """Return the network of a shared backbone; KeyError for other names.

    Args:
        backbone: a key of `backbones.BACKBONES`.
        shape: (channels, height, width) of the images; padding at an even stride depends on it.
    """
    channels, height, width = shape
    if backbone in resnet.PLANS:
        return resnet.network(resnet.PLANS[backbone], channels, height)
    if backbone in resnet_v1_5.PLANS:
        return resnet_v1_5.network(backbone, channels)
    if backbone in mobilenet.WIDTHS:
        return mobilenet.network(backbone, channels, (height, width))
    if backbone in mobilenet.V1_WIDTHS:
        return mobilenet.network_v1(backbone, channels, (height, width))
    if backbone in efficientnet.SCALES:
        return efficientnet.network(backbone, channels, (height, width))
    return efficientnet_lite.network(backbone, channels, (height, width))


def is_shared(backbone: str) -> bool:
    """Return whether every backend can build the backbone."""
    families: tuple[Mapping[str, object], ...] = (
        resnet.PLANS,
        resnet_v1_5.PLANS,
        mobilenet.WIDTHS,
        mobilenet.V1_WIDTHS,
        efficientnet.SCALES,
        efficientnet_lite.SCALES,
    )
    return any(backbone in names for names in families)
