"""Record files (`.rec`, `.idx`) as MXNet writes them, read from a memory map.

In: a file. Out: payload bytes, or image records (header, labels, encoded image). `records.format`
has the byte layout, `records.scan` finds the records, `records.writer` writes them.
"""

from __future__ import annotations

import logging
import mmap
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np

from image_classification.errors import RecordError
from image_classification.records import format as fmt
from image_classification.records.scan import Damage, locate_records
from image_classification.samples import Array, BoolArray, FloatArray, IntArray, StructuredArray

_log = logging.getLogger(__name__)


class RecordFile:
    """Random access to the records of one file; `read` may be called from several threads.

    The record file is the truth and the index only a shortcut. If the index next to the file
    (`x.idx` for `x.rec`) does not name exactly its records (stale, damaged, empty, incomplete), a
    warning reports it and the file is scanned; one given as `index` must be right. Records are
    numbered in file order, as in ImageRecordIter. Opening reads every part header once (about
    0.3 µs per record in the page cache), so damage is found here and not in mid-training.

    Args:
        path: the `.rec` file.
        index: its index; None uses the one next to the file, if there is one.
        resync: skip damage with a warning instead of raising, also image records whose header does
            not fit.

    Attributes:
        offsets: int64 (records,), byte offset of each record, ascending.
        keys: uint64 (records,), the keys of the index; None if it was not used.
        index_path: the index that was found, or None.
        index_problem: why it was not used, or None.
        damages: what `resync` skipped, in file order.

    Raises:
        RecordError: the file cannot be read or is damaged, or a given index is wrong.
    """

    def __init__(self, path: Path, index: Path | None = None, *, resync: bool = False) -> None:
        self.path = path
        self._map = fmt.map_file(path, is_record_file=True)
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
        """Leave out records with a damaged image header, unless no record is an image record."""
        fits = self.fitting_headers()
        if fits.all() or not fits.any():
            return
        ends = np.append(self.offsets[1:], fmt.padded(self.end_of_last_record()))
        for number in np.flatnonzero(~fits).tolist():
            start, sound = int(self.offsets[number]), int(np.count_nonzero(fits[:number]))
            reason = "its image header announces more than the record holds"
            self.damages.append(Damage(start, sound, int(ends[number]) - start, reason))
            _log.warning("%s: record at byte %d is left out: %s", self.path, start, reason)
        self.damages.sort(key=lambda damage: damage.position)
        self.offsets = self.offsets[fits]
        self.keys = None if self.keys is None else self.keys[fits]

    def fitting_headers(self) -> BoolArray:
        """bool (records,): whether a record holds an image header and all its labels."""
        sizes = self.record_sizes()
        long = np.flatnonzero(sizes >= fmt.IMAGE_HEADER.size)
        flags = np.zeros(len(sizes), np.int64)
        flags[long] = self._words[self.offsets[long] // 4 + 2]
        for number in set(self._records_in_parts()).intersection(long.tolist()):
            flags[number] = int.from_bytes(self.read(number)[:4], "little")
        fits: BoolArray = sizes >= fmt.IMAGE_HEADER.size + 4 * flags
        return fits

    def __len__(self) -> int:
        return len(self.offsets)

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the map; reading afterward raises a ValueError."""
        self.__dict__.pop("_words", None)
        if isinstance(self._map, mmap.mmap):
            with suppress(BufferError):  # a thread is gathering headers; its view releases it
                self._map.close()

    def read(self, number: int) -> bytes:
        """The payload of record `number`, 0 to len − 1."""
        begin, end = self._payload_range(number)
        if begin:
            return self._map[begin:end]
        try:
            ranges = fmt.follow_record(self._map, int(self.offsets[number]))
        except fmt.PartDamage as damage:  # the file was changed after it was opened
            raise damage.named(self.path, number) from None
        return fmt.MAGIC_BYTES.join(self._map[begin:end] for begin, end in ranges)

    def read_image(self, number: int) -> fmt.ImageRecord:
        """Record `number` as an image record; a RecordError names file, offset and record."""
        begin, end = self._payload_range(number)
        try:
            if begin:
                return fmt.unpack_image_record(self._map, begin, end)
            return fmt.unpack_image_record(self.read(number))
        except RecordError as error:
            where = f"{self.path}: record {number} at byte {self.offsets[number]}"
            raise RecordError(f"{where}: {error}") from error

    def _payload_range(self, number: int) -> tuple[int, int]:
        """Begin and end of the payload of a record of one part; (0, 0) for several parts."""
        start = int(self.offsets[number])
        word: int = fmt.PART_HEADER.unpack_from(self._map, start)[1]
        begin = start + fmt.PART_HEADER.size
        return (begin, begin + word) if word <= fmt.LENGTH_MASK else (0, 0)

    def end_of_last_record(self) -> int:
        """The byte after the payload of the last record, before its padding; 0 without records."""
        if not len(self):
            return 0
        return fmt.follow_record(self._map, int(self.offsets[-1]))[-1][1]

    def record_sizes(self) -> IntArray:
        """int64 (records,): payload bytes of each record."""
        heads = self._words[self.offsets // 4 + 1].astype(np.int64)
        sizes: IntArray = heads & fmt.LENGTH_MASK
        for number in np.flatnonzero(heads >> fmt.LENGTH_BITS != fmt.WHOLE).tolist():
            sizes[number] = len(self.read(number))
        return sizes

    @cached_property
    def record_headers(self) -> StructuredArray:
        """The image headers, (records,) with the fields flag, label, id, id2, gathered at once.

        Raises:
            RecordError: a record is too short for an image header and its labels.
        """
        sizes = self.record_sizes()
        self._check_sizes(sizes, fmt.IMAGE_HEADER.size)
        first = self.offsets // 4 + 2
        words = np.empty((len(first), fmt.IMAGE_HEADER.size // 4), np.uint32)
        for column in range(words.shape[1]):  # all columns at once would take twice the memory
            words[:, column] = self._words[first + column]
        headers: StructuredArray = words.view(fmt.IMAGE_HEADER_TYPE)[:, 0]
        for number in self._records_in_parts():
            headers[number] = np.frombuffer(self.read(number), fmt.IMAGE_HEADER_TYPE, 1)[0]
        self._check_sizes(sizes, fmt.IMAGE_HEADER.size + 4 * headers["flag"].astype(np.int64))
        return headers

    def forget_headers(self) -> None:
        """Release `record_headers`, 24 bytes per record, until they are asked for again."""
        self.__dict__.pop("record_headers", None)

    def record_id(self, number: int) -> int:
        """The image id of record `number`, without gathering all headers."""
        begin, _ = self._payload_range(number)
        return int(
            fmt.IMAGE_HEADER.unpack_from(self._map if begin else self.read(number), begin)[2]
        )

    def record_labels(self) -> FloatArray:
        """float32 (records,): the first label of each record."""
        headers = self.record_headers
        labels: FloatArray = headers["label"].copy()
        several = np.flatnonzero(headers["flag"])
        first = self.offsets[several] // 4 + (fmt.PART_HEADER.size + fmt.IMAGE_HEADER.size) // 4
        labels[several] = self._words[first].view("<f4")
        for number in self._records_in_parts():
            labels[number] = self.read_image(number).header.labels[0]
        return labels

    def record_label_rows(self, width: int, numbers: IntArray | None = None) -> FloatArray:
        """float32 (records, width): the labels of records that all have `width` of them.

        Args:
            width: their number of labels; the flag of their headers.
            numbers: int64 (records,), which records; None for all.
        """
        offsets = self.offsets if numbers is None else self.offsets[numbers]
        first = offsets // 4 + (fmt.PART_HEADER.size + fmt.IMAGE_HEADER.size) // 4
        rows = self._words[first[:, np.newaxis] + np.arange(width)].view("<f4")
        kinds = self._words[offsets // 4 + 1] >> fmt.LENGTH_BITS
        for row in np.flatnonzero(kinds != fmt.WHOLE).tolist():
            number = row if numbers is None else int(numbers[row])
            rows[row] = self.read_image(number).header.labels
        return np.asarray(rows, np.float32)

    def content_sizes(self) -> IntArray:
        """int64 (records,): bytes of each image, without header and labels."""
        flags = self.record_headers["flag"].astype(np.int64)
        sizes: IntArray = self.record_sizes() - fmt.IMAGE_HEADER.size - 4 * flags
        return sizes

    @cached_property
    def _words(self) -> Array:
        """The file as uint32, without the bytes of an unfinished last word."""
        return np.frombuffer(self._map, "<u4", len(self._map) // 4)

    def _records_in_parts(self) -> list[int]:
        """Numbers of the records in several parts, which may divide their headers."""
        kinds = self._words[self.offsets // 4 + 1] >> fmt.LENGTH_BITS
        numbers: list[int] = np.flatnonzero(kinds != fmt.WHOLE).tolist()
        return numbers

    def _check_sizes(self, sizes: IntArray, least: IntArray | int) -> None:
        short = np.flatnonzero(sizes < least)
        if len(short):
            number = int(short[0])
            try:
                self.read_image(number)  # raises with the details
            except RecordError as error:
                if self.fitting_headers().any():  # damage; else these are not image records
                    raise RecordError(f"{error}; {fmt.REMEDY}") from error
                raise
