"""Where the records of a record file begin: by its index if that is right, else by a scan.

In: the mapped bytes of a `.rec` file, and its `.idx` file if there is one. Out: byte offsets, what
is wrong with the index and, on request, which damage was skipped; otherwise a `RecordError` with
file, byte offset and record number.
"""

from __future__ import annotations

import logging
from array import array
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from image_classification.errors import RecordError
from image_classification.records import format as fmt
from image_classification.records.index import INDEX_SUFFIX, read_index
from image_classification.samples import IntArray, UInt64Array

_BLOCK_BYTES = 1 << 20  # zeros at the end are searched in blocks of this size
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Damage:
    """Damage that was skipped.

    Attributes:
        position: byte offset of the damage.
        record: number of the damaged record, which is the number of sound records before it.
        skipped_bytes: from the start of the damaged record to the next record start.
        reason: what was expected and what was found.
    """

    position: int
    record: int
    skipped_bytes: int
    reason: str


@dataclass(frozen=True)
class FoundRecords:
    """Where the records of a file begin; the fields are those of `RecordFile`."""

    offsets: IntArray
    keys: UInt64Array | None = None
    index_path: Path | None = None
    index_problem: str | None = None
    damages: list[Damage] = field(default_factory=list)


def locate_records(
    mapped: fmt.Mapped, path: Path, index: Path | None, *, resync: bool
) -> FoundRecords:
    """Find the records by `index`, by the index next to the file, or else by a scan.

    Args:
        mapped: the file's bytes.
        path: of the file, for messages and the index next to it.
        index: an index that must be right, or None.
        resync: skip damage instead of raising.

    Raises:
        RecordError: the file is damaged, or a given index is wrong.
    """
    beside = path.with_suffix(INDEX_SUFFIX)
    index_path = index or (beside if beside.is_file() and beside != path else None)
    problem = None
    if index_path is not None:
        try:
            content = read_index(index_path)
            problem = _find_disagreement(mapped, content.offsets)
            if problem is None:
                return FoundRecords(content.offsets, content.keys, index_path)
            problem = f"{index_path}: {problem}"
        except RecordError as error:
            if index is not None:
                raise
            problem = str(error)
        message = f"{problem}; it does not belong to {path}"
        if index is not None:
            raise RecordError(f"{message}; delete it: the file can be read without it")
        _log.warning("%s; the index is ignored and the record file is scanned", message)
    offsets, damages = find_records(mapped, path, resync=resync)
    return FoundRecords(offsets, None, index_path, problem, damages)


