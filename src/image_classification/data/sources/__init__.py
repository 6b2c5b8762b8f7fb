"""Readers of samples, one file per kind of input; all look alike to the loader."""

from __future__ import annotations

from typing import Protocol

from image_classification.data.samples import IntArray, Sample


class Source(Protocol):
    """A finite, randomly accessible set of samples. `read` may be called from several threads."""

    name: str
    """What to call it in messages: the folder or the record files."""

    class_indices: IntArray
    """int64 (len,), the class index of every sample, known without decoding an image."""

    def __len__(self) -> int:
        """How many samples there are."""
        ...

    def key(self, index: int) -> str:
        """The key of sample `index`, 0 to len − 1."""
        ...

    def read(self, index: int) -> Sample:
        """Sample `index`; a DataError that names file and place if it cannot be read."""
        ...

    def close(self) -> None:
        """Release files and maps."""
        ...
