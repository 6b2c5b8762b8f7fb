"""Record files (`.rec`, `.idx`) as MXNet writes them, read from a memory map.

In: a file. Out: payload bytes, or image records (header, labels, encoded image). `record_format`
has the byte layout, `record_scan` and `record_index` find the records, `record_writer` writes them.
"""

from __future__ import annotations

import logging
import mmap
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from image_classification.errors import RecordError
from image_classification.records.format import (
    IMAGE_HEADER,
    IMAGE_HEADER_TYPE,
    LENGTH_BITS,
    LENGTH_MASK,
    MAGIC_BYTES,
    PART_HEADER,
    REMEDY,
    WHOLE,
    ImageRecord,
    Mapped,
    PartDamage,
    follow_record,
    padded,
    unpack_image_record,
)
from image_classification.records.index import find_disagreement, read_index
from image_classification.records.scan import Damage, find_records
from image_classification.records.writer import INDEX_SUFFIX
from image_classification.samples import FloatArray, IntArray

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundRecords:
    """Where the records of a file are; the fields are those of `RecordFile`."""

    offsets: IntArray
    keys: npt.NDArray[np.uint64] | None = None
    index_path: Path | None = None
    index_problem: str | None = None
    damages: list[Damage] = field(default_factory=list)


def map_file(path: Path) -> Mapped:
    """The bytes of a file; RecordError if it cannot be read."""
    try:
        with path.open("rb") as file:
            if not file.seek(0, 2):
                return b""  # an empty file cannot be mapped
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise RecordError(f"{path}: the record file cannot be read: {error.strerror}") from error


def locate_records(mapped: Mapped, path: Path, index: Path | None, *, resync: bool) -> FoundRecords:
    """Where the records are: by `index`, by the index beside the file, else by a scan.

    Args:
        mapped: the file's bytes.
        path: of the file, for messages and the index beside it.
        index: one that must be right, or None.
        resync: skip damaged places instead of raising.

    Raises:
        RecordError: the file is damaged, or a given index is wrong.
    """
    beside = path.with_suffix(INDEX_SUFFIX)
    index_path = index or (beside if beside.is_file() and beside != path else None)
    problem = None
    if index_path is not None:
        try:
            content = read_index(index_path)
            problem = find_disagreement(mapped, content.offsets)
            if problem is None:
                return FoundRecords(content.offsets, content.keys, index_path)
            problem = f"{index_path}: {problem}"
        except RecordError as error:
            if index is not None:
                raise
            problem = str(error)
        message = f"{problem}; it does not belong to {path}"
        if index is not None:
            raise RecordError(f"{message}; delete it, the file can be read without")
        _log.warning("%s; the index is ignored and the record file is scanned", message)
    offsets, damages = find_records(mapped, path, resync=resync)
    return FoundRecords(offsets, None, index_path, problem, damages)


