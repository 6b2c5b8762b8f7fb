"""The kinds of layer in a shared network, and the network: layers that read each other's values."""

import math
from dataclasses import dataclass

INPUT = "images"
"""The name of the first layer's input: normalized float32 images."""

Padding = tuple[tuple[int, int], tuple[int, int]]
"""Zeros ((top, bottom), (left, right)) around an image."""

NO_PADDING: Padding = ((0, 0), (0, 0))


@dataclass(frozen=True)
class Layer:
    """One operation.

    Attributes:
        name: of the layer, its output and its weights.
        inputs: names of the values it reads.
    """

    name: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Convolution(Layer):
    """A weighted sum of each window.

    Attributes:
        width_in, width: channels in and out.
        kernel: (height, width).
        stride: of both axes.
        groups: of channels in and out, each convolved alone; `width_in` if each channel has a
            filter of its own.
        padding: zeros around the input.
        has_bias: whether it adds a number per channel; a BatchNorm after it does that instead.
    """

    width_in: int
    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    groups: int = 1
    padding: Padding = NO_PADDING
    has_bias: bool = False

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel has a filter of its own."""
        return self.groups > 1 and self.groups == self.width_in == self.width


@dataclass(frozen=True)
class Norm(Layer):
    """BatchNorm: (x − mean) / √(variance + epsilon) · weight + bias, per channel.

    In training, mean and (biased) variance are those of the batch, and running = momentum · running
    + (1 − momentum) · batch; in evaluation they are the running ones.

    Attributes:
        width: channels.
        epsilon, momentum: see above.
        learns_scale: whether `weight` exists; otherwise the scale is 1.
    """

    width: int
    epsilon: float
    momentum: float
    learns_scale: bool = True


@dataclass(frozen=True)
class Activation(Layer):
    """ReLU: max(x, 0), at most `ceiling` if there is one (6 for ReLU6)."""

    ceiling: float | None = None


@dataclass(frozen=True)
class Swish(Layer):
    """x · sigmoid(x), also called SiLU."""


@dataclass(frozen=True)
class Sigmoid(Layer):
    """1 / (1 + exp(−x))."""


@dataclass(frozen=True)
class MaxPool(Layer):
    """The largest value of each window; padding counts as −∞."""

    kernel: int = 3
    stride: int = 2
    padding: Padding = ((1, 1), (1, 1))


@dataclass(frozen=True)
class Add(Layer):
    """The sum of two values of equal shape."""


@dataclass(frozen=True)
class Scale(Layer):
    """The product of a value and, for each of its channels, one number: N·C·H·W and N·C·1·1."""


@dataclass(frozen=True)
class Mean(Layer):
    """The mean over all positions: N·C·H·W to (N, C), or to N·C·1·1 if it keeps the sides."""

    keeps_sides: bool = False


@dataclass(frozen=True)
class Network:
    """Layers from images to features.

    Attributes:
        layers: in an order in which each layer's inputs precede it.
        width: number of features, the last layer's output.
    """

    layers: tuple[Layer, ...]
    width: int

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor, weights and running statistics, by neutral name."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in self.layers:
            if isinstance(layer, Convolution):
                height, width = layer.kernel
                inner = layer.width_in // layer.groups
                shapes[f"{layer.name}.weight"] = (layer.width, inner, height, width)
                if layer.has_bias:
                    shapes[f"{layer.name}.bias"] = (layer.width,)
            elif isinstance(layer, Norm):
                tensors = ("weight", "bias", "running_mean", "running_var")
                for tensor in tensors if layer.learns_scale else tensors[1:]:
                    shapes[f"{layer.name}.{tensor}"] = (layer.width,)
        return shapes

    def count_values(self, shape: tuple[int, int, int]) -> int:
        """Return how many numbers all layers compute of one image of (channels, height, width)."""
        shapes = {INPUT: shape}
        for layer in self.layers:
            width, *sides = shapes[layer.inputs[0]]
            if isinstance(layer, Convolution | MaxPool):
                kernel = layer.kernel if isinstance(layer, Convolution) else (layer.kernel,) * 2
                sides = [
                    (side + sum(around) - length) // layer.stride + 1
                    for side, around, length in zip(sides, layer.padding, kernel, strict=True)
                ]
            elif isinstance(layer, Mean):
                sides = [1, 1]
            if isinstance(layer, Convolution):
                width = layer.width
            shapes[layer.name] = (width, sides[0], sides[1])
        return sum(math.prod(sizes) for sizes in shapes.values())

    def last_uses(self) -> tuple[tuple[str, ...], ...]:
        """Return for each layer the values that no later layer reads, to free them after it."""
        seen: set[str] = set()
        freed = []
        for layer in reversed(self.layers):
            freed.append(tuple(name for name in dict.fromkeys(layer.inputs) if name not in seen))
            seen.update(layer.inputs)
        return tuple(reversed(freed))
