"""Samples from record files: one file or several shards, read from memory maps.

In: paths of `.rec` files. Out: `Sample`s, and the classes of all records, checked on opening; and
the kind of their labels, found in their headers without reading an image.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from image_classification.errors import ForeignLabelsError, LabelError, SeveralLabelsError
from image_classification.labels.kinds import LabelKind, kind_of, remedy
from image_classification.loading.record_names import RecordNames, find_names
from image_classification.loading.sources import Source
from image_classification.records.reader import RecordFile
from image_classification.samples import BoolArray, FloatArray, IntArray, Sample, UInt8Array

_AT_ONCE = 1 << 20  # labels that are in memory at the same time


@dataclass(frozen=True)
class RecordLabels:
    """The labels of record files.

    Attributes:
        kind: what they mean.
        width: numbers per record, at most; 1 for a class.
        has_image: for each file bool (records,), False for the records that only index identities.
    """

    kind: LabelKind
    width: int
    has_image: tuple[BoolArray, ...]


def read_record_labels(files: Sequence[RecordFile]) -> RecordLabels:
    """Return what the labels of image records mean, in all files together.

    Raises:
        RecordError: a record is too short for its header.
    """
    filled = [file for file in files if len(file)]
    width = max((int(file.record_headers["flag"].max()) for file in filled), default=1)
    everywhere = tuple(np.ones(len(file), np.bool_) for file in files)
    if width <= 1:
        return RecordLabels(LabelKind.CLASS, 1, everywhere)
    if any(map(is_identity_file, filled)):
        has_image = tuple(
            file.content_sizes() > 0 if len(file) else full
            for file, full in zip(files, everywhere, strict=True)
        )
        return RecordLabels(LabelKind.IDENTITY, width, has_image)
    flags = {int(flag) for file in filled for flag in np.unique(file.record_headers["flag"])}
    if flags == {width} and all(map(_is_binary, filled)):
        return RecordLabels(LabelKind.MULTI_HOT, width, everywhere)
    kind = kind_of(row for file in filled for row in label_rows(file))
    return RecordLabels(kind, width, everywhere)


def is_identity_file(file: RecordFile) -> bool:
    """Return whether the first record holds two numbers and no image: where identities begin.

    Its first number is that of the images plus 1, the second that of all records.
    """
    header = file.record_headers[0]
    if header["flag"] != 2 or file.content_sizes()[0] > 0:
        return False
    first, end = file.record_label_rows(2, np.zeros(1, np.int64))[0].tolist()
    return bool(2 <= first <= end < float("inf")) and first == int(first) and end == int(end)


def label_rows(file: RecordFile) -> Iterator[list[float]]:
    """Yield the labels of every record, those with fewer labels first."""
    flags = file.record_headers["flag"]
    yield from ([label] for label in file.record_labels()[flags <= 1].tolist())
    for width in np.unique(flags[flags > 1]).tolist():
        for rows in _rows_of_width(file, width, np.flatnonzero(flags == width)):
            yield from rows.tolist()


def _rows_of_width(file: RecordFile, width: int, numbers: IntArray) -> Iterator[FloatArray]:
    """Yield float32 (some, width), the labels of records that all have `width` of them."""
    count = max(1, _AT_ONCE // width)
    for begin in range(0, len(numbers), count):
        yield file.record_label_rows(width, numbers[begin : begin + count])


def _is_binary(file: RecordFile) -> bool:
    """Return whether all labels are 0 or 1; `file` has the same number of them everywhere."""
    width = int(file.record_headers["flag"][0])
    pieces = _rows_of_width(file, width, np.arange(len(file)))
    return all(((rows == 0) | (rows == 1)).all() for rows in pieces)


def record_files(directory: Path) -> list[Path]:
    """Return the record files below a directory in name order, without hidden ones."""
    return sorted(p for p in directory.rglob("*.rec") if not p.name.startswith(".") and p.is_file())


class RecordSource(Source):
    """The image records of `paths`, in the given order; within a file in file order.

    Args:
        paths: the files.
        is_multi_label: whether a record has a 0 or 1 for every class instead of one class.
        name: of the source; None takes the names of the files.

    Raises:
        RecordError: a file or its index is damaged.
        LabelError: a label is not a class index (a whole number from 0), or a record has several;
            with `is_multi_label`, a record has one label, a different number of labels than the
            others, or a label that is not 0 or 1.
    """

    def __init__(
        self, paths: Sequence[Path], *, is_multi_label: bool = False, name: str | None = None
    ) -> None:
        self._shards: list[RecordFile] = []
        self.name = _name(paths) if name is None else name
        try:
            for path in paths:
                self._shards.append(RecordFile(path))
            self._starts = [0, *accumulate(len(shard) for shard in self._shards)]
            if is_multi_label:
                self.multi_hot = stacked_rows(self._shards)
                labels = [first_labels(self.multi_hot)]
            else:
                labels = [_class_indices(shard) for shard in self._shards]
            reported: set[Path] = set()
            self._files: list[RecordNames] = [
                find_names(shard, reported=reported) for shard in self._shards
            ]
            for shard in self._shards:
                shard.forget_headers()
        except BaseException:
            self.close()
            raise
        self.class_indices = np.concatenate([np.empty(0, np.int64), *labels])
        names = [path.name for path in paths]
        self._names = names if len(set(names)) == len(names) else [str(path) for path in paths]

    def __len__(self) -> int:
        return self._starts[-1]

    def key(self, index: int) -> str:
        """`file.rec#<image id>`, and the name of the image if the list next to the file has it.

        Where two shards have the same name, it begins with the path of the shard.
        """
        shard, number = self._locate(index)
        return self._key(shard, number, self._shards[shard].record_id(number))

    def path(self, index: int) -> str:
        """The path of the image that was packed, for a list; the key if it is not known."""
        shard, number = self._locate(index)
        return self._files[shard].path(number) or self.key(index)

    def read(self, index: int) -> Sample:
        """Read sample `index`; a RecordError names file, byte offset and record."""
        shard, number = self._locate(index)
        record = self._shards[shard].read_image(number)
        row = None if self.multi_hot is None else self.multi_hot[index]
        key = self._key(shard, number, record.header.id)
        return Sample(key, int(self.class_indices[index]), record.content, row)

    def close(self) -> None:
        """Release the maps of all shards."""
        for shard in self._shards:
            shard.close()

    def _key(self, shard: int, number: int, identifier: int) -> str:
        return self._files[shard].key(f"{self._names[shard]}#{identifier}", number)

    def _locate(self, index: int) -> tuple[int, int]:
        """Return the shard of sample `index` and its number there."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        shard = bisect_right(self._starts, index) - 1
        return shard, index - self._starts[shard]


