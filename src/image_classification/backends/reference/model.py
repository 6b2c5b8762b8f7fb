"""A classifier in NumPy: normalization, a shared backbone and the head, forward and backward."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from image_classification.backends import base, networks
from image_classification.backends.networks import layers
from image_classification.backends.state import initial_tensor
from image_classification.samples import Array, FloatArray, UInt8Array

Tensors = Mapping[str, Array]
Gradients = tuple[list[Array], dict[str, Array]]
"""Those of a layer's inputs, in order, and of its weights by name."""

_POSITIONS = (0, 2, 3)  # all axes but the channels


def forward(layer: layers.Layer, inputs: list[Array], tensors: Tensors) -> Array:
    """Return a layer's output; a BatchNorm uses the statistics in `tensors`."""
    return _FORWARD[type(layer)](layer, inputs, tensors)


def backward(
    layer: layers.Layer, inputs: list[Array], output: Array, gradient: Array, tensors: Tensors
) -> Gradients:
    """Return a layer's gradients from that of its output; BatchNorms are in training mode."""
    return _BACKWARD[type(layer)](layer, inputs, output, gradient, tensors)


def statistics(x: Array) -> tuple[Array, Array]:
    """Return the mean and the biased variance of each channel, (C,) each."""
    return x.mean(_POSITIONS), x.var(_POSITIONS)


def _convolution(layer: layers.Convolution, inputs: list[Array], tensors: Tensors) -> Array:
    sums = _window_sums(layer, inputs, tensors)
    return sums + _channels(tensors[f"{layer.name}.bias"]) if layer.has_bias else sums


def _window_sums(layer: layers.Convolution, inputs: list[Array], tensors: Tensors) -> Array:
    kernel, patches = _kernel(layer, tensors), _patches(_padded(inputs[0], layer), layer)
    if layer.is_depthwise:
        return np.asarray(np.einsum("ck,nckhw->nchw", kernel[:, 0], patches))
    if layer.groups > 1:
        joined = _by_group(layer, kernel) @ _columns(layer, patches)
        count, _, _, height, width = patches.shape
        return np.moveaxis(joined.reshape(layer.width, count, height, width), 0, 1)
    return np.moveaxis(np.tensordot(kernel, patches, ([1, 2], [1, 2])), 0, 1)


def _convolution_back(
    layer: layers.Convolution, inputs: list[Array], _: Array, gradient: Array, tensors: Tensors
) -> Gradients:
    padded = _padded(inputs[0], layer)
    kernel, patches = _kernel(layer, tensors), _patches(padded, layer)
    if layer.is_depthwise:
        of_kernel = np.einsum("nchw,nckhw->ck", gradient, patches)
        of_patches = kernel[:, 0, :, None, None] * gradient[:, :, None]
    elif layer.groups > 1:
        of_joined = np.moveaxis(gradient, 1, 0).reshape(layer.groups, -1, gradient[:, 0].size)
        of_kernel = of_joined @ _columns(layer, patches).swapaxes(1, 2)
        of_columns = _by_group(layer, kernel).swapaxes(1, 2) @ of_joined
        count, channels, positions, height, width = patches.shape
        of_patches = of_columns.reshape(channels, positions, count, height, width)
        of_patches = np.moveaxis(of_patches, 2, 0)
    else:
        of_kernel = np.tensordot(gradient, patches, ([0, 2, 3], [0, 3, 4]))
        of_patches = np.moveaxis(np.tensordot(kernel, gradient, (0, 1)), 2, 0)
    of_padded = np.zeros_like(padded)
    for position, window in enumerate(_windows(padded, layer.kernel, layer.stride)):
        of_padded[window] += of_patches[:, :, position]
    name = f"{layer.name}.weight"
    of_tensors = {name: of_kernel.reshape(tensors[name].shape)}
    if layer.has_bias:
        of_tensors[f"{layer.name}.bias"] = gradient.sum(_POSITIONS)
    return [_cropped(of_padded, layer)], of_tensors


