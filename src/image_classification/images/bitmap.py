"""Reads the layouts of bitmaps: BMP, and binary PPM (color) and PGM (gray), as GTSRB has them.

The pixels of a PPM lie in the file as they are, one byte for each value: decoding them costs no
more than the file is large. Sources: Microsoft's BITMAPINFOHEADER; the manual pages ppm(5) and
pgm(5) of Netpbm.
"""

import re
import struct
from dataclasses import dataclass

from image_classification.errors import ImageDamagedError

_HEAD_BYTES = 4096
_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_NUMBER = rb"(\d{1,9})"
_HEAD = re.compile(rb"P([56])" + _GAP + _NUMBER + _GAP + _NUMBER + _GAP + _NUMBER + rb"\s")


@dataclass(frozen=True)
class BitmapLayout:
    """What the head of the file says.

    Attributes:
        width, height: pixels.
        channels: 1 gray, 3 color or palette.
        refusal: why the file is not decoded, after "a PPM"; or "".
        orientation: EXIF's; always upright.
        bit_depth: bits of a value.
    """

    width: int
    height: int
    channels: int = 3
    refusal: str = ""
    orientation: int = 1
    bit_depth: int = 8


def read_bmp_layout(data: bytes) -> BitmapLayout:
    """Read the head of a file that begins with BM; a struct.error if it is cut off."""
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    if header_bytes == 12:  # OS/2 1.x
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return BitmapLayout(width, abs(height))  # a negative height: rows from the top


def read_ppm_layout(data: bytes) -> BitmapLayout:
    """Read the head of a file that begins with P5 or P6.

    Raises:
        ImageDamagedError: the head is cut off, or the file has fewer pixels than it says.
    """
    found = _HEAD.match(data[:_HEAD_BYTES])
    if found is None:
        raise ImageDamagedError(
            "the header of this PPM is cut off or damaged: expected width, height and maximum, got "
            f"{data[:32]!r}"
        )
    kind, width, height, maximum = (int(number) for number in found.groups())
    channels = 3 if kind == 6 else 1
    if maximum != 255:
        return BitmapLayout(width, height, channels, f"with values up to {maximum}, not 255")
    expected, there = width * height * channels, len(data) - found.end()
    if there < expected:
        raise ImageDamagedError(
            f"this PPM of {width} × {height} pixels is cut off: expected {expected} bytes of "
            f"pixels, got {there}"
        )
    return BitmapLayout(width, height, channels)
