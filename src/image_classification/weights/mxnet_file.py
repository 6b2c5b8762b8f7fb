"""Reads MXNet's `.params` files: arrays, then their names. Nothing in them is executed.

Source of the format: apache/mxnet `NDArray::Save`. Gluon's files and those of the built-in are such
files; in the latter `arg:` or `aux:` begins each name.
"""

import math
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from image_classification.errors import ArtifactError
from image_classification.samples import Array
from image_classification.weights.tensors import RegularFile, Tensor, TensorFile

_MAGIC = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_DENSE = 0
_TYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8"}
_MAX_DIMENSIONS = 32

_MOST_BYTES = 2**31  # the file is read whole; that of ResNet-200 has 0.26 GB

_Entry = TypeVar("_Entry")


def is_params(head: bytes) -> bool:
    """Return whether a file begins as one does."""
    return head[:8] == struct.pack("<Q", _MAGIC)


def read_mxnet(file: RegularFile) -> TensorFile:
    """Read the arrays; ValueError for a file that is too large, ArtifactError for a damaged one."""
    if file.size > _MOST_BYTES:
        raise ValueError(f"a file of {file.size} bytes; expected at most {_MOST_BYTES}")
    arrays = _Reader(file.read(0, file.size), str(file.path)).named_arrays()
    tensors = {
        name.removeprefix("arg:").removeprefix("aux:"): Tensor(
            array.shape, partial(np.asarray, array)
        )
        for name, array in arrays.items()
    }
    return TensorFile(file.path, "MXNet", tensors)


def read_params(path: Path) -> dict[str, Array]:
    """Read the arrays of a `.params` file by name.

    Raises:
        ArtifactError: not such a file, a truncated one, or one with sparse or unnamed arrays, which
            are no network's weights; the message has the position.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
    return _Reader(content, path.name).named_arrays()


class _Reader:
    """A cursor over the bytes of a file; it never reads or allocates beyond their end."""

    def __init__(self, content: bytes, name: str) -> None:
        self._content, self._name, self._position = content, name, 0

    def named_arrays(self) -> dict[str, Array]:
        magic, _ = self._numbers("<QQ")
        if magic != _MAGIC:
            raise self._error(
                f"expected an MXNet .params file, which starts with {_MAGIC:#x}, got {magic:#x}"
            )
        arrays = self._many(self._array)
        names = self._many(self._text)
        if len(names) != len(arrays) or len(set(names)) != len(names):
            raise self._error(f"{len(arrays)} arrays, but {len(set(names))} names")
        if self._position != len(self._content):
            raise self._error(f"{len(self._content) - self._position} unexpected bytes at the end")
        return dict(zip(names, arrays, strict=True))

    def _many(self, read: Callable[[], _Entry]) -> list[_Entry]:
        (count,) = self._numbers("<Q")
        # Each entry takes at least 8 bytes: a damaged count fails here instead of filling memory.
        if count > (len(self._content) - self._position) // 8:
            raise self._error(f"{count} entries do not fit into the rest of the file")
        return [read() for _ in range(count)]

    def _array(self) -> Array:
        (magic,) = self._numbers("<I")
        if magic in (_V2, _V3):
            (storage,) = self._numbers("<i")
            if storage != _DENSE:
                raise self._error(f"an array of storage type {storage}; expected dense (0)")
        is_old = magic not in (_V1, _V2, _V3)
        dimensions = magic if is_old else self._numbers("<i")[0]
        if not 0 < dimensions <= _MAX_DIMENSIONS:
            raise self._error(f"an array of {dimensions} dimensions; expected 1 to 32")
        shape = self._numbers(f"<{dimensions}{'I' if is_old else 'q'}")
        _, _, kind = self._numbers("<iii")
        if kind not in _TYPES or min(shape) < 0:
            raise self._error(f"an array with the unsupported element type {kind} or shape {shape}")
        dtype = np.dtype(_TYPES[kind])
        raw = self._bytes(math.prod(shape) * dtype.itemsize)
        return np.frombuffer(raw, dtype).reshape(shape)

    def _text(self) -> str:
        (length,) = self._numbers("<Q")
        raw = self._bytes(length)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._error(f"a name is not text: {raw[:40]!r}") from error

    def _numbers(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(layout, self._bytes(struct.calcsize(layout)))

    def _bytes(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._content):
            raise self._error(f"truncated: {size} more bytes expected")
        raw = self._content[self._position : end]
        self._position = end
        return raw

    def _error(self, reason: str) -> ArtifactError:
        size = len(self._content)
        return ArtifactError(f"{self._name}, byte {self._position} of {size}: {reason}")
