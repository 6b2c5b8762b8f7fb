"""Samples out of record files: one file or several shards, read from memory maps."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from image_classification.data.recordio import RecordFile
from image_classification.data.samples import IntArray, Sample
from image_classification.errors import DataError


class RecordSource:
    """The image records of `paths`, in the order given; within a file in file order.

    Attributes:
        name: the names of the files.
        class_indices: int64 (len,), the label of every record's header.

    Raises:
        RecordError: a file or its index is damaged.
        DataError: a label is no class index (a whole number from 0), or there are several.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._shards: list[RecordFile] = []
        self.name = _name(paths)
        try:
            for path in paths:
                self._shards.append(RecordFile(path))
            self._starts = [0, *accumulate(len(shard) for shard in self._shards)]
            labels = [_class_indices(shard) for shard in self._shards]
        except BaseException:
            self.close()
            raise
        self.class_indices: IntArray = np.concatenate([np.empty(0, np.int64), *labels])
        names = [path.name for path in paths]
        self._names = names if len(set(names)) == len(names) else [str(path) for path in paths]

    def __len__(self) -> int:
        return self._starts[-1]

    def key(self, index: int) -> str:
        """`file.rec#<image id>`; the file's path where two shards have the same name."""
        shard, number = self._place(index)
        return f"{self._names[shard]}#{self._shards[shard].record_headers['id'][number]}"

    def read(self, index: int) -> Sample:
        """Sample `index`; a RecordError names file, byte offset and record."""
        shard, number = self._place(index)
        content = self._shards[shard].read_image(number).content
        return Sample(self.key(index), int(self.class_indices[index]), content)

    def close(self) -> None:
        """Release the maps of all shards."""
        for shard in self._shards:
            shard.close()

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        shard = bisect_right(self._starts, index) - 1
        return shard, index - self._starts[shard]


def _name(paths: Sequence[Path]) -> str:
    if len(paths) == 1:
        return str(paths[0])
    return f"{len(paths)} record files" + (f" from {paths[0]} on" if paths else "")


def _class_indices(shard: RecordFile) -> IntArray:
    """int64 (records,); a DataError for the first record whose label is no class index."""
    flags, labels = shard.record_headers["flag"], shard.record_labels()
    several = np.flatnonzero(flags > 1)
    if len(several):
        raise DataError(
            f"{shard.path}: expected one label in every record, got {flags[several[0]]} in record "
            f"{several[0]} ({len(several)} such records); pack without --pack-label"
        )
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero(~((labels >= 0) & (labels == np.floor(labels)) & (labels < 2**31)))
    if len(wrong):
        first = int(wrong[0])
        raise DataError(
            f"{shard.path}: expected class indices (whole numbers from 0) as labels, got "
            f"{labels[first]} in record {first}, id {shard.record_headers['id'][first]} "
            f"({len(wrong)} such records); correct the list and pack it again"
        )
    return labels.astype(np.int64)
