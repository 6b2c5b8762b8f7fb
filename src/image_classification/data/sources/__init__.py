"""Readers of samples, one file per kind of input; all look alike to the loader."""

from __future__ import annotations

from typing import Protocol

from image_classification.data.samples import IntArray, Sample, UInt8Array


class PastTheEnd(Exception):
    """There is no such sample in this pass over a stream, which was shorter than announced."""


class Source(Protocol):
    """A finite, randomly accessible set of samples. `read` may be called from several threads."""

    name: str
    """What to call it in messages: the folder or the record files."""

    class_indices: IntArray
    """int64 (len,), the class index of every sample, known without decoding an image. Of several
    labels it is the first, or the number of classes where there is none; int64 (0,) of a stream."""

    multi_hot: UInt8Array | None
    """uint8 (len, classes), 1 for every class of a sample, where there may be several."""

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