def first_labels(multi_hot: UInt8Array) -> IntArray:
    """int64 (N,): the lowest class of every row of (N, classes); `classes` for an empty row."""
    lowest = multi_hot.argmax(axis=1).astype(np.int64)
    return np.where(multi_hot.any(axis=1), lowest, multi_hot.shape[1])


def stacked_rows(shards: Sequence[RecordFile]) -> UInt8Array:
    """Return uint8 (records, classes) of all shards; the first record sets the number of classes.

    Raises:
        LabelError: other labels than that many of 0 or 1.
    """
    filled = [shard for shard in shards if len(shard)]
    if not filled:
        return np.empty((0, 0), np.uint8)
    width = int(filled[0].record_headers["flag"][0])
    return np.concatenate([_multi_hot(shard, width) for shard in filled])


def _name(paths: Sequence[Path]) -> str:
    if len(paths) == 1:
        return str(paths[0])
    return f"{len(paths)} record files" + (f" from {paths[0]} on" if paths else "")


def _multi_hot(shard: RecordFile, width: int) -> UInt8Array:
    flags = shard.record_headers["flag"]
    wrong = np.flatnonzero((flags != width) | (flags < 1))
    if len(wrong):
        expected = "a 0 or 1 for every class"
        expected = f"{width} labels ({expected})" if width > 1 else expected
        raise _label_error(
            shard,
            f"expected {expected} in every record, got {flags[wrong[0]] or 'one class number'} in "
            f"record {wrong[0]} ({len(wrong)} such records)",
            LabelError,
            f"; {remedy(LabelKind.CLASS)}, or pack a list with a 0 or 1 for every class "
            "(--pack-label)",
        )
    bits = np.empty((len(shard), width), np.uint8)
    others: list[int] = []
    start = 0
    for rows in _rows_of_width(shard, width, np.arange(len(shard))):
        is_other = ~((rows == 0) | (rows == 1)).all(axis=1)
        others += (start + np.flatnonzero(is_other)).tolist()
        bits[start : start + len(rows)] = rows == 1
        start += len(rows)
    if others:
        row = shard.record_label_rows(width, np.array(others[:1]))[0].tolist()
        raise _label_error(
            shard,
            f"expected labels that are 0 or 1, got {row[:20]} in record {others[0]} "
            f"({len(others)} such records)",
            LabelError,
        )
    return bits


def _label_error(
    shard: RecordFile, what: str, usual: type[LabelError], usual_remedy: str = ""
) -> LabelError:
    """Return the error `what`; for labels of another task it says what they are."""
    kind = read_record_labels([shard]).kind
    if kind in (LabelKind.CLASS, LabelKind.MULTI_HOT):
        return usual(f"{shard.path}: {what}{usual_remedy}")
    return ForeignLabelsError(f"{shard.path}: {what}; {remedy(kind, shard.path)}")


def _one_hot_remedy(shard: RecordFile) -> str:
    """Return what to do if every image has a single 1, so that one class would do."""
    if any(sum(row) != 1 for row in label_rows(shard)):
        return ""
    return " and a single 1: to learn one class, pack a list with its number"


def _class_indices(shard: RecordFile) -> IntArray:
    flags, labels = shard.record_headers["flag"], shard.record_labels()
    several = np.flatnonzero(flags > 1)
    if len(several):
        raise _label_error(
            shard,
            f"expected one label in every record, got {flags[several[0]]} in record {several[0]} "
            f"({len(several)} such records)",
            SeveralLabelsError,
            f"; each image has a 0 or 1 for every class{_one_hot_remedy(shard)}",
        )
    with np.errstate(invalid="ignore"):
        wrong = np.flatnonzero(~((labels >= 0) & (labels == np.floor(labels)) & (labels < 2**31)))
    if len(wrong):
        first = int(wrong[0])
        raise LabelError(
            f"{shard.path}: expected class indices (whole numbers from 0) as labels, got "
            f"{labels[first]} in record {first}, id {shard.record_headers['id'][first]} "
            f"({len(wrong)} such records); correct the list and pack it again"
        )
    return labels.astype(np.int64)
