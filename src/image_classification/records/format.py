"""The bytes of a record file: how a record is framed, and what an image record holds.

A record file is a run of parts, each at a multiple of 4 bytes; all integers little-endian
(dmlc-core, `include/dmlc/recordio.h`; `spec/recordio-im2rec.md` 1.1):

    offset 0      uint32  magic 0xCED7230A
    offset 4      uint32  top 3 bits: kind of part; low 29 bits: n, the payload bytes of this part
    offset 8      n bytes payload
    offset 8 + n          0 to 3 zero bytes up to the next multiple of 4

Kinds: 0 a whole record; 1, 2, 3 the first, middle and last part of a record whose payload held the
magic at a multiple of 4. The magic is dropped there, so an aligned magic always starts a part.

An image record's payload is (mxnet `python/mxnet/recordio.py`, `pack`):

    offset 0      uint32  flag: 0, or the number k of labels that follow the header
    offset 4      float32 label if flag is 0, else 0.0
    offset 8      uint64  id: the image id of the list
    offset 16     uint64  id2: high half of a 128-bit id, 0 in practice
    offset 24     float32 k labels
    offset 24+4k  bytes   the encoded image file

No image size, file name, class name or checksum.
"""

import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from image_classification.errors import LFS_CURE, LFS_POINTER, RecordError

RECORD_MAGIC = 0xCED7230A
MAGIC_BYTES = RECORD_MAGIC.to_bytes(4, "little")
PART_HEADER = struct.Struct("<II")
LENGTH_BITS = 29
LENGTH_MASK = (1 << LENGTH_BITS) - 1
WHOLE, FIRST, MIDDLE, LAST = range(4)

MAX_RECORD_BYTES = LENGTH_MASK
IMAGE_HEADER = struct.Struct("<IfQQ")
IMAGE_HEADER_TYPE = np.dtype([("flag", "<u4"), ("label", "<f4"), ("id", "<u8"), ("id2", "<u8")])

REMEDY = (
    "copy the file again, pack it again, or save what is left with "
    "inspect --on-damage resync --salvage NEW.rec"
)

Mapped = mmap.mmap | bytes
"""A mapped file; `bytes` if it is empty, because an empty file cannot be mapped."""

_STAND_INS = {
    b"version https://git-lfs": f"{LFS_POINTER}: {LFS_CURE}",
    b"/annex/objects/": "a git-annex pointer, not the file itself: run git annex get .",
    b"<!DOCTYPE": "an HTML page, such as of a failed download: get the file again",
    b"<html": "an HTML page, such as of a failed download: get the file again",
    b"<?xml": "an XML text, such as of a failed download: get the file again",
}
_ARCHIVES = {
    b"\x1f\x8b\x08": "compressed with gzip: decompress it (gunzip)",
    b"PK\3\4": "a ZIP archive: unpack it (python -m zipfile -e FILE.zip FOLDER)",
}


def map_file(path: Path, *, is_record_file: bool = False) -> Mapped:
    """Map a file for reading; empty bytes for an empty file.

    Args:
        path: of the file.
        is_record_file: whether archives are refused too; other formats can begin as one does.

    Raises:
        RecordError: the file cannot be read, or is a pointer to the file or a page about it.
    """
    try:
        with path.open("rb") as file:
            head = file.read(64)
            for mark, cure in (_STAND_INS | (_ARCHIVES if is_record_file else {})).items():
                if head.startswith(mark):
                    raise RecordError(f"{path}: {cure}")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if head else b""
    except OSError as error:
        what = "record file" if is_record_file else "file"
        raise RecordError(f"{path}: the {what} cannot be read: {error.strerror}") from error


Span = tuple[int, int]
"""Where bytes begin in a file, and where they end or how many they are."""


class PartDamage(Exception):
    """A part breaks the format at byte `position`; the caller adds file and record number."""

    def __init__(self, position: int, what: str) -> None:
        super().__init__(what)
        self.position = position

    def named(self, path: Path, record: int) -> RecordError:
        """The error for the user, with file and record number."""
        before = f"the {record} records before it are sound" if record else "is it a record file?"
        return RecordError(
            f"{path}: damaged at byte {self.position}, record {record}: {self}; {before}; {REMEDY}"
        )


