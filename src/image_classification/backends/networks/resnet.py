"""Pre-activation ResNet (v2), the network of the MXNet built-in, as data.

Source: apache/mxnet `example/image-classification/symbols/resnet.py`. A BatchNorm with a fixed
scale reads the images, the first unit of each stage has a projected shortcut, and BatchNorms have
epsilon 2e-5 and momentum 0.9.
"""

from dataclasses import dataclass

from image_classification.backends.networks import layers

_EPSILON = 2e-5
_MOMENTUM = 0.9
_SMALL_HEIGHT = 32


@dataclass(frozen=True)
class Plan:
    """The filters of the stem and of each stage, the units of each stage, and their kind."""

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


def network(plan: Plan, channels: int, height: int) -> layers.Network:
    """Return the network of a plan; up to 32 pixels of height the stem keeps the size."""
    stack: list[layers.Layer] = [
        layers.Norm("input.bn", (layers.INPUT,), channels, _EPSILON, _MOMENTUM, learns_scale=False)
    ]
    stack += _stem(channels, plan.filters[0], is_small=height <= _SMALL_HEIGHT)
    for index, units in enumerate(plan.units):
        width_in, width = plan.filters[index : index + 2]
        for number in range(1, units + 1):
            is_first = number == 1
            name = f"stage{index + 1}.block{number}"
            stride = 2 if is_first and index > 0 else 1
            before = stack[-1].name
            stack += _unit(name, before, width_in, width, stride, plan.bottleneck, is_first)
            width_in = width
    width = plan.filters[-1]
    stack += _active("final.bn", "final.relu", stack[-1].name, width)
    stack.append(layers.Mean("final.mean", ("final.relu",)))
    return layers.Network(tuple(stack), width)


def _stem(channels: int, width: int, is_small: bool) -> list[layers.Layer]:
    if is_small:
        return [
            layers.Convolution(
                "stem.conv", ("input.bn",), channels, width, (3, 3), padding=_even(1)
            )
        ]
    return [
        layers.Convolution(
            "stem.conv", ("input.bn",), channels, width, (7, 7), 2, padding=_even(3)
        ),
        *_active("stem.bn", "stem.relu", "stem.conv", width),
        layers.MaxPool("stem.pool", ("stem.relu",)),
    ]


def _unit(
    name: str, before: str, width_in: int, width: int, stride: int, bottleneck: bool, project: bool
) -> list[layers.Layer]:
    """BatchNorm, ReLU and convolution, two or three times (bottleneck), and the shortcut."""
    inner = width // 4
    convolutions = (  # kernel, stride, filters
        ((1, 1, inner), (3, stride, inner), (1, 1, width))
        if bottleneck
        else ((3, stride, width), (3, 1, width))
    )
    stack: list[layers.Layer] = []
    shortcut, value, narrow = before, before, width_in
    for number, (kernel, step, filters) in enumerate(convolutions, start=1):
        active = f"{name}.relu{number}"
        stack += _active(f"{name}.bn{number}", active, value, narrow)
        if number == 1 and project:
            shortcut = f"{name}.shortcut"
            stack.append(layers.Convolution(shortcut, (active,), width_in, width, stride=stride))
        value, padding = f"{name}.conv{number}", _even(kernel // 2)
        size = (kernel, kernel)
        stack.append(
            layers.Convolution(value, (active,), narrow, filters, size, step, padding=padding)
        )
        narrow = filters
    return [*stack, layers.Add(f"{name}.sum", (value, shortcut))]


def _active(norm: str, activation: str, before: str, width: int) -> list[layers.Layer]:
    return [
        layers.Norm(norm, (before,), width, _EPSILON, _MOMENTUM),
        layers.Activation(activation, (norm,)),
    ]


def _even(pixels: int) -> layers.Padding:
    return ((pixels, pixels), (pixels, pixels))


# Our layers → theirs; `layouts` tells how to read the keys and values. Gluon's ResNet-18 and 34 of
# version 2 have no projection in the first stage, so they are other networks.
GLUON = {
    "input.bn": "features.0",
    "stem.conv": "features.1",
    "stem.bn": "features.2",
    "block.bn1": "features.{stage_5}.{block}.bn1",
    "block.conv1": "features.{stage_5}.{block}.conv1",
    "block.bn2": "features.{stage_5}.{block}.bn2",
    "block.conv2": "features.{stage_5}.{block}.conv2",
    "block.bn3": "features.{stage_5}.{block}.bn3",
    "block.conv3": "features.{stage_5}.{block}.conv3",
    "block.shortcut": "features.{stage_5}.{block}.downsample",
    "final.bn": "features.9",
    "head": "output",
}
GLUON_EPSILON = 1e-5
