"""The ONNX graph of a shared backbone, and the check of any graph against its engine.

In: a `Network`, its weights by neutral name and the specification of the model. Out: a file with
the input `images`, uint8 (N, H, W, C) with free N, and the output `probabilities`, float32 (N,
classes), before those of `onnx_outputs`. The same weights give the same bytes with every backend
and version of the onnx package from 1.14 on.

A BatchNorm after a convolution is folded into it, and one that reads the images into their
normalization; padding belongs to its convolution. On one core EfficientNet-Lite0 takes 10.2 ms per
image, and 11.9 in the graph of PyTorch's exporter, where each uneven padding copies the image.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from image_classification import files
from image_classification.backends.base import ModelSpec
from image_classification.backends.networks import layers
from image_classification.backends.onnx_outputs import add_outputs, check_outputs
from image_classification.errors import AlgorithmError
from image_classification.samples import Array, Float64Array, FloatArray, UInt8Array

OPSET = 17  # ONNX Runtime reads it since 1.12
TOLERANCE = 1e-4
"""The largest difference of a probability between ONNX Runtime and the backend."""

Predict = Callable[[UInt8Array], FloatArray]
"""Uint8 images (N, H, W, C) to float32 (N, classes)."""
Weights = Mapping[str, Array]
Affine = tuple[Float64Array, Float64Array]
"""(scale, shift), each (channels,)."""

_IR_VERSION = 8  # of onnx 1.12, the oldest version that may contain opset 17
_NORMALIZED = "normalised"  # codespell:ignore normalised - as in 0.1.0, for the same bytes
_CHECKED_BATCHES = (1, 2, 7)


def write(
    path: Path,
    network: layers.Network,
    weights: Weights,
    spec: ModelSpec,
    temperature: float,
    predict: Predict,
) -> None:
    """Write the graph of a model whose backbone is shared, once `check` has accepted it.

    Args:
        path, temperature: see `base.Engine.export`.
        network: of the backbone.
        weights: of the network and the head, by neutral name without a prefix.
        spec: of the model.
        predict: the engine's logits.
    """
    write_checked(
        path, graph_bytes(network, weights, spec, temperature), spec, temperature, predict
    )


def write_checked(
    path: Path, graph: bytes, spec: ModelSpec, temperature: float, predict: Predict
) -> None:
    """Write a serialized graph, once `check` has accepted ONNX Runtime's probabilities."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # more threads spin next to the framework's: slower
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    check(
        lambda images: session.run(["probabilities"], {"images": images})[0],
        predict,
        spec,
        temperature,
    )
    names = [made.name for made in session.get_outputs()]
    rows = session.run(names, {"images": random_images(spec)})
    check_outputs(onnx.load_from_string(graph).graph, dict(zip(names, rows, strict=True)))
    files.write_bytes(path, graph)


def check(answer: Predict, predict: Predict, spec: ModelSpec, temperature: float) -> None:
    """Compare an exported model's probabilities with the engine's in batches of several sizes.

    Args:
        answer: uint8 images to the exported model's probabilities.
        predict: the engine's logits.
        spec: of the model.
        temperature: by which the exported model divides the logits.

    Raises:
        AlgorithmError: they differ by more than TOLERANCE or are not finite.
    """
    images = random_images(spec)
    for size in _CHECKED_BATCHES:
        batch = images[:size]
        logits = predict(batch)
        if not np.isfinite(logits).all():
            raise AlgorithmError(
                "the model's predictions are not finite: its weights are damaged, or its training "
                "diverged; restore the weights, or train again with a lower learning_rate"
            )
        expected = probabilities_of(logits, spec, temperature)
        difference = float(np.abs(answer(batch) - expected).max())
        if not difference <= TOLERANCE:  # also for a NaN
            raise AlgorithmError(
                f"the exported model differs from the trained one by {difference:.2g} in a batch "
                f"of {size}; at most {TOLERANCE:g} is allowed"
            )


def random_images(spec: ModelSpec) -> UInt8Array:
    """Return the images of the checks, the same for all models of one size."""
    channels, height, width = spec.input_shape
    size = (max(_CHECKED_BATCHES), height, width, channels)
    return np.random.default_rng(0).integers(0, 256, size, np.uint8)