@dataclass(frozen=True)
class RecordHeader:
    """What precedes the image in a record.

    Attributes:
        label: one number (written with flag 0), or a tuple (written with its length as flag; an
            empty one reads back as 0.0, as in MXNet). Stored as float32, so whole numbers above
            16,777,216 are rounded.
        id: image id, 0 to 2**64 − 1.
        id2: high half of a 128-bit id.
    """

    label: float | tuple[float, ...]
    id: int = 0
    id2: int = 0

    @property
    def labels(self) -> tuple[float, ...]:
        """All labels as a tuple, even a single one."""
        return self.label if isinstance(self.label, tuple) else (self.label,)


@dataclass(frozen=True)
class ImageRecord:
    """An unpacked record: its header and the encoded image file as it was stored."""

    header: RecordHeader
    content: bytes


def pack_image_record(header: RecordHeader, content: bytes) -> bytes:
    """Pack header, labels and image into one payload.

    Raises:
        RecordError: an id outside 0 to 2**64 − 1, or a label outside float32.
    """
    labels = header.label if isinstance(header.label, Sequence) else ()
    single = header.label if not isinstance(header.label, Sequence) else 0.0
    try:
        head = IMAGE_HEADER.pack(len(labels), single, header.id, header.id2)
        return head + struct.pack(f"<{len(labels)}f", *labels) + content
    except (struct.error, OverflowError) as error:
        raise RecordError(
            f"expected an id from 0 to 2**64 − 1 and labels within float32, got "
            f"{header!s:.200}: {error}"
        ) from error


def unpack_image_record(record: Mapped, begin: int = 0, end: int | None = None) -> ImageRecord:
    """Unpack the image record in `record[begin:end]`, copying only the image.

    Raises:
        RecordError: shorter than its header and labels; the caller adds file and record number.
    """
    end = len(record) if end is None else end
    if end - begin < IMAGE_HEADER.size:
        raise RecordError(f"expected an image record of 24 bytes or more, got {end - begin} bytes")
    flag, label, id_, id2 = IMAGE_HEADER.unpack_from(record, begin)
    after_header = begin + IMAGE_HEADER.size
    content = after_header + 4 * flag
    if content > end:
        raise RecordError(
            f"expected {flag} labels ({4 * flag} bytes) after the header, "
            f"got {end - after_header} bytes"
        )
    labels = struct.unpack_from(f"<{flag}f", record, after_header) if flag else label
    return ImageRecord(RecordHeader(labels, id_, id2), record[content:end])


