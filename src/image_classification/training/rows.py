"""Rows of an array as they come: in memory while they are few, beyond that in a temporary file.

The probabilities of 40,000 images and 20,000 classes have 3.2 GB. In: arrays of rows. Out: one
array, which is the file mapped into memory if it is large, and pieces of it for functions that
look at one row after another.
"""

import logging
import mmap
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from image_classification.samples import Array

MOST_BYTES = 256 << 20
"""Bytes of the rows that stay in memory."""
_PIECE_VALUES = 1 << 21

_logger = logging.getLogger(__name__)


class Rows:
    """Collects rows. The file has no name, so it is gone when the last array of it is."""

    def __init__(self) -> None:
        self._parts: list[Array] = []
        self._bytes = 0
        self._file: Any = None  # without a buffer: a full disk shows at once
        self._written = 0  # rows in it
        self._has_room = True

    def append(self, rows: Array) -> None:
        """Add rows; all have one length and one dtype."""
        self._parts.append(rows)
        self._bytes += rows.nbytes
        if self._file is None and (self._bytes <= MOST_BYTES or not self._has_room):
            return
        parts, self._parts = self._parts, []
        for position, part in enumerate(parts):
            try:
                self._write(part)
            except OSError as error:
                self._return_to_memory(parts[position:], error)
                return

    def array(self) -> Array:
        """Return all rows, at least one: in memory, or read-only from the file. Call it once."""
        if self._file is None:
            return np.concatenate(self._parts)
        with self._file as file:  # the array keeps what it maps
            return np.memmap(file, self._dtype, "r", shape=(self._written, *self._shape))

    def _write(self, rows: Array) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0)
            self._shape, self._dtype = rows.shape[1:], rows.dtype
        content = np.ascontiguousarray(rows).data.cast("B")
        while content:
            content = content[self._file.write(content) :]
        self._written += len(rows)

    def _return_to_memory(self, rest: list[Array], error: OSError) -> None:
        """Keep everything in memory, which may or may not suffice, where the disk does not."""
        _logger.warning(
            "%s has no room for the predictions (%s): they stay in memory, %.1f GB so far",
            tempfile.gettempdir(),
            error.strerror,
            self._bytes / 1e9,
        )
        self._has_room = False
        written = []
        if self._file is not None:
            with self._file as file:
                file.seek(0)
                count = self._written * int(np.prod(self._shape))
                content = np.fromfile(file, self._dtype, count)
                written = [content.reshape(self._written, *self._shape)]
        self._file, self._parts = None, [*written, *rest]


def pieces(rows: Array, *, only_mapped: bool = False) -> Iterator[tuple[slice, Array]]:
    """Yield (which rows, these rows) of an array, about 2 million values at a time.

    Args:
        rows: (N, …).
        only_mapped: give an array in memory in one piece: sums of floats depend on the pieces.
    """
    mapped: Any = getattr(rows, "_mmap", None)
    size = max(1, _PIECE_VALUES // max(1, int(np.prod(rows.shape[1:]))))
    if only_mapped and mapped is None:
        size = max(1, len(rows))
    for start in range(0, len(rows), size):
        which = slice(start, min(start + size, len(rows)))
        yield which, np.asarray(rows[which])
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)  # else all that was read counts as our memory
