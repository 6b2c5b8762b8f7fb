"""MXNet's `.params` files, read without MXNet: named arrays, one behind the other.

Source: apache/mxnet `src/ndarray/ndarray.cc` (`NDArray::Save`, `Load`), little-endian throughout:

    file    uint64 0x112, uint64 0, uint64 count, count × array, uint64 count, count × name
    name    uint64 length, bytes
    array   uint32 magic; V2 and V3: int32 storage type (0 is dense)
            shape, int32 device type, int32 device number, int32 element type, elements
    shape   V1, V2, V3: int32 dimensions, int64 each
            before V1 the magic is the number of dimensions itself, uint32 each

Names begin with `arg:` (learned) or `aux:` (running statistics).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from image_classification.errors import ArtifactError

_MAGIC = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_DENSE = 0
_TYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8"}
_MAX_DIMENSIONS = 32

Array = npt.NDArray[np.generic]
_Entry = TypeVar("_Entry")


def read_params(path: Path) -> dict[str, Array]:
    """The arrays of a file by name, as MXNet wrote them.

    Raises:
        ArtifactError: the file is not one, is cut short, or holds what no network's weights are
            (sparse or unnamed arrays); the message has the place.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path}: not readable: {error}") from error
    return _Reader(content, path.name).named_arrays()


class _Reader:
    """A cursor over the bytes of a file; nothing is read or allocated beyond their end."""

    def __init__(self, content: bytes, name: str) -> None:
        self._content, self._name, self._at = content, name, 0

    def named_arrays(self) -> dict[str, Array]:
        magic, _ = self._numbers("<QQ")
        if magic != _MAGIC:
            raise self._error(f"not MXNet's .params: it begins with {magic:#x}, not {_MAGIC:#x}")
        arrays = self._many(self._array)
        names = self._many(self._text)
        if len(names) != len(arrays) or len(set(names)) != len(names):
            raise self._error(f"{len(arrays)} arrays, but {len(set(names))} names")
        if self._at != len(self._content):
            raise self._error(f"{len(self._content) - self._at} bytes too many")
        return dict(zip(names, arrays, strict=True))

    def _many(self, read: Callable[[], _Entry]) -> list[_Entry]:
        (count,) = self._numbers("<Q")
        # Each takes 8 bytes at the least: a damaged count ends here and not in a full memory.
        if count > (len(self._content) - self._at) // 8:
            raise self._error(f"{count} entries do not fit into what is left")
        return [read() for _ in range(count)]

    def _array(self) -> Array:
        (magic,) = self._numbers("<I")
        if magic in (_V2, _V3):
            (storage,) = self._numbers("<i")
            if storage != _DENSE:
                raise self._error(f"an array of storage type {storage}; only dense (0) is read")
        is_old = magic not in (_V1, _V2, _V3)
        dimensions = magic if is_old else self._numbers("<i")[0]
        if not 0 < dimensions <= _MAX_DIMENSIONS:
            raise self._error(f"an array of {dimensions} dimensions; expected 1 to 32")
        shape = self._numbers(f"<{dimensions}{'I' if is_old else 'q'}")
        _, _, kind = self._numbers("<iii")
        if kind not in _TYPES or min(shape) < 0:
            raise self._error(f"an array of element type {kind} and shape {shape}")
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
        end = self._at + size
        if end > len(self._content):
            raise self._error(f"cut short: {size} bytes are announced")
        raw = self._content[self._at : end]
        self._at = end
        return raw

    def _error(self, reason: str) -> ArtifactError:
        return ArtifactError(f"{self._name}, byte {self._at} of {len(self._content)}: {reason}")
