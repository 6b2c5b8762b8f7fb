"""The segments of a JPEG before its pixels: size, orientation, metadata.

Source: ITU-T T.81 annex B.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from image_classification.data.image_header import MAX_PARTS, ImageHeader
from image_classification.data.orientation import EXIF_PREFIX, UPRIGHT, read_orientation
from image_classification.errors import ImageDamagedError, ImageFormatError

_BARE_MARKERS = frozenset((0x01, *range(0xD0, 0xD9)))  # no length follows
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN, _END = 0xDA, 0xD9
_EXIF, _ADOBE = 0xE1, 0xEE
_METADATA = frozenset((*range(0xE0, 0xF0), 0xFE)) - {_ADOBE}  # Adobe: colour transform


def jpeg_without_metadata(data: bytes) -> bytes:
    """The file without EXIF, profiles and comments."""
    parts = [b"\xff\xd8"]
    for marker, start, end in _segments(data):
        if marker == _SCAN:
            parts.append(data[start:])
        elif marker not in _METADATA:
            parts.append(data[start:end])
    return b"".join(parts)


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start (at its 0xFF) and end of every segment up to the first scan or the end.

    Junk between segments is skipped, as every decoder does.
    """
    position = 2
    for _ in range(MAX_PARTS):
        position = data.find(b"\xff", position)
        if position < 0 or position + 4 > len(data):
            return
        marker = data[position + 1]
        if marker in (0x00, 0xFF):  # an escaped byte in junk; a fill byte
            position += 1
        elif marker in _BARE_MARKERS:
            position += 2
        elif marker == _END:
            return
        else:
            end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
            yield marker, position, end
            if marker == _SCAN:
                return
            position = end
    raise ImageDamagedError(f"this JPEG has more than {MAX_PARTS} segments before its pixels")


def read_jpeg_header(data: bytes) -> ImageHeader:
    """Size and orientation; struct.error where the file is cut off within its frame header."""
    frame: tuple[int, int, int, int, int] | None = None
    orientation = None
    for marker, start, end in _segments(data):
        if marker in _FRAME_MARKERS and frame is None:
            frame = (marker, *struct.unpack_from(">BHHB", data, start + 4))
        elif marker == _EXIF and orientation is None:
            content = data[start + 4 : end]
            if content.startswith(EXIF_PREFIX):
                orientation = read_orientation(content)
    if frame is None:
        raise ImageDamagedError(f"this JPEG ({len(data)} bytes) has no frame header")
    marker, bit_depth, height, width, channels = frame
    if bit_depth != 8:
        raise ImageFormatError(f"expected a JPEG of 8 bits a channel, got {bit_depth} bits")
    return ImageHeader(
        "JPEG", width, height, orientation or UPRIGHT, channels, bit_depth, marker == 0xC2
    )
