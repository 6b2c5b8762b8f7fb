"""EfficientNet-Lite 0, 1 and 2 as data: mobile networks with plain, quantizable layers.

Source: tensorflow/tpu `models/official/efficientnet/lite`: ReLU6, no squeeze and excitation, a stem
and a last convolution of fixed width, a first and a last stage of fixed depth, TensorFlow's SAME
padding, BatchNorm epsilon 1e-3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from image_classification.backends.networks import layers

_EPSILON = 1e-3
# The published 0.99 is for 100,000 steps and more: in a short fine-tuning the running statistics
# stay those of ImageNet. 500 flowers, 3 to 4 epochs: 66 % with 0.99, 89 % with 0.9.
_MOMENTUM = 0.9
_STEM_WIDTH = 32
_FINAL_WIDTH = 1280


@dataclass(frozen=True)
class Stage:
    """Inverted residual blocks; the first has the stride, and the width is before scaling."""

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


def network(name: str, channels: int, size: tuple[int, int]) -> layers.Network:
    """Return the network of a key of SCALES for images of `size` (height, width)."""
    width_factor, _ = SCALES[name]
    stack = _convolution("stem", layers.INPUT, channels, _STEM_WIDTH, 3, 2, size=size)
    rest = _strided(size, 2)
    width_in = _STEM_WIDTH
    for number, (stage, repeats) in enumerate(zip(STAGES, depths(name), strict=True), start=1):
        width = _round_width(stage.width * width_factor)
        for block in range(1, repeats + 1):
            stride = stage.stride if block == 1 else 1
            prefix = f"stage{number}.block{block}"
            stack += _block(prefix, stack[-1].name, width_in, width, stage, stride, rest)
            rest, width_in = _strided(rest, stride), width
    stack += _convolution("final", stack[-1].name, width_in, _FINAL_WIDTH)
    stack.append(layers.Mean("final.mean", (stack[-1].name,)))
    return layers.Network(tuple(stack), _FINAL_WIDTH)


def depths(name: str) -> tuple[int, ...]:
    """Return the blocks of each stage after scaling, which excepts the first and last stage."""
    _, factor = SCALES[name]
    middle = (math.ceil(stage.repeats * factor) for stage in STAGES[1:-1])
    return (STAGES[0].repeats, *middle, STAGES[-1].repeats)


def same_padding(size: Sequence[int], kernel: int, stride: int) -> layers.Padding:
    """Return the padding of TensorFlow's SAME for an input of `size` (height, width) pixels."""
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
) -> list[layers.Layer]:
    """Widen (1×1), filter each channel (k×k), narrow (1×1, linear); add the input if it fits."""
    inner, value = width_in * stage.expansion, before
    stack: list[layers.Layer] = []
    if stage.expansion > 1:
        stack += _convolution(f"{name}.expand", value, width_in, inner)
        value = stack[-1].name
    depthwise = f"{name}.depthwise"
    stack += _convolution(depthwise, value, inner, inner, stage.kernel, stride, inner, size)
    project = f"{name}.project"
    stack += _convolution(project, stack[-1].name, inner, width, is_linear=True)
    if stride == 1 and width_in == width:
        stack.append(layers.Add(f"{name}.sum", (stack[-1].name, before)))
    return stack


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
) -> list[layers.Layer]:
    """Convolution with SAME padding, BatchNorm and, unless linear, ReLU6."""
    padding = same_padding(size, kernel, stride)
    kernels = (kernel, kernel)
    convolution = f"{name}.conv"
    stack: list[layers.Layer] = [
        layers.Convolution(
            convolution, (before,), width_in, width, kernels, stride, groups, padding
        ),
        layers.Norm(f"{name}.bn", (convolution,), width, _EPSILON, _MOMENTUM),
    ]
    if not is_linear:
        stack.append(layers.Activation(f"{name}.relu6", (f"{name}.bn",), 6.0))
    return stack


def _strided(size: Sequence[int], stride: int) -> list[int]:
    return [math.ceil(pixels / stride) for pixels in size]


def _round_width(width: float) -> int:
    """To the nearest multiple of 8 that loses at most a tenth."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width else rounded + 8
