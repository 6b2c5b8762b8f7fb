"""Samples out of image files that a list or a manifest names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from image_classification.data.samples import IntArray, Sample, UInt8Array
from image_classification.data.tree import class_name
from image_classification.errors import DataError


class ListedSource:
    """The image files at `paths` below `root`.

    Args:
        name: what to call it in messages.
        root: folder of the images.
        paths: relative to it, as the file system has them.
        class_indices: int64 (len,), the class of every image; of several labels the first.
        multi_hot: uint8 (len, classes) where an image may have several labels.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        paths: Sequence[str],
        class_indices: IntArray,
        multi_hot: UInt8Array | None = None,
    ) -> None:
        self.name = name
        self.class_indices = class_indices
        self.multi_hot = multi_hot
        self._root, self._paths = root, paths

    def __len__(self) -> int:
        return len(self._paths)

    def key(self, index: int) -> str:
        """The path relative to the root."""
        return class_name(self._paths[index])

    def read(self, index: int) -> Sample:
        """Sample `index`; a DataError names the file if it cannot be read."""
        try:
            content = (self._root / self._paths[index]).read_bytes()
        except OSError as error:
            raise DataError(
                f"{self._root / self.key(index)} cannot be read: {error.strerror}"
            ) from error
        row = None if self.multi_hot is None else self.multi_hot[index]
        return Sample(self.key(index), int(self.class_indices[index]), content, row)

    def close(self) -> None:
        """Nothing is held open."""
