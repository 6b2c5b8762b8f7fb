"""Image headers: which format, how large, which way up, without decoding a pixel.

In: the bytes of an image file. Out: an `ImageHeader`, or an error that says what came. Read here
and not by Pillow, because a limit must be checked before anything is allocated (Pillow's WebP
reader allocates the canvas when it opens a file) and because metadata must not decide whether
pixels can be read: `without_metadata` leaves only what the decoder needs.
Sources: GIF89a; RFC 9649 (WebP); BMP as in Microsoft's BITMAPINFOHEADER; `jpeg_header` and
`png_header` have theirs.
"""

from __future__ import annotations

import struct

from image_classification.data.formats import sniff
from image_classification.data.image_header import MAX_PARTS, ImageHeader
from image_classification.data.jpeg_header import jpeg_without_metadata, read_jpeg_header
from image_classification.data.orientation import UPRIGHT, read_orientation
from image_classification.data.png_header import png_without_metadata, read_png_header
from image_classification.errors import ImageDamagedError

__all__ = ["ImageHeader", "read_header", "without_metadata"]


def read_header(data: bytes) -> ImageHeader:
    """The header of an image file.

    Raises:
        ImageFormatError: not one of `formats.FORMATS`; names what came where it is known.
        ImageDamagedError: the header is cut off or impossible.
    """
    image_format = sniff(data)
    reader = {
        "JPEG": read_jpeg_header,
        "PNG": read_png_header,
        "GIF": _read_gif,
        "WEBP": _read_webp,
        "BMP": _read_bmp,
    }[image_format]
    try:
        header = reader(data)
    except (struct.error, IndexError) as error:
        raise ImageDamagedError(
            f"the header of this {image_format} is cut off: it has {len(data)} bytes"
        ) from error
    if header.width < 1 or header.height < 1:
        raise ImageDamagedError(
            f"the header of this {image_format} says {header.width} × {header.height} pixels"
        )
    return header


def without_metadata(data: bytes, header: ImageHeader) -> bytes:
    """The file with the parts that hold pixels only: no EXIF, text, profiles, further frames."""
    strip = {"JPEG": jpeg_without_metadata, "PNG": png_without_metadata}.get(header.format)
    return data if strip is None else strip(data)


def _read_gif(data: bytes) -> ImageHeader:
    """The size that holds both the logical screen and the first frame, as decoders allocate it."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + _gif_palette_bytes(flags)
    for _ in range(MAX_PARTS):
        kind = data[position]
        if kind == 0x2C:  # image descriptor
            left, top, columns, rows = struct.unpack_from("<HHHH", data, position + 1)
            return ImageHeader("GIF", max(width, left + columns), max(height, top + rows))
        if kind == 0x3B:  # trailer
            break
        position += 2 if kind == 0x21 else 1  # an extension's label, then its blocks; junk
        while kind == 0x21 and data[position]:
            position += data[position] + 1
    raise ImageDamagedError("this GIF has no frame")


def _gif_palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _read_webp(data: bytes) -> ImageHeader:
    kind = data[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
        return ImageHeader("WEBP", width, height, _webp_orientation(data))
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return ImageHeader("WEBP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return ImageHeader("WEBP", width & 0x3FFF, height & 0x3FFF)
    raise ImageDamagedError(f"this WEBP begins with a chunk {kind!r}, expected VP8, VP8L or VP8X")


def _webp_orientation(data: bytes) -> int:
    position = 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            return read_orientation(data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    return UPRIGHT


def _read_bmp(data: bytes) -> ImageHeader:
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    if header_bytes == 12:  # OS/2 1.x
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return ImageHeader("BMP", width, abs(height))  # a negative height: rows from the top
