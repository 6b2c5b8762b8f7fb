"""What a base model of TensorFlow Hub or JumpStart says about its images, read without TensorFlow.

JumpStart's tarball holds a SavedModel, `__model_info__.json` (image size, pixel scaling, whether
the built-in has fine-tuned it) and, if it classifies, `labels_info.json`. A SavedModel alone says
at most the size: in the shapes of the functions in its saved_model.pb, whose fields are those of
TensorFlow's saved_model.proto, saved_object_graph.proto and struct.proto.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image_classification.errors import ArtifactError
from image_classification.records.tfrecord import message_fields

INFO_FILE = "__model_info__.json"
LABELS_FILE = "labels_info.json"
GRAPH_FILE = "saved_model.pb"

_MOST_JSON, _MOST_GRAPH = 16 * 2**20, 2**31 - 1
_MOST_SIDE = 2**16
_MOST_DEPTH = 50  # of values in values
_SCALINGS = {  # pixel_scaling_method → mean and standard deviation in units of 0–255
    "normalize": ((0.0,), (255.0,)),
    "center": ((127.5,), (127.5,)),
    "standardize_on_imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}
Numbers = tuple[float, ...]


@dataclass(frozen=True)
class BaseModel:
    """What is known about a base model.

    Attributes:
        size: (height, width) of its images; None if it accepts any, or does not say it.
        scaling: mean and standard deviation of its images in units of 0–255; None if unsaid.
        is_fine_tuned: whether a job of the built-in wrote it.
        labels: its class names, or ().
        is_readable: whether its graph could be read.
    """

    size: tuple[int, int] | None
    scaling: tuple[Numbers, Numbers] | None
    is_fine_tuned: bool = False
    labels: tuple[str, ...] = ()
    is_readable: bool = True


def read_base_model(folder: Path) -> BaseModel:
    """Read what the files of an unpacked base model say; nothing of it runs.

    Raises:
        ArtifactError: `__model_info__.json` is not as JumpStart writes it.
    """
    info_path, info = _read_json(folder, INFO_FILE)
    _, labels = _read_json(folder, LABELS_FILE)
    named = labels.get("labels") if isinstance(labels, dict) else None
    names = tuple(map(str, named)) if isinstance(named, list) else ()
    scaling, is_fine_tuned, size = None, False, None
    if info_path is not None:
        if not isinstance(info, dict):
            raise ArtifactError(f"{info_path.name}: expected a JSON object, got {info!r}"[:300])
        values = {str(name).lower(): value for name, value in info.items()}
        size = _size_of(values.get("image_size"))
        scaling = _scaling_of(values.get("pixel_scaling_method"))
        is_fine_tuned = values.get("finetuned") is True
    try:
        size = size or _size_in_graph(folder)
    except (ValueError, OSError):
        return BaseModel(size, scaling, is_fine_tuned, names, is_readable=False)
    return BaseModel(size, scaling, is_fine_tuned, names)


def _read_json(folder: Path, name: str) -> tuple[Path | None, Any]:
    found = [path for path in sorted(folder.rglob(name)) if path.is_file()][:1]
    if not found:
        return None, None
    try:
        if found[0].stat().st_size > _MOST_JSON:
            raise ValueError(f"it has more than {_MOST_JSON >> 20} MiB")
        return found[0], json.loads(found[0].read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"channel model: {name} cannot be read: {error}") from error


def _size_of(value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    sides = value if isinstance(value, list) else []
    if len(sides) == 2 and all(_is_side(side) for side in sides):
        return int(sides[0]), int(sides[1])
    raise ArtifactError(
        f"channel model: {INFO_FILE} has image_size={value!r}: expected [height, width]"[:300]
    )


def _is_side(value: object) -> bool:
    try:
        return 0 < int(str(value)) <= _MOST_SIDE
    except ValueError:
        return False


def _scaling_of(value: object) -> tuple[Numbers, Numbers] | None:
    if value is None:
        return None
    if not isinstance(value, str) or value not in _SCALINGS:
        raise ArtifactError(
            f"channel model: {INFO_FILE} has pixel_scaling_method={repr(value)[:100]}: expected "
            f"one of {', '.join(_SCALINGS)}"
        )
    return _SCALINGS[value]


def _size_in_graph(folder: Path) -> tuple[int, int] | None:
    """Return the only size for which the signatures or else the functions are made."""
    path = next(iter(sorted(folder.rglob(GRAPH_FILE))), None)
    if path is None or path.stat().st_size > _MOST_GRAPH:
        return None
    data = path.read_bytes()
    for shapes in (_signature_shapes, _function_shapes):
        sizes = set()
        for graph in _parts(data, (0, len(data)), 2):  # SavedModel.meta_graphs
            for shape in shapes(data, graph):
                if len(shape) == 4 and shape[3] in (1, 3) and min(shape[1:3]) > 0:
                    sizes.add((shape[1], shape[2]))
        if len(sizes) == 1 and max(size := sizes.pop()) <= _MOST_SIDE:
            return size
    return None


_Span = tuple[int, int]


def _parts(data: bytes, span: _Span, *numbers: int) -> Iterator[_Span]:
    """Yield the messages below a message that the path of field numbers leads to."""
    number, *rest = numbers
    for found, wire, begin, end in message_fields(data, *span):
        if found == number and wire == 2:
            yield from _parts(data, (begin, end), *rest) if rest else [(begin, end)]


def _signature_shapes(data: bytes, graph: _Span) -> Iterator[list[int]]:
    # MetaGraphDef.signature_def → value → inputs → value → tensor_shape
    for span in _parts(data, graph, 5, 2, 1, 2, 3):
        yield _shape(data, span)


def _function_shapes(data: bytes, graph: _Span) -> Iterator[list[int]]:
    # MetaGraphDef.object_graph_def → concrete_functions → value → canonicalized_input_signature
    for span in _parts(data, graph, 7, 2, 2, 3):
        yield from _shapes_in(data, span)


def _shapes_in(data: bytes, value: _Span, depth: int = 0) -> Iterator[list[int]]:
    """Yield the shapes of the tensor specifications in a StructuredValue."""
    if depth > _MOST_DEPTH:
        return
    for shape in _parts(data, value, 33, 2):  # tensor_spec_value → shape
        yield _shape(data, shape)
    for path in ((51, 1), (52, 1), (53, 1, 2), (54, 2, 2)):  # list, tuple, dictionary, named tuple
        for inner in _parts(data, value, *path):
            yield from _shapes_in(data, inner, depth + 1)


def _shape(data: bytes, span: _Span) -> list[int]:
    """Return the sides of a TensorShapeProto; a free one is -1."""
    sides = []
    for dimension in _parts(data, span, 2):
        size = next((v for n, w, v, _ in message_fields(data, *dimension) if (n, w) == (1, 0)), 0)
        sides.append(-1 if size >= 2**63 else size)
    return sides
