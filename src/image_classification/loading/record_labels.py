"""The kind of labels that record files hold, found in their headers without reading an image.

In: open record files. Out: a `RecordLabels`: their kind, their width, and which records have an
image.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from image_classification.labels.kinds import LabelKind, kind_of
from image_classification.records.reader import RecordFile
from image_classification.samples import BoolArray, FloatArray

_AT_ONCE = 1 << 16  # records whose labels are in memory at the same time


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
        numbers = np.flatnonzero(flags == width)
        for begin in range(0, len(numbers), _AT_ONCE):
            rows = file.record_label_rows(width, numbers[begin : begin + _AT_ONCE])
            yield from rows.tolist()


def _is_binary(file: RecordFile) -> bool:
    """Return whether all labels are 0 or 1; `file` has the same number of them everywhere."""
    width = int(file.record_headers["flag"][0])
    for begin in range(0, len(file), _AT_ONCE):
        numbers = np.arange(begin, min(begin + _AT_ONCE, len(file)))
        rows: FloatArray = file.record_label_rows(width, numbers)
        if not np.isin(rows, (0, 1)).all():
            return False
    return True
