"""The artifact's ONNX graph of a shared backbone: one writer for every backend.

In: a `Network`, its weights by neutral name, and what is around it. Out: a file with input
`images` (uint8 N·H·W·C, N free) and output `probabilities` (float32 N, classes). The same weights
give the same bytes, whatever the backend and the version of the onnx package (1.14 and later):
opset 17, which ONNX Runtime reads since 1.12.

A BatchNorm that follows a convolution is folded into it, one that reads the images into their
normalization; padding belongs to its convolution. On one core EfficientNet-Lite0 takes 10.2 ms an
image; 11.9 from PyTorch's exporter, where each uneven padding is a copy of the image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from image_classification import files
from image_classification.backends.base import ModelSpec
from image_classification.backends.networks import (
    INPUT,
    Activation,
    Add,
    Convolution,
    Layer,
    MaxPool,
    Network,
    Norm,
)
from image_classification.backends.networks.layers import Padding
from image_classification.backends.onnx_check import Predict, check

Weights = Mapping[str, npt.NDArray[Any]]
Affine = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""(scale, shift), each (channels,)."""


def readers(network: Network) -> Counter[str]:
    """How many layers read each value of the network."""
    return Counter(name for layer in network.layers for name in layer.inputs)


def folded_norms(network: Network) -> dict[str, Norm]:
    """The BatchNorm of each convolution that nothing else reads."""
    counts = readers(network)
    convolutions = {layer.name for layer in network.layers if isinstance(layer, Convolution)}
    return {
        layer.inputs[0]: layer
        for layer in network.layers
        if isinstance(layer, Norm)
        and layer.inputs[0] in convolutions
        and counts[layer.inputs[0]] == 1
    }


def normalization(spec: ModelSpec) -> Affine:
    """What a specification does to the pixels: (1 / std, −mean / std), one value per channel."""
    mean, std = np.array(spec.mean, np.float64), np.array(spec.std, np.float64)
    channels = spec.input_shape[0]
    scale, shift = np.broadcast_to(1 / std, channels), np.broadcast_to(-mean / std, channels)
    return scale, shift


