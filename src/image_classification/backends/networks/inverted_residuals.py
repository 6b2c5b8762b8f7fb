"""Networks of inverted residual blocks as data: what EfficientNets and MobileNetV2 have in common.

A block widens its input (1×1), filters each channel alone (k×k), and narrows (1×1, linear); some
also weigh the channels by what the whole image has of them ("squeeze and excite").
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from image_classification.backends.networks import layers

# The published 0.99 of TensorFlow's networks is for 100,000 steps and more: in a short fine-tuning
# the running statistics stay those of ImageNet. 500 flowers, 3 to 4 epochs: 66% with 0.99, 89%
# with 0.9, which is also PyTorch's.
_MOMENTUM = 0.9


@dataclass(frozen=True)
class Stage:
    """Blocks of one width; the first has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    width: int


@dataclass(frozen=True)
class Style:
    """What networks of the same blocks do not have in common.

    Attributes:
        epsilon: of BatchNorms.
        same_padding: TensorFlow's SAME instead of the same number of zeros on opposite sides; they
            differ at an even size and stride.
        swish: x · sigmoid(x) instead of ReLU6.
        squeeze: channels between the two convolutions that weigh a block's channels, for each of
            its inputs; 0 if nothing weighs them.
    """

    epsilon: float
    same_padding: bool
    swish: bool = False
    squeeze: float = 0.0


@dataclass
class Convolutions:
    """Adds convolutions to a stack, and follows the size (height, width) of what they write."""

    style: Style
    size: Sequence[int]
    stack: list[layers.Layer]

    def add(
        self,
        name: str,
        width_in: int,
        width: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        is_linear: bool = False,
    ) -> None:
        """Add a convolution of the last value, BatchNorm and, unless linear, the activation."""
        even = ((kernel // 2, kernel // 2), (kernel // 2, kernel // 2))
        is_same = self.style.same_padding
        padding = same_padding(self.size, kernel, stride) if is_same else even
        convolution, norm, kernels = f"{name}.conv", f"{name}.bn", (kernel, kernel)
        self.stack += [
            layers.Convolution(
                convolution, (self.last,), width_in, width, kernels, stride, groups, padding
            ),
            layers.Norm(norm, (convolution,), width, self.style.epsilon, _MOMENTUM),
        ]
        if not is_linear and self.style.swish:
            self.stack.append(layers.Swish(f"{name}.swish", (norm,)))
        elif not is_linear:
            self.stack.append(layers.Activation(f"{name}.relu6", (norm,), 6.0))
        self.size = [math.ceil(pixels / stride) for pixels in self.size]

    def add_squeeze(self, name: str, width: int, squeezed: int) -> None:
        """Multiply each channel of the last value by 0 to 1, which the means of all decide."""
        value = self.last
        self.stack += [
            layers.Mean(f"{name}.mean", (value,), keeps_sides=True),
            layers.Convolution(f"{name}.conv1", (f"{name}.mean",), width, squeezed, has_bias=True),
            layers.Swish(f"{name}.swish", (f"{name}.conv1",)),
            layers.Convolution(f"{name}.conv2", (f"{name}.swish",), squeezed, width, has_bias=True),
            layers.Sigmoid(f"{name}.sigmoid", (f"{name}.conv2",)),
            layers.Scale(f"{name}.scale", (value, f"{name}.sigmoid")),
        ]

    @property
    def last(self) -> str:
        """The name of the last value."""
        return self.stack[-1].name if self.stack else layers.INPUT


def network(
    stages: Sequence[Stage],
    stem_width: int,
    final_width: int,
    style: Style,
    channels: int,
    size: tuple[int, int],
) -> layers.Network:
    """Return the network of stages for images of `size` (height, width)."""
    made = Convolutions(style, size, [])
    made.add("stem", channels, stem_width, 3, 2)
    width_in = stem_width
    for number, stage in enumerate(stages, start=1):
        for block in range(1, stage.repeats + 1):
            stride = stage.stride if block == 1 else 1
            _add_block(made, f"stage{number}.block{block}", width_in, stage, stride)
            width_in = stage.width
    made.add("final", width_in, final_width)
    made.stack.append(layers.Mean("final.mean", (made.last,)))
    return layers.Network(tuple(made.stack), final_width)


def _add_block(made: Convolutions, name: str, width_in: int, stage: Stage, stride: int) -> None:
    inner, before = width_in * stage.expansion, made.last
    if stage.expansion > 1:
        made.add(f"{name}.expand", width_in, inner)
    made.add(f"{name}.depthwise", inner, inner, stage.kernel, stride, inner)
    if made.style.squeeze:
        made.add_squeeze(f"{name}.squeeze", inner, max(1, int(width_in * made.style.squeeze)))
    made.add(f"{name}.project", inner, stage.width, is_linear=True)
    if stride == 1 and width_in == stage.width:
        made.stack.append(layers.Add(f"{name}.sum", (made.last, before)))


def same_padding(size: Sequence[int], kernel: int, stride: int) -> layers.Padding:
    """Return the padding of TensorFlow's SAME for an input of `size` (height, width) pixels."""
    totals = [max((-(-pixels // stride) - 1) * stride + kernel - pixels, 0) for pixels in size]
    vertical, horizontal = ((total // 2, total - total // 2) for total in totals)
    return vertical, horizontal


def rounded(width: float) -> int:
    """Return a scaled number of channels: the nearest multiple of 8 that loses at most a tenth."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * width else nearest + 8
