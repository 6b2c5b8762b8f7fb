"""What a graph returns in addition to its probabilities: features and a class activation map.

Graphs of format version 2 have both as outputs where the network has them (`backends.onnx_outputs`
says what they are). `with_features` makes features an output of a graph of version 1, without the
onnx package: the first input of the last dense layer (Gemm or MatMul) before the probabilities. The
fields are those of onnx.proto; see `graph_file`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from image_classification.errors import ArtifactError
from image_classification.records.tfrecord import encode_field
from image_classification.samples import Array, FloatArray
from image_classification.serving.graph_file import fields

FEATURES, MAP = "features", "class_activation_map"
RANKS = {FEATURES: 2, MAP: 3}
"""Name of an output → its number of dimensions."""


@dataclass(frozen=True)
class Outputs:
    """What a graph computes of N images.

    Attributes:
        probabilities: float32 (N, classes).
        features: float32 (N, width), what its head reads; None if not asked for.
        maps: float32 (N, height, width), of the most probable class; None if not asked for.
    """

    probabilities: FloatArray
    features: FloatArray | None = None
    maps: FloatArray | None = None

    @staticmethod
    def of(count: int, probabilities: Array, others: Mapping[str, Array]) -> Outputs:
        """Check the outputs of `count` images by name; an ArtifactError if they have other shapes.

        A graph can promise a shape and compute another one.
        """
        for name, values in others.items():
            if values.ndim != RANKS[name] or len(values) != count or values.size > count * _MOST:
                raise ArtifactError(
                    f"the graph's output {name}: expected {RANKS[name]} dimensions, the first of "
                    f"{count}, and at most {_MOST} values of an image, got shape {values.shape}"
                )
        found = {name: np.asarray(values, np.float32) for name, values in others.items()}
        rows = np.asarray(probabilities, np.float32)
        return Outputs(rows, found.get(FEATURES), found.get(MAP))

    def part(self, which: slice, wanted: Collection[str]) -> Outputs:
        """Return the probabilities and the wanted outputs of some of the images."""
        features = self.features if FEATURES in wanted else None
        maps = self.maps if MAP in wanted else None
        columns = (self.probabilities, features, maps)
        return Outputs(*(None if a is None else a[which] for a in columns))  # type: ignore[arg-type]

    @staticmethod
    def joined(parts: Sequence[Outputs]) -> Outputs:
        """Return the outputs of several runs, which all have the same ones, in order."""
        columns = zip(*(part._arrays() for part in parts), strict=True)
        return Outputs(*(None if c[0] is None else np.concatenate(c) for c in columns))  # type: ignore[arg-type]

    def _arrays(self) -> tuple[FloatArray | None, ...]:
        return self.probabilities, self.features, self.maps

    def to_bytes(self) -> bytes:
        """Return all values, for `from_bytes` in another process."""
        arrays = [array for array in self._arrays() if array is not None]
        sides = np.array([side for array in arrays for side in array.shape[1:]], "<u4")
        return b"".join(array.tobytes() for array in (sides, *arrays))

    @staticmethod
    def from_bytes(
        content: bytearray, count: int, classes: int, wanted: Collection[str]
    ) -> Outputs:
        """Read the values of `count` images; an ArtifactError if there are more or fewer."""
        names = [name for name in RANKS if name in wanted]
        ranks = [1, *(RANKS[name] - 1 for name in names)]
        head = bytes(content[: 4 * sum(ranks)]).ljust(4 * sum(ranks), b"\0")
        sides = np.frombuffer(head, "<u4").tolist()
        shapes = []
        for rank in ranks:
            shapes.append((count, *sides[:rank]))
            sides = sides[rank:]
        sizes = [math.prod(shape) for shape in shapes]
        if shapes[0] != (count, classes) or len(content) != 4 * (sum(ranks) + sum(sizes)):
            raise ArtifactError(f"the graph gave {len(content)} bytes, expected those of {shapes}")
        values = np.frombuffer(content, np.float32)[sum(ranks) :]
        parts = np.split(values, np.cumsum(sizes)[:-1])
        rows, *others = (part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
        return Outputs.of(count, rows, dict(zip(names, others, strict=True)))


_MOST = 1 << 16
"""Values of an output of one image, at most: the widest network has 4,096 features."""


def most_bytes(count: int, classes: int) -> int:
    """Return the bytes of `Outputs.to_bytes` of `count` images, at most."""
    return 4 * count * (classes + len(RANKS) * _MOST) + 4 * sum(RANKS.values())


# Between a head and its probabilities: bias, temperature, activation, and changes of the form.
_AFTER_HEAD = {
    *("Add", "Sub", "Mul", "Div", "Softmax", "LogSoftmax", "Sigmoid", "Exp", "Clip"),
    *("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Concat"),
}
_HEADS = {"Gemm", "MatMul"}
_GRAPH, _NODE, _OUTPUT = 7, 1, 12  # of a model; of a graph
_INPUT_NAME, _OUTPUT_NAME, _OPERATOR = 1, 2, 4  # of a node
_NAME = 1  # of an output


def with_features(model: bytes) -> bytes:
    """Return a model that also gives its features; as it is if it has them, or none are found.

    Args:
        model: accepted by `graph_file.check_graph`.
    """
    parts: list[bytes] = []
    for number, value, whole in fields(memoryview(model)):
        parts.append(bytes(whole))
        found = _features_of(value) if number == _GRAPH and isinstance(value, memoryview) else None
        if found is not None and isinstance(value, memoryview):
            parts[-1] = encode_field(_GRAPH, bytes(value) + _passing_on(found))
    return b"".join(parts)


def _passing_on(name: str) -> bytes:
    """Return the output `features` with the value of another name, and the node that does it."""
    output = encode_field(_OUTPUT, encode_field(_NAME, FEATURES.encode()))
    if name == FEATURES:
        return output
    texts = {_INPUT_NAME: name, _OUTPUT_NAME: FEATURES, _OPERATOR: "Identity"}
    node = b"".join(encode_field(number, text.encode()) for number, text in texts.items())
    return encode_field(_NODE, node) + output


def _features_of(graph: memoryview) -> str | None:
    """Return the name of what the head reads, if a node computes it, and it can be an output."""
    producers: dict[str, tuple[str, list[str]]] = {}
    outputs = []
    for number, value, _ in fields(graph):
        if number == _NODE and isinstance(value, memoryview):
            names: dict[int, list[str]] = {_INPUT_NAME: [], _OUTPUT_NAME: [], _OPERATOR: [""]}
            for field, content, _ in fields(value):
                if field in names:
                    names[field].append(_text(content))
            node = names[_OPERATOR][-1], names[_INPUT_NAME]
            producers.update(dict.fromkeys(names[_OUTPUT_NAME], node))
        elif number == _OUTPUT and isinstance(value, memoryview):
            outputs += [_text(name) for field, name, _ in fields(value) if field == _NAME]
    if FEATURES in outputs:
        return None
    waiting = outputs[:1]
    seen = set(waiting)
    while waiting:
        operator, inputs = producers.get(waiting.pop(), ("", []))
        if operator in _HEADS and inputs:
            is_free = inputs[0] == FEATURES or FEATURES not in producers
            return inputs[0] if inputs[0] in producers and is_free else None
        if operator in _AFTER_HEAD:
            waiting += [name for name in inputs if name not in seen]
            seen.update(inputs)
    return None


def _text(value: int | memoryview) -> str:
    return bytes(value).decode("utf-8", "replace") if isinstance(value, memoryview) else ""
