"""EfficientNet-Lite 0, 1 and 2 as data: mobile networks with plain, quantizable layers.

Source: tensorflow/tpu `models/official/efficientnet/lite` (ReLU6, no squeeze and excitation, stem
and last convolution of fixed width, first and last stage of fixed depth), TensorFlow's SAME
padding, BatchNorm epsilon 1e-3. Their momentum is 0.99, for schedules of 100,000 steps and more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from image_classification.backends.networks.layers import (
    INPUT,
    Activation,
    Add,
    Convolution,
    Layer,
    Mean,
    Network,
    Norm,
    Padding,
)

_EPSILON = 1e-3
# Not the published 0.99: in a short fine-tuning the running statistics then stay those of ImageNet.
# 500 flowers, 3 to 4 epochs: 66 % with 0.99, 89 % with 0.9.
_MOMENTUM = 0.9
_STEM_WIDTH = 32
_FINAL_WIDTH = 1280


@dataclass(frozen=True)
class Stage:
    """Inverted residual blocks; the stride is the first block's, the width before scaling."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    width: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)

SCALES = {  # multipliers of width and depth
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
}


def network(name: str, channels: int, size: tuple[int, int]) -> Network:
    """The layers of a key of SCALES for images of `size` (height, width)."""
    width_factor, _ = SCALES[name]
    layers = _convolution("stem", INPUT, channels, _STEM_WIDTH, 3, 2, size=size)
    rest = _strided(size, 2)
    width_in = _STEM_WIDTH
    for number, (stage, repeats) in enumerate(zip(STAGES, depths(name), strict=True), start=1):
        width = _round_width(stage.width * width_factor)
        for block in range(1, repeats + 1):
            stride = stage.stride if block == 1 else 1
            prefix = f"stage{number}.block{block}"
            layers += _block(prefix, layers[-1].name, width_in, width, stage, stride, rest)
            rest, width_in = _strided(rest, stride), width
    layers += _convolution("final", layers[-1].name, width_in, _FINAL_WIDTH)
    layers.append(Mean("final.mean", (layers[-1].name,)))
    return Network(tuple(layers), _FINAL_WIDTH)


def depths(name: str) -> tuple[int, ...]:
    """Blocks of each stage after scaling; the first and the last stage are not scaled."""
    _, factor = SCALES[name]
    middle = (math.ceil(stage.repeats * factor) for stage in STAGES[1:-1])
    return (STAGES[0].repeats, *middle, STAGES[-1].repeats)


def same_padding(size: Sequence[int], kernel: int, stride: int) -> Padding:
    """The zeros that TensorFlow's SAME places around an input of `size` (height, width) pixels."""
    totals = [max((-(-pixels // stride) - 1) * stride + kernel - pixels, 0) for pixels in size]
    vertical, horizontal = ((total // 2, total - total // 2) for total in totals)
    return vertical, horizontal


def _block(
    name: str,
    before: str,
    width_in: int,
    width: int,
    stage: Stage,
    stride: int,
    size: Sequence[int],
) -> list[Layer]:
    """Widen (1×1), filter each channel (k×k), narrow (1×1, linear); add the input where it fits."""
    inner, value = width_in * stage.expansion, before
    layers: list[Layer] = []
    if stage.expansion > 1:
        layers += _convolution(f"{name}.expand", value, width_in, inner)
        value = layers[-1].name
    depthwise = f"{name}.depthwise"
    layers += _convolution(depthwise, value, inner, inner, stage.kernel, stride, inner, size)
    project = f"{name}.project"
    layers += _convolution(project, layers[-1].name, inner, width, is_linear=True)
    if stride == 1 and width_in == width:
        layers.append(Add(f"{name}.sum", (layers[-1].name, before)))
    return layers


def _convolution(
    name: str,
    before: str,
    width_in: int,
    width: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    size: Sequence[int] = (1, 1),
    is_linear: bool = False,
) -> list[Layer]:
    """Convolution with SAME padding, BatchNorm and, unless linear, ReLU6."""
    padding = same_padding(size, kernel, stride)
    kernels = (kernel, kernel)
    convolution = f"{name}.conv"
    layers: list[Layer] = [
        Convolution(convolution, (before,), width_in, width, kernels, stride, groups, padding),
        Norm(f"{name}.bn", (convolution,), width, _EPSILON, _MOMENTUM),
    ]
    if not is_linear:
        layers.append(Activation(f"{name}.relu6", (f"{name}.bn",), 6.0))
    return layers


def _strided(size: Sequence[int], stride: int) -> list[int]:
    return [math.ceil(pixels / stride) for pixels in size]


def _round_width(width: float) -> int:
    """To the nearest multiple of 8 that loses at most a tenth."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width else rounded + 8