def frame_parts(payload: bytes) -> tuple[bytes, bytes, bytes]:
    """Frame one record for a file, as three pieces: parts with headers and padding.

    The payload is cut at every magic that starts at a multiple of 4; the magic itself is dropped.
    If there is none, the middle piece is `payload` itself, which saves a copy.

    Raises:
        RecordError: 2**29 bytes or more.
    """
    if len(payload) > MAX_RECORD_BYTES:
        raise RecordError(
            f"expected a record below 2**29 bytes (512 MiB), got {len(payload)} bytes; "
            "make the image smaller (--resize)"
        )
    words = np.frombuffer(payload, "<u4", len(payload) // 4)
    if not (words == RECORD_MAGIC).any():  # 4 µs for 64 KB, where `find` takes 30
        return PART_HEADER.pack(RECORD_MAGIC, len(payload)), payload, b"\0" * (-len(payload) % 4)
    return b"", _frame_cut(payload), b""


def _frame_cut(payload: bytes) -> bytes:
    """The parts of a payload that holds the magic at a multiple of 4."""
    pieces, begin, found = [], 0, payload.find(MAGIC_BYTES)
    while found >= 0:
        if found % 4 == 0:
            pieces.append(payload[begin:found])
            begin = found + 4
        found = payload.find(MAGIC_BYTES, max(found + 1, begin))
    padding = b"\0" * (-(len(payload) - begin) % 4)
    pieces.append(payload[begin:])
    kinds = [FIRST, *[MIDDLE] * (len(pieces) - 2), LAST]
    parts = [
        PART_HEADER.pack(RECORD_MAGIC, kind << LENGTH_BITS | len(piece)) + piece
        for kind, piece in zip(kinds, pieces, strict=True)
    ]
    return b"".join(parts) + padding


def follow_record(mapped: Mapped, start: int) -> list[tuple[int, int]]:
    """Return the payload ranges (begin, end) of the record at byte `start`, one per part.

    The padding of the last part is not checked, so it may be missing at the end of the file.

    Raises:
        PartDamage: not a record start, cut off, or parts in the wrong order.
    """
    ranges: list[tuple[int, int]] = []
    position = start
    while True:
        kind, begin, end = _read_part(mapped, position)
        expected = (WHOLE, FIRST) if not ranges else (MIDDLE, LAST)
        if kind not in expected:
            raise PartDamage(
                position,
                f"expected a part of kind {expected[0]} or {expected[1]}, got kind {kind}",
            )
        ranges.append((begin, end))
        if kind in (WHOLE, LAST):
            return ranges
        position = padded(end)
        if position >= len(mapped):
            raise PartDamage(position, "the file ends before the last part of this record")


def read_stream(stream: BinaryIO, name: str) -> Iterator[bytes]:
    """Yield the payload of every record, to the end of a stream that cannot seek.

    Raises (while iterating):
        RecordError: broken framing, or the stream ends inside a record; with byte and record.
    """
    position = number = 0
    pieces: list[bytes] = []
    while head := stream.read(PART_HEADER.size):
        where = f"{name}: damaged at byte {position}, record {number}"
        if len(head) < PART_HEADER.size:
            raise RecordError(f"{where}: the stream ends inside a record's header")
        magic, word = PART_HEADER.unpack(head)
        if magic != RECORD_MAGIC:
            raise RecordError(
                f"{where}: expected the magic {MAGIC_BYTES.hex()}, got {head[:4].hex()}: the "
                "stream must contain RecordIO records"
            )
        kind, length = word >> LENGTH_BITS, word & LENGTH_MASK
        if kind not in ((MIDDLE, LAST) if pieces else (WHOLE, FIRST)):
            raise RecordError(f"{where}: a part of kind {kind} is out of order")
        piece = stream.read(length)
        if len(piece) < length:
            raise RecordError(f"{where}: expected {length} bytes, got {len(piece)} to the end")
        position += len(head) + length + len(stream.read(-length % 4))
        pieces.append(piece)
        if kind in (WHOLE, LAST):
            yield MAGIC_BYTES.join(pieces)
            pieces, number = [], number + 1
    if pieces:
        raise RecordError(f"{name}: the stream ends before the last part of record {number}")


def _read_part(mapped: Mapped, position: int) -> tuple[int, int, int]:
    """Kind, begin and end of the payload of the part at `position`."""
    left = len(mapped) - position
    if position < 0 or left < PART_HEADER.size:
        raise PartDamage(
            position, f"expected a part header of 8 bytes, got {max(left, 0)} bytes to the end"
        )
    magic, word = PART_HEADER.unpack_from(mapped, position)
    if magic != RECORD_MAGIC:
        raise PartDamage(
            position,
            f"expected the magic {MAGIC_BYTES.hex()}, got {magic.to_bytes(4, 'little').hex()}",
        )
    length = word & LENGTH_MASK
    begin = position + PART_HEADER.size
    if begin + length > len(mapped):
        raise PartDamage(
            position,
            f"expected {length} bytes of payload, got {left - PART_HEADER.size} to the end",
        )
    return word >> LENGTH_BITS, begin, begin + length


def padded(position: int) -> int:
    """`position` rounded up to a multiple of 4."""
    return (position + 3) & ~3
