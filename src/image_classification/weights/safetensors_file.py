"""Reads safetensors files: a JSON header with names, types, shapes and positions, then the numbers.

Source of the format: huggingface/safetensors README. The header is checked here, and not by the
package of that name, because it is then checked before any memory is spent, and because NumPy has
no bfloat16.
"""

import json
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from image_classification.weights.tensors import (
    BFLOAT16,
    MOST_HEADER_BYTES,
    MOST_TENSORS,
    RegularFile,
    Tensor,
    TensorFile,
    checked_shape,
)

# Name in the header → (type of NumPy, bytes per number).
_TYPES = {
    "F64": ("<f8", 8),
    "F32": ("<f4", 4),
    "F16": ("<f2", 2),
    "BF16": (BFLOAT16, 2),
    "I64": ("<i8", 8),
    "I32": ("<i4", 4),
    "I16": ("<i2", 2),
    "I8": ("i1", 1),
    "U8": ("u1", 1),
    "BOOL": ("u1", 1),
}


def is_safetensors(head: bytes) -> bool:
    """Return whether a file begins as one does: 8 bytes of length, then JSON."""
    return len(head) > 8 and head[8:9] == b"{" and not any(head[5:8])


def read_safetensors(file: RegularFile) -> TensorFile:
    """Read the header; ValueError if it contradicts itself or the file."""
    length = int.from_bytes(file.read(0, 8), "little")
    if length > MOST_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes; expected at most {MOST_HEADER_BYTES}")
    try:
        header = json.loads(file.read(8, length), object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError("a header that is nested too deep") from error
    if not isinstance(header, dict) or len(header) > MOST_TENSORS:
        raise ValueError(f"a header that is no object of at most {MOST_TENSORS} tensors")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("metadata that are not text")
    begin, end = 8 + length, 0
    tensors = {}
    spans = []
    for name, entry in header.items():
        shape, kind, (first, last) = _entry(name, entry)
        spans.append((first, last))
        tensors[name] = Tensor(shape, partial(_load, file, begin + first, shape, kind))
    for first, last in sorted(spans):
        if first != end:
            raise ValueError(f"tensors that overlap or leave a gap at byte {end}")
        end = last
    if begin + end != file.size:
        raise ValueError(
            f"a header about {begin + end} bytes in a file of {file.size}: copy the file again"
        )
    return TensorFile(file.path, "safetensors", tensors, metadata)


def _entry(name: str, entry: Any) -> tuple[tuple[int, ...], str, tuple[int, int]]:
    """Return shape, type and span of a tensor."""
    kind = entry.get("dtype") if isinstance(entry, Mapping) else entry
    if not isinstance(kind, str) or kind not in _TYPES:
        raise ValueError(f"{name[:80]!r} of the unknown type {str(kind)[:40]!r}")
    kind, width = _TYPES[kind]
    shape = checked_shape(entry.get("shape"))
    first, last = checked_shape(entry.get("data_offsets", ()))[:2] or (0, -1)
    if last - first != math.prod(shape) * width:
        raise ValueError(f"{name[:80]!r} with {last - first} bytes for the shape {shape}")
    return shape, kind, (first, last)


def _load(file: RegularFile, start: int, shape: tuple[int, ...], kind: str) -> Any:
    return file.array(start, math.prod(shape), kind).reshape(shape)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice in its header")
    return found
