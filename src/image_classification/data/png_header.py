"""The chunks of a PNG: size, orientation, metadata.

Source: PNG specification, third edition.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

from image_classification.data.formats import PNG_SIGNATURE
from image_classification.data.image_header import MAX_PARTS, ImageHeader
from image_classification.data.orientation import UPRIGHT, read_orientation
from image_classification.errors import ImageDamagedError

_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by colour type
_PIXEL_CHUNKS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
_MAX_PROFILE_BYTES = 1 << 20


def png_without_metadata(data: bytes) -> bytes:
    """The file without EXIF, text, profiles and further frames."""
    kept = (data[a:b] for kind, a, b in _chunks(data) if kind in _PIXEL_CHUNKS)
    return PNG_SIGNATURE + b"".join(kept)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end (length, type, content, checksum) of every chunk.

    The end of the last chunk may lie behind the end of a truncated file.
    """
    position = len(PNG_SIGNATURE)
    for _ in range(MAX_PARTS):
        if position + 8 > len(data):
            return
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind, position, position + length + 12
        position += length + 12
    raise ImageDamagedError(f"this PNG has more than {MAX_PARTS} chunks")


def read_png_header(data: bytes) -> ImageHeader:
    """Size and orientation; struct.error where the file is cut off within its header chunk."""
    if data[12:16] != b"IHDR":
        raise ImageDamagedError("this PNG does not begin with its header chunk (IHDR)")
    width, height, bit_depth, colour_type = struct.unpack_from(">IIBB", data, 16)
    if colour_type not in _CHANNELS or bit_depth not in (1, 2, 4, 8, 16):
        raise ImageDamagedError(
            f"this PNG has colour type {colour_type} with bit depth {bit_depth}, which do not exist"
        )
    return ImageHeader("PNG", width, height, _orientation(data), _CHANNELS[colour_type], bit_depth)


def _orientation(data: bytes) -> int:
    """From the chunk eXIf, else from the text chunk that ImageMagick and exiftool wrote before."""
    profile_orientation = UPRIGHT
    for kind, start, end in _chunks(data):
        if kind == b"eXIf":
            return read_orientation(data[start + 8 : end - 4])
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            text = data[start + 8 : end - 4]
            if text.startswith((b"Raw profile type exif\0", b"Raw profile type APP1\0")):
                profile_orientation = read_orientation(_raw_profile(kind, text))
    return profile_orientation


def _raw_profile(kind: bytes, text: bytes) -> bytes:
    """The bytes in `\\nexif\\n    <length>\\n<hexadecimal lines>`; empty if they cannot be read."""
    _, _, value = text.partition(b"\0")
    if kind == b"zTXt":
        try:
            value = zlib.decompressobj().decompress(value[1:], _MAX_PROFILE_BYTES)
        except zlib.error:
            return b""
    found = re.search(rb"\n(?:exif|APP1|app1)\n *\d+\n([0-9a-fA-F\s]*)", value)
    digits = re.sub(rb"\s", b"", found[1]) if found else b""
    return bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii"))
