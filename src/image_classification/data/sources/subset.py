"""A part of another source: what is left after a split."""

from __future__ import annotations

from image_classification.data.samples import IntArray, Sample
from image_classification.data.sources import Source


class SubsetSource:
    """The samples of `source` at `indices` (int64 (n,)), in that order."""

    def __init__(self, source: Source, indices: IntArray, name: str) -> None:
        self._source = source
        self._indices = indices
        self.name = name
        self.class_indices: IntArray = source.class_indices[indices]
        self.multi_hot = None if source.multi_hot is None else source.multi_hot[indices]

    def __len__(self) -> int:
        return len(self._indices)

    def key(self, index: int) -> str:
        """The key of sample `index` of the part."""
        return self._source.key(int(self._indices[index]))

    def read(self, index: int) -> Sample:
        """Sample `index` of the part."""
        return self._source.read(int(self._indices[index]))

    def close(self) -> None:
        """Close the whole source."""
        self._source.close()
