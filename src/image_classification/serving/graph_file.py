"""Reads an ONNX file before ONNX Runtime does, and refuses what our exporters never write.

A graph computes with what is in its own file. So these are refused by name: tensors in other files,
operators of other domains than ONNX's own, operators that repeat a graph as often as data requires,
functions (a few kilobytes can unfold into any number of nodes), sparse tensors and tensors that
claim more elements than the file holds.

The format is that of Protocol Buffers (https://protobuf.dev/programming-guides/encoding/) with the
fields of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). A field that occurs
several times is read each time, so that what is found here includes whatever another reader finds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from image_classification.errors import ArtifactError

_MOST_FIELDS = 500_000  # about two seconds; EfficientNet-Lite0 has 2,000
_MOST_DEPTH = 32  # messages in messages; an If in an If adds three
_ELEMENTS_PER_BYTE = 2  # of the smallest type, of 4 bits

_ONNX_DOMAINS = ("", "ai.onnx")
_REPEATING = ("Loop", "Scan", "SequenceMap")


@dataclass(frozen=True)
class _Message:
    """A kind of message: by field number, the messages in it and the fields that are refused."""

    name: str
    parts: dict[int, _Message] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)


_SPARSE = "a sparse tensor"
_EXTERNAL = "a tensor with its data in another file (external data)"
_TENSOR = _Message("tensor", refused={13: _EXTERNAL})
_ATTRIBUTE = _Message("attribute", {5: _TENSOR, 10: _TENSOR}, {22: _SPARSE, 23: _SPARSE})
_NODE = _Message("node", {5: _ATTRIBUTE})
_GRAPH = _Message("graph", {1: _NODE, 5: _TENSOR}, {15: _SPARSE})
_ATTRIBUTE.parts.update({6: _GRAPH, 11: _GRAPH})
_MODEL = _Message("model", {7: _GRAPH}, {20: "training information", 25: "a function"})

_OP_TYPE, _DOMAIN = 4, 7  # of a node
_DIMS, _DATA_LOCATION = 1, 14  # of a tensor
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5  # wire types


def check_graph(graph: bytes) -> None:
    """Refuse an ONNX model that needs more than its own bytes.

    Args:
        graph: the whole file.

    Raises:
        ArtifactError: what was found, by name; the message does not name the file.
    """
    if graph[4:8] == b"ORTM":
        raise ArtifactError("it is in ONNX Runtime's own format: expected an ONNX model")
    remaining = _MOST_FIELDS
    waiting = [(_MODEL, memoryview(graph), 0)]
    has_graph = False
    while waiting:
        kind, data, depth = waiting.pop()
        if depth > _MOST_DEPTH:
            raise ArtifactError(f"its graphs are nested more than {_MOST_DEPTH} messages deep")
        has_graph |= kind is _GRAPH
        found: dict[int, list[int | memoryview]] = {}
        for number, value, _ in fields(data):
            remaining -= 1
            if not remaining:
                raise ArtifactError(f"it has more than {_MOST_FIELDS} fields, the limit")
            if number in kind.refused:
                raise ArtifactError(f"it has {kind.refused[number]}, which no artifact has")
            if number in kind.parts and isinstance(value, memoryview):
                waiting.append((kind.parts[number], value, depth + 1))
            elif kind is _NODE or (kind is _TENSOR and number in (_DIMS, _DATA_LOCATION)):
                found.setdefault(number, []).append(value)
        if kind is _NODE:
            _check_node(_texts(found, _OP_TYPE), _texts(found, _DOMAIN))
        elif kind is _TENSOR:
            _check_tensor(found, len(data))
    if not has_graph:
        raise ArtifactError("it is not an ONNX model: it has no graph")


def _check_node(operators: list[str], domains: list[str]) -> None:
    operator = operators[-1] if operators else ""
    for domain in domains:
        if domain not in _ONNX_DOMAINS:
            raise ArtifactError(
                f"it has the operator {operator!r} of the domain {domain!r}: expected operators of "
                "ONNX alone, no custom ones"
            )
    for name in operators:
        if name in _REPEATING:
            raise ArtifactError(
                f"it has the operator {name}, which can run forever: no artifact has it"
            )


def _check_tensor(found: dict[int, list[int | memoryview]], size: int) -> None:
    if any(found.get(_DATA_LOCATION, [])):
        raise ArtifactError(f"it has {_EXTERNAL}, which no artifact has")
    dims: list[int] = []
    for value in found.get(_DIMS, []):
        dims += [value] if isinstance(value, int) else _varints(value)
    elements = math.prod(dims[:100])  # the more factors, the longer the product
    if len(dims) > 100 or elements > size * _ELEMENTS_PER_BYTE:
        shape = " × ".join(map(str, dims[:8])) or "1"
        raise ArtifactError(f"it has a tensor of {shape} elements, but only {size} bytes for it")


def _texts(found: dict[int, list[int | memoryview]], number: int) -> list[str]:
    """Return the values of a text field; an invalid byte becomes a visible one."""
    return [
        bytes(value[:200]).decode("utf-8", "backslashreplace")
        for value in found.get(number, [])
        if isinstance(value, memoryview)
    ]


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview, memoryview]]:
    """Yield each field of a message: its number, its value, and all its bytes.

    Values of a fixed size are given as 0.
    """
    position = 0
    while position < len(data):
        begin = position
        tag, position = _varint(data, position)
        number, kind = tag >> 3, tag & 7
        value: int | memoryview = 0
        if kind == _VARINT:
            value, position = _varint(data, position)
        elif kind == _BYTES:
            length, position = _varint(data, position)
            value = data[position : position + length]
            position += length
        elif kind in (_FIXED_32, _FIXED_64):
            position += 4 if kind == _FIXED_32 else 8
        else:
            raise _not_onnx(f"wire type {kind}")
        if position > len(data) or not 0 < number < 2**29:
            raise _not_onnx(f"field {number} ends after its message")
        yield number, value, data[begin:position]


def _varints(data: memoryview) -> list[int]:
    values, position = [], 0
    while position < len(data):
        value, position = _varint(data, position)
        values.append(value)
    return values


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Return (an unsigned integer of at most 64 bits, the position after it)."""
    value = shift = 0
    for byte in data[position : position + 10]:
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
        shift += 7
    raise _not_onnx("an integer without an end")


def _not_onnx(reason: str) -> ArtifactError:
    return ArtifactError(f"it is not an ONNX model: {reason}")