def _find_disagreement(mapped: fmt.Mapped, offsets: IntArray) -> str | None:
    """Compare an index with its record file; None if it names exactly the record starts.

    `offsets` is int64 (n,), ascending. There is no loop over whole records.
    """
    size = len(mapped)
    if not len(offsets):
        return None if not size else f"it is empty, but the record file has {size} bytes"
    wrong = (offsets < 0) | (offsets % 4 != 0) | (offsets > size - fmt.PART_HEADER.size)
    if wrong.any():
        return f"its offset {offsets[wrong][0]} is not a record start in a file of {size} bytes"
    words = np.frombuffer(mapped, "<u4", size // 4)
    heads = words[offsets // 4 + 1].astype(np.int64)
    kinds = heads >> fmt.LENGTH_BITS
    wrong = (words[offsets // 4] != fmt.RECORD_MAGIC) | (kinds > fmt.FIRST)
    if wrong.any():
        return f"no record starts at its offset {offsets[wrong][0]}"
    ends = offsets + fmt.PART_HEADER.size + (heads & fmt.LENGTH_MASK)
    try:
        for number in np.flatnonzero(kinds == fmt.FIRST).tolist():
            ends[number] = fmt.follow_record(mapped, int(offsets[number]))[-1][1]
    except fmt.PartDamage as damage:
        return f"the record at byte {offsets[number]} is damaged: {damage}"
    following = (np.concatenate(([0], ends[:-1])) + 3) & ~3  # where each record must begin
    wrong = following != offsets
    if wrong.any():
        return f"it disagrees about the record at byte {following[wrong][0]}"
    if int(ends[-1]) > size or fmt.padded(int(ends[-1])) < size:
        return f"its last record ends at byte {ends[-1]}, the record file at byte {size}"
    return None


def find_records(
    mapped: fmt.Mapped, path: Path, *, resync: bool = False
) -> tuple[IntArray, list[Damage]]:
    """Find every record by hopping from part header to part header.

    Costs one read of 8 bytes and about 0.3 µs per record; payloads are not touched.

    Args:
        mapped: the record file.
        path: its name, for messages.
        resync: log damage and go on at the next sound record start instead of raising.

    Returns:
        int64 (records,), byte offset of each record's first part, ascending; and what was skipped.

    Raises:
        RecordError: damage, with file, byte offset and record number. Missing padding at the end of
            the file and zero bytes after the last record are only logged.
    """
    starts = array("q")
    damages: list[Damage] = []
    append, unpack = starts.append, fmt.PART_HEADER.unpack_from
    position, size = 0, len(mapped)
    whole_limit = 1 << fmt.LENGTH_BITS  # a length word below it is of kind 0
    while position < size:
        if position + 8 <= size:
            magic, word = unpack(mapped, position)
            end = position + 8 + word
            if magic == fmt.RECORD_MAGIC and word < whole_limit and end <= size:
                append(position)
                position = (end + 3) & ~3
                continue
        try:
            end = fmt.follow_record(mapped, position)[-1][1]
        except fmt.PartDamage as damage:
            if starts and _only_zeros(mapped, position):
                _log.warning("%s: %d zero bytes after the last record", path, size - position)
                break
            if not resync:
                raise damage.named(path, len(starts)) from None
            position = _resynchronize(mapped, path, position, damage, starts, damages)
            continue
        append(position)
        position = fmt.padded(end)
    if position > size:
        _log.warning("%s: the last record's padding of zero bytes is missing at its end", path)
    offsets = np.frombuffer(starts, np.int64).copy() if starts else np.empty(0, np.int64)
    return offsets, damages


def _resynchronize(
    mapped: fmt.Mapped,
    path: Path,
    position: int,
    damage: fmt.PartDamage,
    starts: array[int],
    damages: list[Damage],
) -> int:
    """Log the damage; return the next offset where a record may start, or the end of the file.

    A record start inside the record before the damage means that this record was cut short and has
    swallowed the next: it is dropped from `starts` and the search continues inside it.
    """
    record = len(starts)
    start = _find_record_start(mapped, position + 1)
    if starts:
        inside = _find_record_start(mapped, starts[-1] + fmt.PART_HEADER.size)
        if inside < fmt.follow_record(mapped, starts[-1])[-1][1]:
            position, start = starts.pop(), inside
    _log.warning(
        "%s: damaged at byte %d, record %d: %s; skipped %d bytes to the next record start",
        path,
        damage.position,
        record,
        damage,
        start - position,
    )
    damages.append(Damage(damage.position, record, start - position, str(damage)))
    return start


def _find_record_start(mapped: fmt.Mapped, position: int) -> int:
    """Return the first record start at or after `position`, else the size of the file.

    It is a magic at a multiple of 4 before a length word of kind 0 or 1. No payload contains an
    aligned magic, so a sound file has no false hits.
    """
    while True:
        position = mapped.find(fmt.MAGIC_BYTES, position)
        if position < 0 or position + fmt.PART_HEADER.size > len(mapped):
            return len(mapped)
        kind = fmt.PART_HEADER.unpack_from(mapped, position)[1] >> fmt.LENGTH_BITS
        if position % 4 == 0 and kind in (fmt.WHOLE, fmt.FIRST):
            return position
        position += 1


def _only_zeros(mapped: fmt.Mapped, position: int) -> bool:
    return not any(
        mapped[begin : begin + _BLOCK_BYTES].strip(b"\0")
        for begin in range(position, len(mapped), _BLOCK_BYTES)
    )
