"""A network with its weights on a device: features and logits in training and prediction mode."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mxnet as mx
import numpy as np
from mxnet.contrib import amp
from mxnet.gluon.model_zoo import vision

from image_classification.backends import base, networks
from image_classification.backends.mxnet.catalog import PREFIX
from image_classification.backends.mxnet.optimizer import Shapes, Tensors
from image_classification.backends.networks import layers
from image_classification.backends.state import initial_tensor
from image_classification.backends.update_rules import is_decayed
from image_classification.errors import BackendError
from image_classification.samples import FloatArray, UInt8Array


def symbol(network: layers.Network, images: Any, learns: bool = True) -> Any:
    """Return the symbol of features (N, width); its inputs have the tensors' neutral names.

    Args:
        network: its layers.
        images: symbol of normalized images, float32 (N, C, H, W).
        learns: return the form that trains faster, instead of the one that oneDNN can fuse.
    """
    values = {layers.INPUT: images}
    for layer in network.layers:
        inputs = [values[name] for name in layer.inputs]
        values[layer.name] = _applied(layer, inputs, learns)
    return values[network.layers[-1].name]


def _applied(layer: layers.Layer, inputs: list[Any], learns: bool) -> Any:
    value = inputs[0]
    if isinstance(layer, layers.Convolution):
        return _convolution(layer, value)
    if isinstance(layer, layers.Norm):
        return _norm(layer, value)
    if isinstance(layer, layers.Activation):
        return _activation(layer, value, learns)
    if isinstance(layer, layers.MaxPool):
        (top, _), (left, _) = layer.padding  # the same on opposite sides
        sides = {"kernel": (layer.kernel,) * 2, "stride": (layer.stride,) * 2, "pad": (top, left)}
        return mx.sym.Pooling(value, pool_type="max", name=layer.name, **sides)
    if isinstance(layer, layers.Add):
        return mx.sym.elemwise_add(*inputs, name=layer.name)
    if isinstance(layer, layers.Scale):
        return mx.sym.broadcast_mul(*inputs, name=layer.name)
    if isinstance(layer, layers.Sigmoid):
        return mx.sym.sigmoid(value, name=layer.name)
    if isinstance(layer, layers.Swish):
        return mx.sym.elemwise_mul(value, mx.sym.sigmoid(value), name=layer.name)
    if isinstance(layer, layers.Mean):
        return mx.sym.mean(value, axis=(2, 3), keepdims=layer.keeps_sides, name=layer.name)
    raise TypeError(f"no operator for {layer}")


def _convolution(layer: layers.Convolution, value: Any) -> Any:
    (top, bottom), (left, right) = layer.padding
    pad, tensors = (top, left), ("weight", "bias") if layer.has_bias else ("weight",)
    if (top, left) != (bottom, right):  # MXNet's convolution pads opposite sides equally
        widths = (0, 0, 0, 0, top, bottom, left, right)
        value, pad = mx.sym.pad(value, mode="constant", pad_width=widths, constant_value=0), (0, 0)
    return mx.sym.Convolution(
        value,
        *(mx.sym.var(f"{layer.name}.{tensor}") for tensor in tensors),
        kernel=layer.kernel,
        stride=(layer.stride, layer.stride),
        pad=pad,
        num_filter=layer.width,
        num_group=layer.groups,
        no_bias=not layer.has_bias,
        name=layer.name,
    )


def _norm(layer: layers.Norm, value: Any) -> Any:
    tensors = ("weight", "bias", "running_mean", "running_var")
    return mx.sym.BatchNorm(
        value,
        *(mx.sym.var(f"{layer.name}.{tensor}") for tensor in tensors),
        eps=layer.epsilon,
        momentum=layer.momentum,
        fix_gamma=not layer.learns_scale,
        name=layer.name,
    )


def _activation(layer: layers.Activation, value: Any, learns: bool) -> Any:
    """Return ReLU or ReLU6; in the form for training, a step takes a third less time.

    The slice copies all values, so that the BatchNorm before it gets a gradient in plain layout.
    Otherwise MXNet passes two layouts to oneDNN, whose generic code is 100 times slower.
    """
    if layer.ceiling is None:
        return mx.sym.Activation(value, act_type="relu", name=layer.name)
    if not learns:
        return mx.sym.clip(value, 0.0, layer.ceiling, name=layer.name)
    floored = mx.sym._internal._maximum_scalar(value, scalar=0.0)
    clipped = mx.sym._internal._minimum_scalar(floored, scalar=layer.ceiling)
    return mx.sym.slice_axis(clipped, axis=0, begin=0, end=None, name=layer.name)


IMAGES = "images"
_GLUON_TENSORS = {"gamma": "weight", "beta": "bias"}


@dataclass(frozen=True)
class Graph:
    """A network without its head.

    Attributes:
        features: MXNet symbol of the output, for training.
        predicted: symbol for prediction, with the same inputs.
        width: number of features.
        shapes: of the weights and running statistics by neutral name.
        names: the symbol's inputs in order, as neutral names; IMAGES is one of them.
        constants: further inputs, which never change: mean and standard deviation of the images,
            and the scales of BatchNorms that learn none.
        has_dropout: whether the network itself drops values in training.
    """

    features: Any
    predicted: Any
    width: int
    shapes: dict[str, tuple[int, ...]]
    names: tuple[str, ...]
    constants: dict[str, FloatArray]
    has_dropout: bool = False


def build(spec: base.ModelSpec) -> Graph:
    """Return the graph of a specification; BackendError if the images are too small for it."""
    images = normalized(spec)
    if not networks.is_shared(spec.backbone):
        return _gluon_graph(spec, images)
    network = networks.network(spec.backbone, spec.input_shape)
    features = symbol(network, images)
    predicted = symbol(network, images, learns=False)
    names = tuple(features.list_inputs())
    constants = _normalization(spec)
    for layer in network.layers:
        if isinstance(layer, layers.Norm) and not layer.learns_scale:
            constants[f"{layer.name}.weight"] = np.ones(layer.width, np.float32)
    return Graph(features, predicted, network.width, network.tensor_shapes(), names, constants)


def _gluon_graph(spec: base.ModelSpec, images: Any) -> Graph:
    """Return a network of Gluon's model zoo; its weights are never downloaded.

    A tensor's neutral name is its path in the network, as in Gluon's parameter files, with the
    usual names of BatchNorm tensors: `features.1.weight`, `features.1.running_mean`.
    """
    block = vision.get_model(spec.backbone.removeprefix(PREFIX), pretrained=False)
    channels, height, width = spec.input_shape
    try:
        symbol = block.features(images)
        arguments, (output,), statistics = symbol.infer_shape(images=(1, height, width, channels))
    except mx.base.MXNetError as error:
        reason = str(error).strip().splitlines()[-1]
        raise BackendError(
            f"{spec.backbone} cannot be built for input {channels},{height},{width}: {reason}"
        ) from error
    if len(output) > 2:  # SqueezeNet, whose own head is a convolution
        pooled = mx.sym.Pooling(symbol, global_pool=True, pool_type="avg", kernel=(1, 1))
        symbol = mx.sym.Flatten(pooled)
    neutral_names = {}
    for path, parameter in block._collect_params_with_prefix().items():
        layer, _, tensor = path.rpartition(".")
        neutral_names[parameter.name] = f"{layer}.{_GLUON_TENSORS.get(tensor, tensor)}"
    inputs = zip(
        symbol.list_arguments() + symbol.list_auxiliary_states(),
        arguments + statistics,
        strict=True,
    )
    return Graph(
        symbol,
        symbol,
        output[1],
        {neutral_names[name]: shape for name, shape in inputs if name in neutral_names},
        tuple(neutral_names.get(name, name) for name in symbol.list_inputs()),
        _normalization(spec),
        has_dropout='"op": "Dropout"' in symbol.tojson(),
    )


def normalized(spec: base.ModelSpec) -> Any:
    """Return the symbol of normalized images, float32 (N, C, H, W)."""
    images = mx.sym.cast(mx.sym.var(IMAGES), dtype="float32")
    channels_first = mx.sym.transpose(images, axes=(0, 3, 1, 2))
    mean, std = (
        mx.sym.var(name, shape=values.shape) for name, values in _normalization(spec).items()
    )
    return mx.sym.broadcast_div(mx.sym.broadcast_sub(channels_first, mean), std)


def _normalization(spec: base.ModelSpec) -> dict[str, FloatArray]:
    shape = (1, spec.input_shape[0], 1, 1)
    named = {"images.mean": spec.mean, "images.std": spec.std}
    return {
        name: np.array(np.broadcast_to(np.reshape(values, (1, -1, 1, 1)), shape), np.float32)
        for name, values in named.items()
    }


def half(symbol: Any) -> Any:
    """Return a symbol that computes in float16, as MXNet's AMP converts it.

    Its inputs and its output stay float32, and so do the weights and statistics of BatchNorms.
    """
    return mx.sym.cast(amp.convert_symbol(symbol, target_dtype="float16"), dtype="float32")


_HEAD = ("head.weight", "head.bias")


class MXNetNetwork:
    """A network on an MXNet device (`context`), compiled once for all batch sizes.

    Args:
        spec: of the model.
        context: the device.
        precision: float32, or float16 for the training mode of the trunk.
    """

    def __init__(self, spec: base.ModelSpec, context: Any, precision: str = "float32") -> None:
        self._spec, self._context = spec, context
        self.graph = build(spec)
        shapes = dict(self.graph.shapes)
        shapes |= {"head.weight": (spec.classes, self.graph.width), "head.bias": (spec.classes,)}
        self.shapes: Shapes = shapes
        self._constants = {
            name: mx.nd.array(values, ctx=context) for name, values in self.graph.constants.items()
        }
        features = self.graph.features if precision == "float32" else half(self.graph.features)
        self._compiled = mx.nd.CachedOp(features, (("static_alloc", True),))

    def learned_shapes(self) -> Shapes:
        """Return the shapes of parameters that learn, those with weight decay first."""
        names = [name for name in self.shapes if ".running_" not in name]
        if self._spec.train_only_head:
            names = list(_HEAD)
        names.sort(key=lambda name: not is_decayed(self.shapes[name]))
        return {name: self.shapes[name] for name in names}

    def features(self, images: Any, tensors: Mapping[str, Any]) -> Any:
        """Return float32 (N, width) of uint8 images (N, H, W, C), in training mode.

        This updates the running statistics among `tensors`.
        """
        known = {**self._constants, **tensors, IMAGES: images}
        return self._compiled(*(known[name] for name in self.graph.names))

    def predictor(self, tensors: Mapping[str, Any]) -> Callable[[Any], Any]:
        """Return a function from images to features in prediction mode, with the current tensors.

        On CPUs BatchNorms and activations are fused into the convolutions (EfficientNet-Lite0: 72
        to 24 ms per image). The fused weights are fixed, so new weights need a new function.

        Args:
            tensors: all, or all but the head's. They are copied: MXNet rewrites the weights in
                oneDNN's layout in place, and would overwrite their neighbors.
        """
        symbol = self.graph.predicted
        if self._context.device_type == "cpu":
            symbol = symbol.optimize_for("MKLDNN")
        compiled = mx.nd.CachedOp(symbol, (("static_alloc", True),))
        renamed = dict(zip(self.graph.predicted.list_inputs(), self.graph.names, strict=True))
        names = [renamed[name] for name in symbol.list_inputs()]
        copies = {name: tensors[name].copy() for name in names if name in tensors}
        known = {**self._constants, **copies}

        def features(images: Any) -> Any:
            return compiled(*(known.get(name, images) for name in names))

        return features

    def logits(self, features: Any, tensors: Mapping[str, Any]) -> Any:
        weight, bias = (tensors[name] for name in _HEAD)
        return mx.nd.broadcast_add(mx.nd.dot(features, weight, transpose_b=True), bias)

    def images(self, images: UInt8Array) -> Any:
        """Copy images to the device."""
        return mx.nd.array(images, ctx=self._context, dtype=np.uint8)


class NetworkTensors:
    """All tensors of a network.

    Attributes:
        learned: those that learn.
        fixed: frozen ones and running statistics.
        views: all of them by neutral name.
    """

    def __init__(self, network: MXNetNetwork, context: Any) -> None:
        learned = network.learned_shapes()
        self.learned = Tensors(learned, context)
        rest = {name: shape for name, shape in network.shapes.items() if name not in learned}
        self.fixed = Tensors(rest, context)
        self.views: dict[str, Any] = {**self.learned.views, **self.fixed.views}

    def initialize(self, seed: int) -> None:
        self.write(
            {name: initial_tensor(name, view.shape, seed) for name, view in self.views.items()}
        )

    def write(self, arrays: base.State) -> None:
        """Copy these arrays into the tensors of their neutral names."""
        self.learned.write({k: v for k, v in arrays.items() if k in self.learned.views})
        self.fixed.write({k: v for k, v in arrays.items() if k in self.fixed.views})

    def read(self) -> dict[str, FloatArray]:
        """Wait for the device and return copies by neutral name."""
        return {**self.learned.read(), **self.fixed.read()}

    def approach(self, newest: "NetworkTensors", decay: float) -> None:
        """Set self = decay · self + (1 − decay) · newest."""
        for mine, theirs in ((self.learned, newest.learned), (self.fixed, newest.fixed)):
            if decay == 0:  # also if it contained NaN
                mine.flat[:] = theirs.flat
            else:
                mine.flat *= decay
                mine.flat += (1.0 - decay) * theirs.flat
