"""Makes the features of a graph an output, without the onnx package: what its head reads.

In: an ONNX model with one output. Out: the same model with a second output, the first input of the
last dense layer (Gemm or MatMul) before the probabilities. The fields are those of onnx.proto; see
`graph_file`.
"""

from __future__ import annotations

from image_classification.records.tfrecord import encode_field
from image_classification.serving.graph_file import fields

# Between a head and its probabilities: bias, temperature, activation, and changes of the form.
_AFTER_HEAD = {
    *("Add", "Sub", "Mul", "Div", "Softmax", "LogSoftmax", "Sigmoid", "Exp", "Clip"),
    *("Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Concat"),
}
_HEADS = {"Gemm", "MatMul"}
_GRAPH, _NODE, _OUTPUT = 7, 1, 12  # of a model; of a graph
_INPUT_NAME, _OUTPUT_NAME, _OPERATOR = 1, 2, 4  # of a node
_NAME = 1  # of an output


def with_features(model: bytes) -> tuple[bytes, str | None]:
    """Return a model that also gives its features, and their name.

    Args:
        model: accepted by `graph_file.check_graph`.

    Returns:
        The model as it is, and None, if no dense layer before its probabilities is found.
    """
    parts: list[bytes] = []
    found = None
    for number, value, whole in fields(memoryview(model)):
        parts.append(bytes(whole))
        if number == _GRAPH and isinstance(value, memoryview) and found is None:
            found = _features_of(value)
            if found is not None:
                output = encode_field(_OUTPUT, encode_field(_NAME, found.encode()))
                parts[-1] = encode_field(_GRAPH, bytes(value) + output)
    return (model, None) if found is None else (b"".join(parts), found)


def _features_of(graph: memoryview) -> str | None:
    """Return the name of what the head reads, if a node computes it."""
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
    waiting = outputs[:1]
    seen = set(waiting)
    while waiting:
        operator, inputs = producers.get(waiting.pop(), ("", []))
        if operator in _HEADS and inputs:
            return inputs[0] if inputs[0] in producers else None
        if operator in _AFTER_HEAD:
            waiting += [name for name in inputs if name not in seen]
            seen.update(inputs)
    return None


def _text(value: int | memoryview) -> str:
    return bytes(value).decode("utf-8", "replace") if isinstance(value, memoryview) else ""
