"""Rewrites a graph so that a GPU computes most of it in float16, without the onnx package.

Convolutions and products of matrices are in float16, except for the last one, the head, and so are
the simple operators between them. Everything else stays in float32: the normalization of the
images, the head and the probabilities. Values are cast in between.

The statistics of a BatchNorm can be beyond the range of float16, so it gets the scale and shift
that follow from them, a mean of 0 and a variance of 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from image_classification.errors import ArtifactError
from image_classification.records.tfrecord import encode_field, encode_varint
from image_classification.samples import Array
from image_classification.serving.graph_file import fields

_PRODUCTS = {"Conv", "Gemm", "MatMul"}
# Operators that keep the precision of their first input → how many inputs are numbers like it.
_FOLLOWING = {
    **dict.fromkeys(["Add", "Sub", "Mul", "Concat", "Clip", "PRelu", "Min", "Max"], 1000),
    **dict.fromkeys(["Relu", "LeakyRelu", "Elu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh"], 1),
    **dict.fromkeys(["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"], 1),
    **dict.fromkeys(["Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity"], 1),
}
_FLOAT, _HALF = 1, 10  # TensorProto.DataType
_MOST = float(np.finfo(np.float16).max)

# Numbers of fields in onnx.proto.
_GRAPH = 7  # of a model
_NODE, _INITIALIZER, _OUTPUT, _VALUE = 1, 5, 12, 13  # of a graph
_INPUT_NAME, _OUTPUT_NAME, _OP_TYPE, _ATTRIBUTE = 1, 2, 4, 5  # of a node
_ATTRIBUTE_FLOAT, _SUBGRAPHS = 2, (6, 11)  # of an attribute
_DIMS, _DATA_TYPE, _FLOAT_DATA, _NAME, _RAW_DATA = 1, 2, 4, 8, 9  # of a tensor


def to_half(model: bytes) -> bytes:
    """Return an ONNX model that computes in float16 where it can, with the same ends.

    Args:
        model: accepted by `graph_file.check_graph`, with float32 numbers.

    Raises:
        ArtifactError: it branches, or a weight is too large for float16.
    """
    parts = []
    for number, value, whole in fields(memoryview(model)):
        if number == _GRAPH and isinstance(value, memoryview):
            parts.append(encode_field(_GRAPH, _Graph(value).rewritten()))
        else:
            parts.append(bytes(whole))
    return b"".join(parts)


@dataclass
class _Node:
    """A node: its operator, the names of its inputs and outputs, and its other fields."""

    operator: str
    inputs: list[str]
    outputs: list[str]
    rest: bytes
    epsilon: float = 1e-5

    @classmethod
    def read(cls, data: memoryview) -> _Node:
        node, rest = cls("", [], [], b""), []
        for number, value, whole in fields(data):
            if number == _INPUT_NAME:
                node.inputs.append(_text(value))
                continue
            rest.append(bytes(whole))
            if number == _OUTPUT_NAME:
                node.outputs.append(_text(value))
            elif number == _OP_TYPE:
                node.operator = _text(value)
            elif number == _ATTRIBUTE and isinstance(value, memoryview):
                if any(number in _SUBGRAPHS for number, _, _ in fields(value)):
                    raise ArtifactError(
                        f"it has the operator {node.operator or 'If'}, which contains a graph: it "
                        "cannot be served in float16"
                    )
                numbers = [
                    whole for number, _, whole in fields(value) if number == _ATTRIBUTE_FLOAT
                ]
                if numbers and b"epsilon" in bytes(value):
                    (node.epsilon,) = np.frombuffer(numbers[-1][-4:], "<f4").tolist()
        node.rest = b"".join(rest)
        return node

    def written(self) -> bytes:
        names = b"".join(encode_field(_INPUT_NAME, name.encode()) for name in self.inputs)
        return encode_field(_NODE, names + self.rest)


class _Graph:
    """A graph on its way to float16."""

    def __init__(self, data: memoryview) -> None:
        self._nodes: list[_Node] = []
        self._tensors: dict[str, memoryview] = {}
        self._others: list[bytes] = []
        self._ends: set[str] = set()
        for number, value, whole in fields(data):
            if number == _NODE and isinstance(value, memoryview):
                self._nodes.append(_Node.read(value))
            elif number == _INITIALIZER and isinstance(value, memoryview):
                self._tensors[_name(value)] = value
            elif number != _VALUE:  # the types between nodes, which change
                self._others.append(bytes(whole))
            if number == _OUTPUT and isinstance(value, memoryview):
                self._ends.update(_text(name) for field, name, _ in fields(value) if field == 1)
        self._names = {*self._tensors, *(name for node in self._nodes for name in node.outputs)}
        self._half: set[str] = set()  # values that are in float16
        self._cast: dict[tuple[str, int], str] = {}
        self._written: list[bytes] = []
        self._kept: set[str] = set()  # tensors that something still reads as they are

    def rewritten(self) -> bytes:
        products = [node for node in self._nodes if node.operator in _PRODUCTS]
        head = products[-1] if products else None
        for node in self._nodes:
            numbers = self._numbers_in_half(node, head)
            norm = self._norm_in_half(node)
            node.inputs = norm or [
                self._in_half(name) if index < numbers else self._as_it_was(name)
                for index, name in enumerate(node.inputs)
            ]
            if numbers or norm:
                self._half.update(node.outputs)
            self._written.append(node.written())
        kept = [
            encode_field(_INITIALIZER, bytes(self._tensors[name])) for name in sorted(self._kept)
        ]
        return b"".join([*self._written, *kept, *self._others])

    def _numbers_in_half(self, node: _Node, head: _Node | None) -> int:
        """Return how many inputs of a node are to be in float16; 0: it stays in float32."""
        if node is head or self._ends & set(node.outputs):
            return 0
        if node.operator in _PRODUCTS:
            return len(node.inputs)
        numbers = _FOLLOWING.get(node.operator, 0)
        return numbers if self._half & set(node.inputs[:numbers]) else 0

    def _norm_in_half(self, node: _Node) -> list[str]:
        """Return the inputs of a BatchNorm in float16; none if it is another node or stays."""
        statistics = [self._tensors[name] for name in node.inputs[1:] if name in self._tensors]
        if node.operator != "BatchNormalization" or len(statistics) != 4 or len(node.outputs) > 1:
            return []
        if node.inputs[0] not in self._half or self._ends & set(node.outputs):
            return []
        weight, bias, mean, variance = (_values(tensor).astype(np.float64) for tensor in statistics)
        scale = weight / np.sqrt(variance + node.epsilon)
        new = {
            "scale": scale * np.sqrt(1 + node.epsilon),
            "shift": bias - mean * scale,
            "mean": np.zeros_like(scale),
            "variance": np.ones_like(scale),
        }
        if not all(np.abs(values).max(initial=0) <= _MOST for values in new.values()):
            return []
        names = []
        for role, values in new.items():
            names.append(self._new_name(f"{node.outputs[0]}.{role}", _HALF))
            dims = _number(_DIMS, len(values))
            self._written.append(encode_field(_INITIALIZER, _half_tensor(names[-1], dims, values)))
        return [node.inputs[0], *names]

    def _in_half(self, name: str) -> str:
        if not name or name in self._half:
            return name
        if name not in self._tensors:
            return self._cast_to(name, _HALF)
        if (name, _HALF) not in self._cast:
            new = self._cast[name, _HALF] = self._new_name(name, _HALF)
            self._written.append(encode_field(_INITIALIZER, _in_half(self._tensors[name], new)))
        return self._cast[name, _HALF]

    def _as_it_was(self, name: str) -> str:
        if name in self._tensors:
            self._kept.add(name)
        return self._cast_to(name, _FLOAT) if name in self._half else name

    def _cast_to(self, name: str, kind: int) -> str:
        if (name, kind) not in self._cast:
            new = self._cast[name, kind] = self._new_name(name, kind)
            to = (
                encode_field(1, b"to") + _number(3, kind) + _number(20, 2)
            )  # an attribute, an integer
            rest = encode_field(_OUTPUT_NAME, new.encode()) + encode_field(_OP_TYPE, b"Cast")
            node = _Node("Cast", [name], [new], rest + encode_field(_ATTRIBUTE, to))
            self._written.append(node.written())
        return self._cast[name, kind]

    def _new_name(self, name: str, kind: int) -> str:
        new = f"{name}.{'float16' if kind == _HALF else 'float32'}"
        while new in self._names:
            new += "_"
        self._names.add(new)
        return new


def _in_half(tensor: memoryview, new_name: str) -> bytes:
    """Return a float32 tensor in float16."""
    values = _values(tensor)
    if not np.abs(values).max(initial=0) <= _MOST:  # also for a NaN
        raise ArtifactError(
            f"the weight {_name(tensor)!r} has a value beyond ±{_MOST:.0f}: it cannot be served in "
            "float16"
        )
    dims = b"".join(bytes(whole) for number, _, whole in fields(tensor) if number == _DIMS)
    return _half_tensor(new_name, dims, values)


def _half_tensor(name: str, dims: bytes, values: Array) -> bytes:
    data = encode_field(_RAW_DATA, values.astype("<f2").tobytes())
    return dims + _number(_DATA_TYPE, _HALF) + encode_field(_NAME, name.encode()) + data


def _values(tensor: memoryview) -> Array:
    """Return the numbers of a float32 tensor, in one dimension."""
    parts: list[Array] = [np.empty(0, np.float32)]
    for number, value, whole in fields(tensor):
        if number == _DATA_TYPE and value != _FLOAT:
            raise ArtifactError(
                f"the tensor {_name(tensor)!r} is not of float32: it cannot be served in float16"
            )
        if number in (_FLOAT_DATA, _RAW_DATA):
            content = value if isinstance(value, memoryview) else whole[-4:]
            parts.append(np.frombuffer(content, "<f4"))
    return np.concatenate(parts)


def _name(tensor: memoryview) -> str:
    names = [_text(value) for number, value, _ in fields(tensor) if number == _NAME]
    return names[-1] if names else ""


def _text(value: int | memoryview) -> str:
    return bytes(value).decode("utf-8", "replace") if isinstance(value, memoryview) else ""


def _number(number: int, value: int) -> bytes:
    return encode_varint(number << 3) + encode_varint(value)