def affine_of(norm: Norm, weights: Weights) -> Affine:
    """What an evaluated BatchNorm computes, in float64: times scale, plus shift."""
    ones = np.ones(norm.width)
    weight, bias, mean, variance = (
        np.asarray(weights.get(f"{norm.name}.{tensor}", ones), np.float64)
        for tensor in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / np.sqrt(variance + norm.epsilon)
    return scale, bias - mean * scale


_OPSET = 17
_IR_VERSION = 8  # of onnx 1.12: the oldest that may hold opset 17
_NORMALIZED = "normalized"


def write(
    path: Path,
    network: Network,
    weights: Weights,
    spec: ModelSpec,
    temperature: float,
    predict: Predict,
) -> None:
    """Write the graph of a model, once ONNX Runtime has given the model's own probabilities.

    Args:
        path: of the file; it appears whole or not at all.
        network: of the shared backbone.
        weights: of the network and the head, by neutral name without a prefix.
        spec: of the model.
        temperature: > 0; what the logits are divided by first.
        predict: the backend's own logits of images.

    Raises:
        AlgorithmError: they differ by more than `onnx_check.TOLERANCE`; nothing is written.
    """
    graph = graph_bytes(network, weights, spec, temperature)
    check(graph, predict, spec, temperature)
    files.write_bytes(path, graph)


def graph_bytes(
    network: Network, weights: Weights, spec: ModelSpec, temperature: float = 1.0
) -> bytes:
    """The serialized ONNX model; see `write` for the arguments."""
    writer = _Writer(weights)
    layers = list(network.layers)
    affine = normalization(spec)
    first = INPUT
    if isinstance(layers[0], Norm) and readers(network)[INPUT] == 1:
        scale, shift = affine_of(layers[0], weights)
        affine = affine[0] * scale, affine[1] * scale + shift
        first = layers.pop(0).name
    writer.add_normalization(affine, spec.input_shape)
    writer.names[first] = _NORMALIZED
    folded = folded_norms(network)
    for layer in layers:
        if isinstance(layer, Convolution):
            writer.add_convolution(layer, folded.get(layer.name))
        elif layer not in folded.values():
            writer.add_layer(layer)
    writer.add_head(network.layers[-1].name, spec.multi_label, temperature)
    return writer.serialized(spec)


class _Writer:
    """The nodes and weights written so far.

    Attributes:
        names: the value in the graph of each of the network's values.
    """

    def __init__(self, weights: Weights) -> None:
        self.names: dict[str, str] = {}
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._arrays: list[onnx.TensorProto] = []

    def add_normalization(self, affine: Affine, shape: tuple[int, int, int]) -> None:
        """Uint8 N·H·W·C to float32 N·C·H·W, times scale plus shift; small when transposed."""
        self._node("Transpose", ["images"], "images.transposed", perm=[0, 3, 1, 2])
        self._node("Cast", ["images.transposed"], "images.float", to=TensorProto.FLOAT)
        scale, shift = (
            self._array(f"{_NORMALIZED}.{name}", values.reshape(shape[0], 1, 1))
            for name, values in zip(("scale", "shift"), affine, strict=True)
        )
        self._node("Mul", ["images.float", scale], "images.scaled")
        self._node("Add", ["images.scaled", shift], _NORMALIZED)

    def add_convolution(self, layer: Convolution, norm: Norm | None) -> None:
        """A convolution; with the BatchNorm after it, if that is its only reader."""
        kernel = self._weights[f"{layer.name}.weight"].astype(np.float64)
        inputs, output = [self.names[layer.inputs[0]]], layer.name
        if norm is None:
            inputs.append(self._array(f"{layer.name}.weight", kernel))
        else:
            output = norm.name
            scale, shift = affine_of(norm, self._weights)
            inputs.append(self._array(f"{layer.name}.weight", kernel * scale.reshape(-1, 1, 1, 1)))
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

    def add_layer(self, layer: Layer) -> None:
        """Any other layer."""
        inputs = [self.names[name] for name in layer.inputs]
        self.names[layer.name] = layer.name
        if isinstance(layer, Norm):
            self._add_norm(layer, inputs)
        elif isinstance(layer, Activation) and layer.ceiling is None:
            self._node("Relu", inputs, layer.name)
        elif isinstance(layer, Activation):
            bounds = {"floor": 0.0, "ceiling": layer.ceiling}
            named = [self._array(f"{layer.name}.{k}", np.array(v)) for k, v in bounds.items()]
            self._node("Clip", [*inputs, *named], layer.name)
        elif isinstance(layer, MaxPool):
            size = {"kernel_shape": [layer.kernel] * 2, "strides": [layer.stride] * 2}
            self._node("MaxPool", inputs, layer.name, pads=_pads(layer.padding), **size)
        elif isinstance(layer, Add):
            self._node("Add", inputs, layer.name)
        else:
            self._node("GlobalAveragePool", inputs, f"{layer.name}.map")
            self._node("Flatten", [f"{layer.name}.map"], layer.name)

    def add_head(self, features: str, is_multi_label: bool, temperature: float) -> None:
        """The dense layer, the temperature and the activation: the graph's output."""
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
        """The checked model, as deterministic bytes."""
        channels, height, width = spec.input_shape
        images = helper.make_tensor_value_info(
            "images", TensorProto.UINT8, ["batch", height, width, channels]
        )
        probabilities = helper.make_tensor_value_info(
            "probabilities", TensorProto.FLOAT, ["batch", spec.classes]
        )
        ends = [images], [probabilities]
        graph = helper.make_graph(self._nodes, spec.backbone, *ends, self._arrays)
        opsets = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString(deterministic=True))

    def _add_norm(self, norm: Norm, inputs: list[str]) -> None:
        ones = np.ones(norm.width, np.float32)
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            name = f"{norm.name}.{tensor}"
            inputs.append(self._array(name, self._weights.get(name, ones)))
        self._node("BatchNormalization", inputs, norm.name, epsilon=norm.epsilon)

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))

    def _array(self, name: str, values: npt.NDArray[Any]) -> str:
        plain = np.array(values, np.float32, order="C")
        self._arrays.append(numpy_helper.from_array(plain, name))
        return name


def _pads(padding: Padding) -> list[int]:
    (top, bottom), (left, right) = padding
    return [top, left, bottom, right]
