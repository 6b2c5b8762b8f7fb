# mypy: allow-subclassing-any
"""EfficientNet-Lite 0, 1 and 2 as named parts: mobile networks with plain, quantisable layers.

In: normalised float32 (N, C, H, W). Out of the last part: float32 (N, 1280) features.
Source: tensorflow/tpu `models/official/efficientnet/lite` (ReLU6, no squeeze and excitation, stem
and last convolution of fixed width, first and last stage of fixed depth), TensorFlow's SAME
padding, BatchNorm epsilon 1e-3. Their momentum is 0.99, for schedules of 100,000 steps and more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

_EPSILON = 1e-3
# Not the published 0.01 (0.99 as TensorFlow counts): in a short fine-tuning the running statistics
# then stay those of ImageNet. 500 flowers, 3 to 4 epochs: 66 % with 0.01, 89 % with 0.1.
_MOMENTUM = 0.1
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


def parts(name: str, shape: tuple[int, int, int]) -> tuple[dict[str, nn.Module], int]:
    """The network without its head: parts by name, in order, and the number of features.

    Args:
        name: a key of SCALES.
        shape: (channels, height, width) of the images. SAME padding depends on height and width:
            it is fixed here, so that the exported graph has no arithmetic on shapes.
    """
    channels, *size = shape
    width_factor, _ = SCALES[name]
    built: dict[str, nn.Module] = {"stem": _ConvNorm(channels, _STEM_WIDTH, 3, 2, size=size)}
    size = _strided(size, 2)
    width_in = _STEM_WIDTH
    for number, (stage, repeats) in enumerate(zip(STAGES, depths(name), strict=True), start=1):
        width = _round_width(stage.width * width_factor)
        blocks = nn.Sequential()
        for block in range(1, repeats + 1):
            stride = stage.stride if block == 1 else 1
            unit = _InvertedResidual(width_in, width, stage.kernel, stride, stage.expansion, size)
            blocks.add_module(f"block{block}", unit)
            size, width_in = _strided(size, stride), width
        built[f"stage{number}"] = blocks
    built["final"] = _Final(width_in, _FINAL_WIDTH)
    return built, _FINAL_WIDTH


def depths(name: str) -> tuple[int, ...]:
    """Blocks of each stage after scaling; the first and the last stage are not scaled."""
    _, factor = SCALES[name]
    middle = (math.ceil(stage.repeats * factor) for stage in STAGES[1:-1])
    return (STAGES[0].repeats, *middle, STAGES[-1].repeats)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after an axis of `size` pixels, as TensorFlow's SAME places them."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _strided(size: Sequence[int], stride: int) -> list[int]:
    return [math.ceil(pixels / stride) for pixels in size]


def _round_width(width: float) -> int:
    """To the nearest multiple of 8 that loses at most a tenth."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * width else rounded + 8


class _ConvNorm(nn.Module):
    """Convolution with SAME padding, BatchNorm and, unless linear, ReLU6.

    `size` is the input's (height, width); only the padding of a kernel above 1 depends on it.
    """

    def __init__(
        self,
        width_in: int,
        width: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        size: Sequence[int] = (1, 1),
        linear: bool = False,
    ) -> None:
        super().__init__()
        (top, bottom), (left, right) = (same_padding(pixels, kernel, stride) for pixels in size)
        is_even = top == bottom and left == right  # then the convolution pads without a copy
        self.uneven_padding = None if is_even else (left, right, top, bottom)
        padding = (top, left) if is_even else 0
        self.conv = nn.Conv2d(width_in, width, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=_EPSILON, momentum=_MOMENTUM)
        self.linear = linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.uneven_padding is not None:
            x = functional.pad(x, self.uneven_padding)
        x = self.bn(self.conv(x))
        return x if self.linear else functional.relu6(x, inplace=True)


class _InvertedResidual(nn.Module):
    """Widen (1×1), filter each channel (k×k), narrow (1×1, linear); add the input where it fits."""

    def __init__(
        self,
        width_in: int,
        width: int,
        kernel: int,
        stride: int,
        expansion: int,
        size: Sequence[int],
    ) -> None:
        super().__init__()
        inner = width_in * expansion
        self.expand = _ConvNorm(width_in, inner) if expansion > 1 else None
        self.depthwise = _ConvNorm(inner, inner, kernel, stride, groups=inner, size=size)
        self.project = _ConvNorm(inner, width, linear=True)
        self.is_residual = stride == 1 and width_in == width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return y + x if self.is_residual else y


class _Final(_ConvNorm):
    """The last 1×1 convolution and the mean over the positions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).mean((2, 3))
