"""Repair of record files: a new index, or a new record file of the sound records.

In: an open `RecordFile`. Out: an `.idx` with the image ids, or a `.rec` with its index, and how
much was lost.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from image_classification.errors import RecordError, UsageError
from image_classification.files import check_target, written_beside
from image_classification.records.index import INDEX_SUFFIX, read_index, write_lines
from image_classification.records.reader import RecordFile
from image_classification.records.writer import RECORD_SUFFIX, RecordWriter
from image_classification.samples import UInt64Array


@dataclass(frozen=True)
class Loss:
    """What was lost to damage.

    Attributes:
        skipped_bytes: in all damage together.
        lost_keys: keys of the old index that no sound record has, in file order; None without a
            readable index.
    """

    skipped_bytes: int
    lost_keys: tuple[int, ...] | None


def write_index(file: RecordFile, path: Path, *, numbered: bool = False) -> int:
    """Write the index of a record file and return its number of lines.

    Args:
        file: the records.
        path: the `.idx` file to write, whole or not at all.
        numbered: use 0, 1, 2, … as keys, as MXNet's rec2idx does, instead of the image ids.

    Raises:
        RecordError: the records have no image header, so no ids.
        UsageError, DataError: `path` is a record file or a folder.
    """
    check_target(path, file.path)
    if path.suffix == RECORD_SUFFIX:
        raise UsageError(
            f"{path}: expected the name of an index ({INDEX_SUFFIX}), got that of a record file"
        )
    keys: list[int] = list(range(len(file)))
    if len(file) and not numbered:
        keys = file.record_headers["id"].tolist()
    with written_beside(path) as partial, partial.open("wb") as lines:
        write_lines(lines, keys, file.offsets.tolist())
    return len(file)


def salvage(file: RecordFile, output: Path) -> int:
    """Write the sound records of `file` to a new record file with an index; return how many.

    Raises:
        UsageError: `output` is the file itself, exists, or does not end in `.rec`.
        DataError: `output` is a folder.
    """
    check_target(output, file.path)
    if output.suffix != RECORD_SUFFIX:
        raise UsageError(f"{output}: expected the name of a record file ({RECORD_SUFFIX})")
    if output.exists():
        raise UsageError(f"{output} exists: name a file that does not exist")
    keys = _keys(file)
    with RecordWriter(output) as writer:
        for number, key in enumerate(keys):
            writer.write(file.read(number), key)
    return len(file)


def _keys(file: RecordFile) -> list[int]:
    """Ids of image records; the record numbers if they are not image records."""
    try:
        ids: UInt64Array = file.record_headers["id"]
    except RecordError:
        return list(range(len(file)))
    keys: list[int] = ids.tolist()
    return keys


def measure_loss(file: RecordFile) -> Loss:
    """Measure what a resynchronized file has lost, as far as its index tells."""
    skipped = sum(damage.skipped_bytes for damage in file.damages)
    try:
        index = read_index(file.path.with_suffix(INDEX_SUFFIX))
    except RecordError:
        return Loss(skipped, None)
    lost = ~np.isin(index.offsets, file.offsets)
    if len(file) and file.fitting_headers().all():
        ids = file.record_headers["id"]
        known = dict(zip(file.offsets.tolist(), ids.tolist(), strict=True))
        pairs = zip(index.offsets.tolist(), index.keys.tolist(), strict=True)
        # The keys are ids: a record that still has its id is not lost, only its offset is wrong.
        if all(known.get(offset, key) == key for offset, key in pairs):
            lost &= ~np.isin(index.keys, ids)
    return Loss(skipped, tuple(index.keys[lost].tolist()))