class RecordFile:
    """Random access to the records of one file; `read` may be called from several threads.

    The record file is the truth and the index only a shortcut. An index beside the file
    (`x.idx` for `x.rec`) that does not name exactly its records (stale, damaged, empty, incomplete)
    is reported with a warning and the file is scanned; one given as `index` must be right. Records
    are numbered in file order, as ImageRecordIter does. Opening reads every part header once
    (about 0.3 µs a record in the page cache), so damage is found here and not in mid-training.

    Args:
        path: the `.rec` file.
        index: its index; without it, the one beside the file if there is one.
        resync: skip damaged places with a warning instead of raising; among image records also
            those whose image header does not fit.

    Attributes:
        offsets: int64 (records,), byte offset of each record, ascending.
        keys: uint64 (records,), the keys of the index; None where it was not used.
        index_path: the index that was found, or None.
        index_problem: why it was not used, or None.
        damages: what `resync` has skipped, in file order.

    Raises:
        RecordError: the file cannot be read or is damaged, or a given index is wrong.
    """

    def __init__(self, path: Path, index: Path | None = None, *, resync: bool = False) -> None:
        self.path = path
        self._map = map_file(path)
        try:
            found = locate_records(self._map, path, index, resync=resync)
            self.offsets, self.keys, self.damages = found.offsets, found.keys, found.damages
            self.index_path, self.index_problem = found.index_path, found.index_problem
            if resync:
                self._drop_misfits()
        except BaseException:
            self.close()
            raise

    def _drop_misfits(self) -> None:
        """Leave out records whose image header is damaged, unless none is an image record."""
        fits = self.fitting_headers()
        if fits.all() or not fits.any():
            return
        ends = np.append(self.offsets[1:], padded(self.end_of_last_record()))
        for number in np.flatnonzero(~fits).tolist():
            start, sound = int(self.offsets[number]), int(np.count_nonzero(fits[:number]))
            reason = "its image header announces more than the record holds"
            self.damages.append(Damage(start, sound, int(ends[number]) - start, reason))
            _log.warning("%s: record at byte %d is left out: %s", self.path, start, reason)
        self.damages.sort(key=lambda damage: damage.position)
        self.offsets = self.offsets[fits]
        self.keys = None if self.keys is None else self.keys[fits]

    def fitting_headers(self) -> npt.NDArray[np.bool_]:
        """bool (records,), whether a record holds an image header and the labels it announces."""
        sizes = self.record_sizes()
        long = np.flatnonzero(sizes >= IMAGE_HEADER.size)
        flags = np.zeros(len(sizes), np.int64)
        flags[long] = self._words[self.offsets[long] // 4 + 2]
        for number in set(self._split_records()).intersection(long.tolist()):
            flags[number] = int.from_bytes(self.read(number)[:4], "little")
        fits: npt.NDArray[np.bool_] = sizes >= IMAGE_HEADER.size + 4 * flags
        return fits

    def __len__(self) -> int:
        return len(self.offsets)

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the map; reading afterward is a ValueError."""
        self.__dict__.pop("_words", None)
        if isinstance(self._map, mmap.mmap):
            with suppress(BufferError):  # a thread is gathering headers: goes with its view
                self._map.close()

    def read(self, number: int) -> bytes:
        """The payload of record `number`, 0 to len − 1."""
        begin, end = self._whole(number)
        if begin:
            return self._map[begin:end]
        try:
            ranges = follow_record(self._map, int(self.offsets[number]))
        except PartDamage as damage:  # the file was changed after it was opened
            raise damage.named(self.path, number) from None
        return MAGIC_BYTES.join(self._map[begin:end] for begin, end in ranges)

    def read_image(self, number: int) -> ImageRecord:
        """Record `number` as an image record; a RecordError names file, offset and record."""
        begin, end = self._whole(number)
        try:
            if begin:
                return unpack_image_record(self._map, begin, end)
            return unpack_image_record(self.read(number))
        except RecordError as error:
            place = f"{self.path}: record {number} at byte {self.offsets[number]}"
            raise RecordError(f"{place}: {error}") from error

    def _whole(self, number: int) -> tuple[int, int]:
        """Begin and end of the payload of a record in one part; (0, 0) for one in several."""
        start = int(self.offsets[number])
        word: int = PART_HEADER.unpack_from(self._map, start)[1]
        begin = start + PART_HEADER.size
        return (begin, begin + word) if word <= LENGTH_MASK else (0, 0)

    def end_of_last_record(self) -> int:
        """Byte behind the payload of the last record, its padding not counted; 0 without any."""
        if not len(self):
            return 0
        return follow_record(self._map, int(self.offsets[-1]))[-1][1]

    def record_sizes(self) -> IntArray:
        """int64 (records,), payload bytes of each record."""
        heads = self._words[self.offsets // 4 + 1].astype(np.int64)
        sizes: IntArray = heads & LENGTH_MASK
        for number in np.flatnonzero(heads >> LENGTH_BITS != WHOLE).tolist():
            sizes[number] = len(self.read(number))
        return sizes

    @cached_property
    def record_headers(self) -> npt.NDArray[np.void]:
        """(records,) with the fields flag, label, id, id2: the image headers, gathered at once.

        Raises:
            RecordError: a record is too short for an image header and its labels.
        """
        sizes = self.record_sizes()
        self._check_sizes(sizes, IMAGE_HEADER.size)
        first = self.offsets // 4 + 2
        words = np.empty((len(first), IMAGE_HEADER.size // 4), np.uint32)
        for column in range(words.shape[1]):  # all places at once would take twice the memory
            words[:, column] = self._words[first + column]
        headers: npt.NDArray[np.void] = words.view(IMAGE_HEADER_TYPE)[:, 0]
        for number in self._split_records():
            headers[number] = np.frombuffer(self.read(number), IMAGE_HEADER_TYPE, 1)[0]
        self._check_sizes(sizes, IMAGE_HEADER.size + 4 * headers["flag"].astype(np.int64))
        return headers

    def forget_headers(self) -> None:
        """Release `record_headers`, 24 bytes a record, until somebody asks for them again."""
        self.__dict__.pop("record_headers", None)

    def record_id(self, number: int) -> int:
        """The image id of record `number`, without the other headers."""
        begin, _ = self._whole(number)
        return int(IMAGE_HEADER.unpack_from(self._map if begin else self.read(number), begin)[2])

    def record_labels(self) -> FloatArray:
        """float32 (records,), the first label of each record."""
        headers = self.record_headers
        labels: FloatArray = headers["label"].copy()
        several = np.flatnonzero(headers["flag"])
        places = self.offsets[several] // 4 + (PART_HEADER.size + IMAGE_HEADER.size) // 4
        labels[several] = self._words[places].view("<f4")
        for number in self._split_records():
            labels[number] = self.read_image(number).header.labels[0]
        return labels

    def record_label_rows(self, width: int) -> FloatArray:
        """float32 (records, width): the labels of records that all have `width` of them."""
        first = self.offsets // 4 + (PART_HEADER.size + IMAGE_HEADER.size) // 4
        rows = self._words[first[:, np.newaxis] + np.arange(width)].view("<f4")
        for number in self._split_records():
            rows[number] = self.read_image(number).header.labels
        return np.asarray(rows, np.float32)

    @cached_property
    def _words(self) -> npt.NDArray[Any]:
        """The file as uint32; bytes of an unfinished last word are left out."""
        return np.frombuffer(self._map, "<u4", len(self._map) // 4)

    def _split_records(self) -> list[int]:
        """Numbers of the records in several parts, whose headers may be torn apart."""
        kinds = self._words[self.offsets // 4 + 1] >> LENGTH_BITS
        numbers: list[int] = np.flatnonzero(kinds != WHOLE).tolist()
        return numbers

    def _check_sizes(self, sizes: IntArray, least: IntArray | int) -> None:
        short = np.flatnonzero(sizes < least)
        if len(short):
            number = int(short[0])
            try:
                self.read_image(number)  # raises with the details
            except RecordError as error:
                if self.fitting_headers().any():  # damage; else these are no image records
                    raise RecordError(f"{error}; {REMEDY}") from error
                raise
