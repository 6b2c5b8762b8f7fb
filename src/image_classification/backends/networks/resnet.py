"""Pre-activation ResNet (v2), the network of the MXNet built-in, as data.

Meaning, from the public code: apache/mxnet `example/image-classification/symbols/resnet.py`: a
BatchNorm on the data whose scale is fixed, every first unit of a stage with a projected shortcut,
BatchNorm epsilon 2e-5 and momentum 0.9.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    Padding,
)

_EPSILON = 2e-5
_MOMENTUM = 0.9
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


def network(plan: Plan, channels: int, height: int) -> Network:
    """The layers of a plan for images of so many channels; up to 32 px the stem keeps the size."""
    layers: list[Layer] = [
        Norm("input.bn", (INPUT,), channels, _EPSILON, _MOMENTUM, learns_scale=False)
    ]
    layers += _stem(channels, plan.filters[0], is_small=height <= _SMALL_HEIGHT)
    for index, units in enumerate(plan.units):
        width_in, width = plan.filters[index : index + 2]
        for number in range(1, units + 1):
            is_first = number == 1
            name = f"stage{index + 1}.block{number}"
            stride = 2 if is_first and index > 0 else 1
            before = layers[-1].name
            layers += _unit(name, before, width_in, width, stride, plan.bottleneck, is_first)
            width_in = width
    width = plan.filters[-1]
    layers += _active("final.bn", "final.relu", layers[-1].name, width)
    layers.append(Mean("final.mean", ("final.relu",)))
    return Network(tuple(layers), width)


def _stem(channels: int, width: int, is_small: bool) -> list[Layer]:
    if is_small:
        return [Convolution("stem.conv", ("input.bn",), channels, width, (3, 3), padding=_even(1))]
    return [
        Convolution("stem.conv", ("input.bn",), channels, width, (7, 7), 2, padding=_even(3)),
        *_active("stem.bn", "stem.relu", "stem.conv", width),
        MaxPool("stem.pool", ("stem.relu",)),
    ]


def _unit(
    name: str, before: str, width_in: int, width: int, stride: int, bottleneck: bool, project: bool
) -> list[Layer]:
    """BatchNorm, ReLU, convolution, two or three (bottleneck) times, and the shortcut."""
    inner = width // 4
    convolutions = (  # kernel, stride, filters
        ((1, 1, inner), (3, stride, inner), (1, 1, width))
        if bottleneck
        else ((3, stride, width), (3, 1, width))
    )
    layers: list[Layer] = []
    shortcut, value, narrow = before, before, width_in
    for number, (kernel, step, filters) in enumerate(convolutions, start=1):
        active = f"{name}.relu{number}"
        layers += _active(f"{name}.bn{number}", active, value, narrow)
        if number == 1 and project:
            shortcut = f"{name}.shortcut"
            layers.append(Convolution(shortcut, (active,), width_in, width, stride=stride))
        value, padding = f"{name}.conv{number}", _even(kernel // 2)
        size = (kernel, kernel)
        layers.append(Convolution(value, (active,), narrow, filters, size, step, padding=padding))
        narrow = filters
    return [*layers, Add(f"{name}.sum", (value, shortcut))]


def _active(norm: str, activation: str, before: str, width: int) -> list[Layer]:
    return [Norm(norm, (before,), width, _EPSILON, _MOMENTUM), Activation(activation, (norm,))]


def _even(pixels: int) -> Padding:
    return ((pixels, pixels), (pixels, pixels))
