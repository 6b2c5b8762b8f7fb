"""The tensors in a file of weights: what its header says of them, and their numbers on demand.

A reader checks each size in a header against the file before it promises a tensor, so that a file
takes no more memory than it has bytes. Nothing in a file is executed.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from image_classification.errors import ArtifactError
from image_classification.samples import Array, FloatArray

MOST_HEADER_BYTES = 16 * 2**20
"""Names, shapes and positions of the tensors; those of ResNet-152 take 0.1 MB."""
MOST_TENSORS = 20_000
MOST_DIMENSIONS = 8
MOST_FILE_BYTES = 16 * 2**30
"""Of a file of weights; a training checkpoint of the largest image classifiers has 10 GB."""

_BLOCK = 1 << 20
BFLOAT16 = "bfloat16"
"""A type that NumPy lacks: the upper half of a float32."""


@dataclass(frozen=True)
class Tensor:
    """A tensor in a file.

    Attributes:
        shape: of the tensor.
        load: returns the numbers; ArtifactError or ValueError if the file does not have them.
    """

    shape: tuple[int, ...]
    load: Callable[[], Array]

    def numbers(self, is_fractional: bool = False) -> FloatArray:
        """Return the numbers as a new float32 array in C order; ValueError if some are not finite.

        A network with one NaN answers NaN for every image.

        Args:
            is_fractional: refuse integers; weights that are integers are quantized, and their
                scale is elsewhere.
        """
        loaded = self.load()
        if is_fractional and loaded.dtype.kind != "f":
            raise ValueError(
                f"has integers ({loaded.dtype}), as quantized or truncated weights have; save the "
                "model's weights as float32"
            )
        with np.errstate(over="ignore"):  # float64 beyond the range of float32 becomes infinite
            array = np.array(loaded, np.float32, order="C")
        if not np.isfinite(array).all():
            raise ValueError("has numbers that are not finite")
        return array


@dataclass(frozen=True)
class TensorFile:
    """A file of weights.

    Attributes:
        path: of the file.
        format: its name for people.
        tensors: by the file's own names, in its order.
        metadata: what the file says of itself, as text.
    """

    path: Path
    format: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)


class RegularFile:
    """A regular file that is open for reading; every read is checked against its size."""

    def __init__(self, path: Path) -> None:
        """Open `path`.

        Raises:
            ArtifactError: it is absent, not a regular file (a pipe, a device), or too large.
        """
        self.path = path
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
        status = os.fstat(handle)
        self.size = status.st_size
        if not stat.S_ISREG(status.st_mode) or self.size > MOST_FILE_BYTES:
            os.close(handle)
            kind = f"{self.size} bytes" if stat.S_ISREG(status.st_mode) else "no regular file"
            raise ArtifactError(
                f"{path}: expected a file of at most {MOST_FILE_BYTES} bytes with weights, got "
                f"{kind}"
            )
        self._file: IO[bytes] = os.fdopen(handle, "rb")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, start: int, size: int) -> bytes:
        """Return `size` bytes from `start`; ValueError if the file does not have them."""
        if start < 0 or size < 0 or start + size > self.size:
            raise ValueError(f"{size} bytes from byte {start} of a file of {self.size}")
        self._file.seek(start)
        content = self._file.read(size)
        if len(content) != size:
            raise ValueError("a file that became shorter while it was read")
        return content

    def array(self, start: int, count: int, kind: str) -> Array:
        """Return `count` numbers from byte `start`, as float32 if the type is bfloat16.

        Args:
            start: position of the first.
            count: how many.
            kind: a type of NumPy with its byte order, or BFLOAT16.
        """
        dtype = np.dtype("<u2" if kind == BFLOAT16 else kind)
        numbers = np.frombuffer(self.read(start, count * dtype.itemsize), dtype)
        if kind == BFLOAT16:
            return (numbers.astype("<u4") << 16).view("<f4")
        return numbers

    def sha256(self) -> str:
        """Return the SHA-256 of the content, in hexadecimal digits."""
        digest = hashlib.sha256()
        self.add_to(digest)
        return digest.hexdigest()

    def add_to(self, digest: Any) -> None:
        """Add the content to a digest of `hashlib`."""
        self._file.seek(0)
        while block := self._file.read(_BLOCK):
            digest.update(block)

    @property
    def stream(self) -> IO[bytes]:
        """The open file, for a reader that moves its position itself."""
        return self._file


def checked_shape(shape: Any) -> tuple[int, ...]:
    """Return a shape from a header as a tuple; ValueError if it is not one."""
    with suppress(TypeError):
        found = tuple(shape)
        is_sound = all(type(size) is int and 0 <= size < 2**40 for size in found)
        if is_sound and len(found) <= MOST_DIMENSIONS:
            return found
    raise ValueError(f"the shape {str(shape)[:60]}")