def serialized(model: onnx.ModelProto) -> bytes:
    """Add the other outputs, check the model and return deterministic bytes, without free text.

    Exporters write paths and source lines of this machine there.
    """
    add_outputs(model.graph)
    for described in (model, model.graph, *model.graph.node):
        described.ClearField("doc_string")
        if "metadata_props" in described.DESCRIPTOR.fields_by_name:  # of nodes since onnx 1.16
            described.ClearField("metadata_props")
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def probabilities_of(logits: FloatArray, spec: ModelSpec, temperature: float = 1.0) -> FloatArray:
    """Return float32 (N, classes): a sigmoid of each logit, or a softmax over them."""
    scaled = logits.astype(np.float64) / temperature
    if spec.multi_label:
        return np.asarray(0.5 + 0.5 * np.tanh(scaled / 2), np.float32)
    odds = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True), np.float32)


def readers(network: layers.Network) -> Counter[str]:
    """Count the layers that read each value of the network."""
    return Counter(name for layer in network.layers for name in layer.inputs)


def folded_norms(network: layers.Network) -> dict[str, layers.Norm]:
    """Return the BatchNorm of each convolution that nothing else reads."""
    counts = readers(network)
    convolutions = {layer.name for layer in network.layers if isinstance(layer, layers.Convolution)}
    return {
        layer.inputs[0]: layer
        for layer in network.layers
        if isinstance(layer, layers.Norm)
        and layer.inputs[0] in convolutions
        and counts[layer.inputs[0]] == 1
    }


def normalization(spec: ModelSpec) -> Affine:
    """Return what normalizes the pixels: (1 / std, −mean / std), one value per channel."""
    mean, std = np.array(spec.mean, np.float64), np.array(spec.std, np.float64)
    channels = spec.input_shape[0]
    scale, shift = np.broadcast_to(1 / std, channels), np.broadcast_to(-mean / std, channels)
    return scale, shift


