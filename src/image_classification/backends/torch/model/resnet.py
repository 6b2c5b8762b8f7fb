# mypy: allow-subclassing-any
"""Pre-activation ResNet (v2), the network of the built-in algorithm, as named parts.

In: normalised float32 (N, C, H, W). Out of the last part: float32 (N, width) features.
Meaning, from the public code: apache/mxnet `example/image-classification/symbols/resnet.py`: a
BatchNorm on the data, every first unit of a stage with a projected shortcut, BatchNorm epsilon 2e-5
and momentum 0.9. One difference: PyTorch keeps the unbiased variance as running statistic.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

_EPSILON = 2e-5
_MOMENTUM = 0.1  # PyTorch weighs the new value, MXNet (0.9) the old one
_SMALL_HEIGHT = 32


@dataclass(frozen=True)
class Plan:
    """A depth: filters of the stem and of each stage, units of each stage, kind of unit."""

    filters: tuple[int, ...]
    units: tuple[int, ...]
    bottleneck: bool = False


_BASIC = (64, 64, 128, 256, 512)
_BOTTLENECK = (64, 256, 512, 1024, 2048)
_SMALL = (16, 16, 32, 64)

PLANS = {
    "resnet18": Plan(_BASIC, (2, 2, 2, 2)),
    "resnet34": Plan(_BASIC, (3, 4, 6, 3)),
    "resnet50": Plan(_BOTTLENECK, (3, 4, 6, 3), bottleneck=True),
    "resnet101": Plan(_BOTTLENECK, (3, 4, 23, 3), bottleneck=True),
    "resnet152": Plan(_BOTTLENECK, (3, 8, 36, 3), bottleneck=True),
    "resnet200": Plan(_BOTTLENECK, (3, 24, 36, 3), bottleneck=True),
    "resnet20": Plan(_SMALL, (3, 3, 3)),
    "resnet32": Plan(_SMALL, (5, 5, 5)),
    "resnet44": Plan(_SMALL, (7, 7, 7)),
    "resnet56": Plan(_SMALL, (9, 9, 9)),
    "resnet110": Plan(_SMALL, (18, 18, 18)),
}


def parts(name: str, channels: int, height: int) -> tuple[dict[str, nn.Module], int]:
    """The network without its head: parts by name, in order, and the number of features.

    Args:
        name: a key of PLANS.
        channels: of the images.
        height: in pixels; up to 32 the stem keeps the resolution.
    """
    plan = PLANS[name]
    small = height <= _SMALL_HEIGHT
    built: dict[str, nn.Module] = {
        "input": _Named(bn=_FixedGammaBatchNorm(channels)),
        "stem": _SmallStem(channels, plan.filters[0])
        if small
        else _Stem(channels, plan.filters[0]),
    }
    for index, units in enumerate(plan.units):
        width_in, width = plan.filters[index : index + 2]
        blocks = {"block1": _Unit(width_in, width, 1 if index == 0 else 2, plan.bottleneck, True)}
        for number in range(2, units + 1):
            blocks[f"block{number}"] = _Unit(width, width, 1, plan.bottleneck, False)
        built[f"stage{index + 1}"] = _Named(**blocks)
    built["final"] = _Final(plan.filters[-1])
    return built, plan.filters[-1]


class _Named(nn.Sequential):
    """Modules in order, with names instead of numbers."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


class _FixedGammaBatchNorm(nn.BatchNorm2d):
    """BatchNorm with a learned shift and no learned scale: MXNet's `fix_gamma=True`."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=_EPSILON, momentum=_MOMENTUM)
        del self.weight
        self.register_buffer("weight", torch.ones(width), persistent=False)


class _Stem(nn.Module):
    """Images above 32 pixels: a quarter of the resolution."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        self.bn = _batch_norm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.max_pool2d(_relu(self.bn(self.conv(x))), 3, stride=2, padding=1)


class _SmallStem(nn.Module):
    """Images up to 32 pixels: one convolution, full resolution."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


class _Unit(nn.Module):
    """BatchNorm, ReLU, convolution, two (basic) or three times (bottleneck), and the shortcut."""

    def __init__(
        self, width_in: int, width: int, stride: int, bottleneck: bool, project: bool
    ) -> None:
        super().__init__()
        inner = width // 4
        convolutions = (  # kernel, stride, filters
            ((1, 1, inner), (3, stride, inner), (1, 1, width))
            if bottleneck
            else ((3, stride, width), (3, 1, width))
        )
        self.depth = len(convolutions)
        narrow = width_in
        for number, (kernel, step, filters) in enumerate(convolutions, start=1):
            convolution = nn.Conv2d(narrow, filters, kernel, step, padding=kernel // 2, bias=False)
            self.add_module(f"bn{number}", _batch_norm(narrow))
            self.add_module(f"conv{number}", convolution)
            narrow = filters
        self.shortcut = nn.Conv2d(width_in, width, 1, stride, bias=False) if project else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = _relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        y = self.conv1(active)
        for number in range(2, self.depth + 1):
            y = getattr(self, f"conv{number}")(_relu(getattr(self, f"bn{number}")(y)))
        return y + shortcut


class _Final(nn.Module):
    """The last activation and the mean over the positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn = _batch_norm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _relu(self.bn(x)).mean((2, 3))


def _batch_norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=_EPSILON, momentum=_MOMENTUM)


def _relu(x: torch.Tensor) -> torch.Tensor:
    return functional.relu(
        x, inplace=True
    )  # of a BatchNorm's output: its backward does not need it
