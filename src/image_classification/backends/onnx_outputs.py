"""Add two outputs to a graph: its features, and a class activation map.

`features`, float32 (N, width), is what the head reads. `class_activation_map`, float32 (N, height,
width), is that of the most probable class c (Zhou et al., 2016, https://arxiv.org/abs/1512.04150):

    map[y, x] = Σ_k weight[c, k] · activation[k, y, x]

with the weights of the head, and the activation whose mean over all positions is the features. So
the mean of a map, plus the bias of its class, is the logit of the class. A network that does more
between that activation and the head has no such map.

Their time is too short to measure (EfficientNet-Lite0 takes 5.1 ms with and without them). The
probabilities stay the same, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from image_classification.errors import AlgorithmError
from image_classification.samples import FloatArray

FEATURES, MAP = "features", "class_activation_map"

_TOLERANCE = 1e-3  # of the largest product, for the sums of a wide network in float32
_HEADS = {"Gemm", "MatMul"}
# Between the head and the probabilities: bias, temperature, activation, and changes of the form.
_AFTER_HEAD = {"Add", "Mul", "Div", "Softmax", "Sigmoid", "Identity", "Reshape", "Flatten"}
_AFTER_MEAN = {"Flatten", "Reshape", "Squeeze", "Identity"}  # changes of the form alone
_POSITIONS: dict[tuple[int, ...], int] = {(2, 3): 1, (1, 2): 3}
"""Axes of the positions in an activation → that of its channels."""


def add_outputs(graph: onnx.GraphProto) -> None:
    """Add the outputs to a classifier, if it has such parts.

    Args:
        graph: with the only output `probabilities`, float32 (N, classes).
    """
    producers = {name: node for node in graph.node for name in node.output}
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    head = _find(graph.output[0].name, _HEADS, _AFTER_HEAD, producers)
    if head is None or not _is_plain(head) or len(weights.get(head.input[1], ())) != 2:
        return
    for name in (FEATURES, MAP):
        _rename(graph, name, f"{name}.inner")
    features, weight = head.input[:2]
    is_by_class = bool(_attribute(head, "transB", 0))
    width = weights[weight][1 if is_by_class else 0]
    graph.node.append(helper.make_node("Identity", [features], [FEATURES], FEATURES))
    _add_output(graph, FEATURES, [width])
    mean = _find(features, {"GlobalAveragePool", "ReduceMean"}, _AFTER_MEAN, producers)
    positions = () if mean is None else _positions_of(mean)
    if mean is None or positions not in _POSITIONS:
        return
    _add_map(graph, head, mean.input[0], positions)
    _add_output(graph, MAP, ["map.height", "map.width"])


def check_outputs(graph: onnx.GraphProto, found: Mapping[str, FloatArray]) -> None:
    """Compare a map with the features and weights of its class, as its definition says.

    Args:
        graph: with the outputs.
        found: name of an output → its values for some images.

    Raises:
        AlgorithmError: the mean of a map is not its class's product of features and weights.
    """
    if MAP not in found:
        return
    producers = {name: node for node in graph.node for name in node.output}
    head = _find(graph.output[0].name, _HEADS, _AFTER_HEAD, producers)
    assert head is not None, "there is no map without a head"
    stored = next(tensor for tensor in graph.initializer if tensor.name == head.input[1])
    weights = numpy_helper.to_array(stored)
    if not _attribute(head, "transB", 0):
        weights = weights.T
    products = found[FEATURES] @ weights.T
    rows = found[graph.output[0].name]
    is_best = rows >= rows.max(axis=1, keepdims=True) - 1e-6  # equal ones have several maps
    differences = np.abs(found[MAP].mean(axis=(1, 2))[:, None] - products)
    worst = float(np.where(is_best, differences, np.inf).min(axis=1).max())
    if not worst <= _TOLERANCE * max(1.0, float(np.abs(products).max())):
        raise AlgorithmError(
            "the class activation map of the exported model differs from its features by "
            f"{worst:.2g}; at most {_TOLERANCE:g} of the largest product is allowed"
        )


def _add_map(
    graph: onnx.GraphProto, head: onnx.NodeProto, activation: str, positions: tuple[int, ...]
) -> None:
    """Add the nodes of the map of `activation`, without a product of matrices.

    The last product of a graph is its head, which stays in float32 where others do not.
    """
    is_by_class = bool(_attribute(head, "transB", 0))

    def node(kind: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        graph.node.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def axes(name: str, values: Sequence[int]) -> str:
        array = np.array(values, np.int64)
        graph.initializer.append(numpy_helper.from_array(array, f"{MAP}.{name}"))
        return f"{MAP}.{name}"

    chosen = node("ArgMax", [graph.output[0].name], f"{MAP}.class", axis=1, keepdims=0)
    rows = node("Gather", [head.input[1], chosen], f"{MAP}.weight", axis=0 if is_by_class else 1)
    if not is_by_class:
        rows = node("Transpose", [rows], f"{MAP}.rows", perm=[1, 0])
    spread = node("Unsqueeze", [rows, axes("positions", positions)], f"{MAP}.spread")
    product = node("Mul", [activation, spread], f"{MAP}.product")
    channels = axes("channels", [_POSITIONS[positions]])
    node("ReduceSum", [product, channels], MAP, keepdims=0)


def _find(
    name: str, wanted: set[str], passed: set[str], producers: dict[str, onnx.NodeProto]
) -> onnx.NodeProto | None:
    """Return the node of a `wanted` kind that computes `name`, with only `passed` kinds between."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        node = producers.get(waiting.pop())
        if node is None or node.output[0] in seen:
            continue
        seen.add(node.output[0])
        if node.op_type in wanted:
            return node
        if node.op_type in passed:
            waiting += node.input
    return None


def _is_plain(head: onnx.NodeProto) -> bool:
    """True for features · weights + bias, nothing transposed or scaled but the weights."""
    factors = [_attribute(head, name, 1.0) for name in ("alpha", "beta")]
    return factors == [1.0, 1.0] and not _attribute(head, "transA", 0)


def _positions_of(mean: onnx.NodeProto) -> tuple[int, ...]:
    """Return the axes over which a node averages, of the four of an activation."""
    if mean.op_type == "GlobalAveragePool":
        return (2, 3)
    axes = _attribute(mean, "axes", [])
    return tuple(sorted(axis % 4 for axis in axes))


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    found = [helper.get_attribute_value(own) for own in node.attribute if own.name == name]
    return found[0] if found else default


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename a value of the graph, if it has one of this name."""
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
    for value in (*graph.initializer, *graph.value_info):
        if value.name == old:
            value.name = new


def _add_output(graph: onnx.GraphProto, name: str, sides: Sequence[int | str]) -> None:
    shape = ["batch", *sides]
    graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