def affine_of(norm: layers.Norm, weights: Weights) -> Affine:
    """Return float64 (scale, shift) of a BatchNorm in evaluation mode: x · scale + shift."""
    ones = np.ones(norm.width)
    weight, bias, mean, variance = (
        np.asarray(weights.get(f"{norm.name}.{tensor}", ones), np.float64)
        for tensor in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / np.sqrt(variance + norm.epsilon)
    return scale, bias - mean * scale


def graph_bytes(
    network: layers.Network, weights: Weights, spec: ModelSpec, temperature: float = 1.0
) -> bytes:
    """Return the serialized ONNX model; see `write` for the arguments."""
    writer = _Writer(weights)
    remaining = list(network.layers)
    affine = normalization(spec)
    first = layers.INPUT
    if isinstance(remaining[0], layers.Norm) and readers(network)[layers.INPUT] == 1:
        scale, shift = affine_of(remaining[0], weights)
        affine = affine[0] * scale, affine[1] * scale + shift
        first = remaining.pop(0).name
    writer.add_normalization(affine, spec.input_shape)
    writer.names[first] = _NORMALIZED
    folded = folded_norms(network)
    for layer in remaining:
        if isinstance(layer, layers.Convolution):
            writer.add_convolution(layer, folded.get(layer.name))
        elif layer not in folded.values():
            writer.add_layer(layer)
    writer.add_head(network.layers[-1].name, spec.multi_label, temperature)
    return writer.serialized(spec)


class _Writer:
    """The nodes and weights so far; `names` maps the network's values to the graph's."""

    def __init__(self, weights: Weights) -> None:
        self.names: dict[str, str] = {}
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._arrays: list[onnx.TensorProto] = []

    def add_normalization(self, affine: Affine, shape: tuple[int, int, int]) -> None:
        """Add uint8 (N, H, W, C) → float32 (N, C, H, W) · scale + shift; bytes are transposed."""
        self._node("Transpose", ["images"], "images.transposed", perm=[0, 3, 1, 2])
        self._node("Cast", ["images.transposed"], "images.float", to=TensorProto.FLOAT)
        scale, shift = (
            self._array(f"{_NORMALIZED}.{name}", values.reshape(shape[0], 1, 1))
            for name, values in zip(("scale", "shift"), affine, strict=True)
        )
        self._node("Mul", ["images.float", scale], "images.scaled")
        self._node("Add", ["images.scaled", shift], _NORMALIZED)

    def add_convolution(self, layer: layers.Convolution, norm: layers.Norm | None) -> None:
        """Add a convolution, with the BatchNorm that is folded into it."""
        kernel = self._weights[f"{layer.name}.weight"].astype(np.float64)
        inputs, output = [self.names[layer.inputs[0]]], layer.name
        bias = self._weights[f"{layer.name}.bias"] if layer.has_bias else None
        if norm is None:
            inputs.append(self._array(f"{layer.name}.weight", kernel))
            if bias is not None:
                inputs.append(self._array(f"{layer.name}.bias", bias))
        else:
            output = norm.name
            scale, shift = affine_of(norm, self._weights)
            inputs.append(self._array(f"{layer.name}.weight", kernel * scale.reshape(-1, 1, 1, 1)))
            shift = shift if bias is None else shift + bias * scale
            inputs.append(self._array(f"{layer.name}.bias", shift))
            self.names[norm.name] = output
        self.names[layer.name] = output
        self._node(
            "Conv",
            inputs,
            output,
            kernel_shape=list(layer.kernel),
            strides=[layer.stride] * 2,
            group=layer.groups,
            pads=_pads(layer.padding),
        )

    def add_layer(self, layer: layers.Layer) -> None:
        inputs = [self.names[name] for name in layer.inputs]
        self.names[layer.name] = layer.name
        if isinstance(layer, layers.Norm):
            self._add_norm(layer, inputs)
        elif isinstance(layer, layers.Activation) and layer.ceiling is None:
            self._node("Relu", inputs, layer.name)
        elif isinstance(layer, layers.Activation):
            bounds = {"floor": 0.0, "ceiling": layer.ceiling}
            named = [self._array(f"{layer.name}.{k}", np.array(v)) for k, v in bounds.items()]
            self._node("Clip", [*inputs, *named], layer.name)
        elif isinstance(layer, layers.MaxPool):
            size = {"kernel_shape": [layer.kernel] * 2, "strides": [layer.stride] * 2}
            self._node("MaxPool", inputs, layer.name, pads=_pads(layer.padding), **size)
        elif isinstance(layer, layers.Add):
            self._node("Add", inputs, layer.name)
        elif isinstance(layer, layers.Scale):
            self._node("Mul", inputs, layer.name)
        elif isinstance(layer, layers.Sigmoid):
            self._node("Sigmoid", inputs, layer.name)
        elif isinstance(layer, layers.Swish):
            self._node("Sigmoid", inputs, f"{layer.name}.sigmoid")
            self._node("Mul", [*inputs, f"{layer.name}.sigmoid"], layer.name)
        elif isinstance(layer, layers.Mean) and layer.keeps_sides:
            self._node("GlobalAveragePool", inputs, layer.name)
        else:
            self._node("GlobalAveragePool", inputs, f"{layer.name}.map")
            self._node("Flatten", [f"{layer.name}.map"], layer.name)

    def add_head(self, features: str, is_multi_label: bool, temperature: float) -> None:
        """Add the dense layer, the temperature and the activation."""
        inputs = [self.names[features]]
        inputs += [self._array(name, self._weights[name]) for name in ("head.weight", "head.bias")]
        self._node("Gemm", inputs, "logits", transB=1)
        logits = "logits"
        if temperature != 1:
            divisor = self._array("temperature", np.array(temperature))
            self._node("Div", [logits, divisor], "logits.calibrated")
            logits = "logits.calibrated"
        if is_multi_label:
            self._node("Sigmoid", [logits], "probabilities")
        else:
            self._node("Softmax", [logits], "probabilities", axis=1)

    def serialized(self, spec: ModelSpec) -> bytes:
        channels, height, width = spec.input_shape
        images = helper.make_tensor_value_info(
            "images", TensorProto.UINT8, ["batch", height, width, channels]
        )
        probabilities = helper.make_tensor_value_info(
            "probabilities", TensorProto.FLOAT, ["batch", spec.classes]
        )
        ends = [images], [probabilities]
        graph = helper.make_graph(self._nodes, spec.backbone, *ends, self._arrays)
        opsets = [helper.make_opsetid("", OPSET)]
        return serialized(helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION))

    def _add_norm(self, norm: layers.Norm, inputs: list[str]) -> None:
        ones = np.ones(norm.width, np.float32)
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            name = f"{norm.name}.{tensor}"
            inputs.append(self._array(name, self._weights.get(name, ones)))
        self._node("BatchNormalization", inputs, norm.name, epsilon=norm.epsilon)

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))

    def _array(self, name: str, values: Array) -> str:
        plain = np.array(values, np.float32, order="C")
        self._arrays.append(numpy_helper.from_array(plain, name))
        return name


def _pads(padding: layers.Padding) -> list[int]:
    (top, bottom), (left, right) = padding
    return [top, left, bottom, right]