def _kernel(layer: layers.Convolution, tensors: Tensors) -> Array:
    """(out, in / groups, positions): one axis for the positions in a kernel."""
    weight = tensors[f"{layer.name}.weight"]
    return weight.reshape(*weight.shape[:2], -1)


def _by_group(layer: layers.Convolution, kernel: Array) -> Array:
    """(groups, out / groups, in / groups · positions): the matrix of each group."""
    return kernel.reshape(layer.groups, layer.width // layer.groups, -1)


def _columns(layer: layers.Convolution, patches: Array) -> Array:
    """(groups, in / groups · positions, N · height · width): what a group's matrix multiplies."""
    count, _, _, height, width = patches.shape
    return np.moveaxis(patches, 0, 2).reshape(layer.groups, -1, count * height * width)


def _patches(padded: Array, layer: layers.Convolution) -> Array:
    """(N, C, positions, height, width): the pixels under each position, for each output."""
    windows = _windows(padded, layer.kernel, layer.stride)
    return np.stack([padded[window] for window in windows], axis=2)


def _norm(layer: layers.Norm, inputs: list[Array], tensors: Tensors) -> Array:
    mean, variance = (tensors[f"{layer.name}.running_{kind}"] for kind in ("mean", "var"))
    return _scale(layer, tensors) * _standardized(layer, inputs[0], mean, variance) + _channels(
        tensors[f"{layer.name}.bias"]
    )


def _norm_back(
    layer: layers.Norm, inputs: list[Array], _: Array, gradient: Array, tensors: Tensors
) -> Gradients:
    mean, variance = statistics(inputs[0])
    standard = _standardized(layer, inputs[0], mean, variance)
    of_tensors = {f"{layer.name}.bias": gradient.sum(_POSITIONS)}
    if layer.learns_scale:
        of_tensors[f"{layer.name}.weight"] = (gradient * standard).sum(_POSITIONS)
    scaled = gradient * _scale(layer, tensors)
    along = _channels((scaled * standard).mean(_POSITIONS)) * standard
    centered = scaled - _channels(scaled.mean(_POSITIONS)) - along
    return [centered / _channels(np.sqrt(variance + layer.epsilon))], of_tensors


def _activation(layer: layers.Activation, inputs: list[Array], _: Tensors) -> Array:
    return np.clip(inputs[0], 0, layer.ceiling)


def _activation_back(
    layer: layers.Activation, inputs: list[Array], _: Array, gradient: Array, __: Tensors
) -> Gradients:
    ceiling = np.inf if layer.ceiling is None else layer.ceiling
    return [gradient * ((inputs[0] > 0) & (inputs[0] < ceiling))], {}


def _max_pool(layer: layers.MaxPool, inputs: list[Array], _: Tensors) -> Array:
    padded = _padded(inputs[0], layer, -np.inf)
    kernel = (layer.kernel, layer.kernel)
    windows = (padded[window] for window in _windows(padded, kernel, layer.stride))
    return np.asarray(np.maximum.reduce(list(windows)))


def _max_pool_back(
    layer: layers.MaxPool, inputs: list[Array], output: Array, gradient: Array, _: Tensors
) -> Gradients:
    padded = _padded(inputs[0], layer, -np.inf)
    of_padded, is_open = np.zeros_like(padded), np.ones(output.shape, bool)
    for window in _windows(padded, (layer.kernel, layer.kernel), layer.stride):
        wins = is_open & (padded[window] == output)  # the first of equals
        of_padded[window] += gradient * wins
        is_open &= ~wins
    return [_cropped(of_padded, layer)], {}


def _add(_: layers.Layer, inputs: list[Array], __: Tensors) -> Array:
    return inputs[0] + inputs[1]


def _add_back(
    _: layers.Layer, __: list[Array], ___: Array, gradient: Array, ____: Tensors
) -> Gradients:
    return [gradient, gradient], {}


def _scaled(_: layers.Layer, inputs: list[Array], __: Tensors) -> Array:
    return inputs[0] * inputs[1]


def _scaled_back(
    _: layers.Layer, inputs: list[Array], __: Array, gradient: Array, ___: Tensors
) -> Gradients:
    value, scale = inputs
    return [gradient * scale, (gradient * value).sum((2, 3), keepdims=True)], {}


def _sigmoid(_: layers.Layer, inputs: list[Array], __: Tensors) -> Array:
    return np.asarray(0.5 + 0.5 * np.tanh(inputs[0] / 2))


def _sigmoid_back(
    _: layers.Layer, __: list[Array], output: Array, gradient: Array, ___: Tensors
) -> Gradients:
    return [gradient * output * (1 - output)], {}


def _swish(layer: layers.Layer, inputs: list[Array], tensors: Tensors) -> Array:
    return inputs[0] * _sigmoid(layer, inputs, tensors)


def _swish_back(
    layer: layers.Layer, inputs: list[Array], output: Array, gradient: Array, tensors: Tensors
) -> Gradients:
    sigmoid = _sigmoid(layer, inputs, tensors)
    return [gradient * (sigmoid + output * (1 - sigmoid))], {}


def _mean(layer: layers.Mean, inputs: list[Array], _: Tensors) -> Array:
    return np.asarray(inputs[0].mean((2, 3), keepdims=layer.keeps_sides))


def _mean_back(
    _: layers.Layer, inputs: list[Array], __: Array, gradient: Array, ___: Tensors
) -> Gradients:
    count, channels, height, width = inputs[0].shape
    share = gradient.reshape(count, channels, 1, 1) / (height * width)
    return [np.broadcast_to(share, inputs[0].shape)], {}


def _windows(padded: Array, kernel: tuple[int, int], stride: int) -> Iterator[tuple[slice, ...]]:
    """Yield for each position in a kernel, row by row, the pixels under it for all outputs."""
    height, width = padded.shape[2:]
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            rows = slice(row, height - kernel[0] + row + 1, stride)
            columns = slice(column, width - kernel[1] + column + 1, stride)
            yield slice(None), slice(None), rows, columns


def _padded(x: Array, layer: layers.Convolution | layers.MaxPool, value: float = 0.0) -> Array:
    return np.pad(x, ((0, 0), (0, 0), *layer.padding), constant_values=value)


def _cropped(padded: Array, layer: layers.Convolution | layers.MaxPool) -> Array:
    (top, bottom), (left, right) = layer.padding
    height, width = padded.shape[2:]
    return padded[:, :, top : height - bottom, left : width - right]


def _standardized(layer: layers.Norm, x: Array, mean: Array, variance: Array) -> Array:
    return (x - _channels(mean)) / _channels(np.sqrt(variance + layer.epsilon))


def _scale(layer: layers.Norm, tensors: Tensors) -> Array | float:
    return _channels(tensors[f"{layer.name}.weight"]) if layer.learns_scale else 1.0


def _channels(values: Array) -> Array:
    return values[:, None, None]


_FORWARD: dict[type[layers.Layer], Callable[..., Array]] = {
    layers.Convolution: _convolution,
    layers.Norm: _norm,
    layers.Activation: _activation,
    layers.MaxPool: _max_pool,
    layers.Swish: _swish,
    layers.Sigmoid: _sigmoid,
    layers.Add: _add,
    layers.Scale: _scaled,
    layers.Mean: _mean,
}
_BACKWARD: dict[type[layers.Layer], Callable[..., Gradients]] = {
    layers.Convolution: _convolution_back,
    layers.Norm: _norm_back,
    layers.Activation: _activation_back,
    layers.MaxPool: _max_pool_back,
    layers.Swish: _swish_back,
    layers.Sigmoid: _sigmoid_back,
    layers.Add: _add_back,
    layers.Scale: _scaled_back,
    layers.Mean: _mean_back,
}


@dataclass
class Pass:
    """A forward pass in training mode: each layer's output, and each new running statistic."""

    values: dict[str, Array] = field(default_factory=dict)
    statistics: dict[str, FloatArray] = field(default_factory=dict)


class Classifier:
    """The network and its tensors: float32 by neutral name, drawn from the seed of `spec`."""

    def __init__(self, spec: base.ModelSpec) -> None:
        self.spec = spec
        self.network = networks.network(spec.backbone, spec.input_shape)
        width = self.network.width
        shapes = self.network.tensor_shapes()
        shapes |= {"head.weight": (spec.classes, width), "head.bias": (spec.classes,)}
        self.tensors = {
            name: initial_tensor(name, shape, spec.seed) for name, shape in shapes.items()
        }
        prefix = "head." if spec.train_only_head else ""
        self.learning = [
            name for name in shapes if name.startswith(prefix) and ".running_" not in name
        ]

    def features(self, images: UInt8Array, tensors: dict[str, FloatArray] | None = None) -> Array:
        """Return float64 (N, width) of uint8 images (N, H, W, C), with running statistics.

        `tensors` replace the classifier's own.
        """
        exact = _exact(self.tensors if tensors is None else tensors)
        values = {layers.INPUT: self._normalized(images)}
        for layer, freed in zip(self.network.layers, self.network.last_uses(), strict=True):
            inputs = [values[name] for name in layer.inputs]
            values[layer.name] = forward(layer, inputs, exact)
            for name in freed:
                del values[name]
        return values[self.network.layers[-1].name]

    def training_features(self, images: UInt8Array) -> tuple[Array, Pass]:
        """Return the same with the batch's statistics, and the pass that `gradients` needs."""
        made = Pass({layers.INPUT: self._normalized(images)})
        tensors = _exact(self.tensors)
        for layer in self.network.layers:
            inputs = [made.values[name] for name in layer.inputs]
            if isinstance(layer, layers.Norm):
                of_batch = statistics(inputs[0])
                for kind, batch in zip(("mean", "var"), of_batch, strict=True):
                    name = f"{layer.name}.running_{kind}"
                    running = layer.momentum * tensors[name] + (1 - layer.momentum) * batch
                    made.statistics[name] = running.astype(np.float32)
                    tensors[name] = batch
            made.values[layer.name] = forward(layer, inputs, tensors)
        return made.values[self.network.layers[-1].name], made

    def gradients(self, made: Pass, of_features: Array) -> dict[str, Array]:
        """Return the gradients of all weights from that of the features (N, width)."""
        order, tensors = self.network.layers, _exact(self.tensors)
        of_values, of_tensors = {order[-1].name: of_features}, {}
        for layer in reversed(order):
            inputs = [made.values[name] for name in layer.inputs]
            gradient, output = of_values.pop(layer.name), made.values[layer.name]
            of_inputs, of_own = backward(layer, inputs, output, gradient, tensors)
            of_tensors.update(of_own)
            for name, of_input in zip(layer.inputs, of_inputs, strict=True):
                of_values[name] = of_values[name] + of_input if name in of_values else of_input
        return of_tensors

    def _normalized(self, images: UInt8Array) -> Array:
        pixels = images.transpose(0, 3, 1, 2).astype(np.float64)
        mean, std = (np.reshape(v, (-1, 1, 1)) for v in (self.spec.mean, self.spec.std))
        return np.asarray((pixels - mean) / std)


def _exact(tensors: dict[str, FloatArray]) -> dict[str, Array]:
    return {name: tensor.astype(np.float64) for name, tensor in tensors.items()}


def head(features: Array, tensors: dict[str, FloatArray]) -> Array:
    """Return logits, float64 (N, classes)."""
    return features @ tensors["head.weight"].astype(np.float64).T + tensors["head.bias"]
