"""Image headers: which format, how large, which way up, without decoding a pixel.

In: the bytes of an image file. Out: an `ImageHeader`, or an error that says what came. Read here
and not by Pillow, because a limit must be checked before anything is allocated (Pillow's WebP
reader allocates the canvas when it opens a file) and because metadata must not decide whether
pixels can be read: `without_metadata` leaves only what the decoder needs.
Sources: GIF89a; RFC 9649 (WebP); BMP as in Microsoft's BITMAPINFOHEADER; `jpeg_header` and
`png_header` have theirs.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from image_classification.errors import ImageDamagedError, ImageFormatError
from image_classification.images.orientation import (
    EXIF_PREFIX,
    UPRIGHT,
    is_transposed,
    read_orientation,
)

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# What else people send, so that a refusal can name it. Offset, bytes, name.
_FOREIGN = (
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypheix", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyp", "an MP4 or QuickTime file"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"%PDF", "PDF"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"PK\x03\x04", "ZIP"),
    (257, b"ustar", "tar"),
    (0, b"version https://git-lfs", "a Git LFS pointer (text), not the file itself"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "XML"),
    (0, b"<!DOCTYPE", "HTML"),
    (0, b"<html", "HTML"),
    (0, b"P1\n", "PNM"),
    (0, b"P2\n", "PNM"),
    (0, b"P3\n", "PNM"),
    (0, b"P4\n", "PNM"),
    (0, b"P5\n", "PNM"),
    (0, b"P6\n", "PNM"),
)


def sniff(data: bytes) -> str:
    """The format of `data`, one of `FORMATS`; an ImageFormatError if it is another or none."""
    if data.startswith(b"\xff\xd8"):
        return "JPEG"
    if data.startswith(PNG_SIGNATURE):
        return "PNG"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(b"BM"):
        return "BMP"
    names = (name for offset, mark, name in _FOREIGN if data.startswith(mark, offset))
    came = next(names, f"unknown bytes that begin with {data[:16]!r}") if data else "0 bytes"
    raise ImageFormatError(f"expected an image ({', '.join(FORMATS)}), got {came}")


MAX_PARTS = 100_000
"""Segments, chunks or blocks of a file: more is an attack on the loops that walk them."""


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says of itself.

    Attributes:
        format: one of `formats.FORMATS`.
        width, height: pixels as stored, each at least 1; see `upright_size`.
        orientation: EXIF orientation, 1 to 8.
        channels: 1 gray, 2 gray and alpha, 3 color or palette, 4 with alpha or CMYK.
        bit_depth: bits of one channel (or palette index).
        is_progressive: a JPEG of several scans over the whole picture.
    """

    format: str
    width: int
    height: int
    orientation: int = UPRIGHT
    channels: int = 3
    bit_depth: int = 8
    is_progressive: bool = False

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) in pixels after the orientation is applied."""
        size = (self.height, self.width)
        return (size[1], size[0]) if is_transposed(self.orientation) else size


_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by color type
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
    width, height, bit_depth, color_type = struct.unpack_from(">IIBB", data, 16)
    if color_type not in _CHANNELS or bit_depth not in (1, 2, 4, 8, 16):
        raise ImageDamagedError(
            f"this PNG has color type {color_type} with bit depth {bit_depth}, which do not exist"
        )
    return ImageHeader("PNG", width, height, _orientation(data), _CHANNELS[color_type], bit_depth)


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


_BARE_MARKERS = frozenset((0x01, *range(0xD0, 0xD9)))  # no length follows
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN, _END = 0xDA, 0xD9
_EXIF, _ADOBE = 0xE1, 0xEE
_METADATA = frozenset((*range(0xE0, 0xF0), 0xFE)) - {_ADOBE}  # Adobe: color transform


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
