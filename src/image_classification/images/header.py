"""Image headers: format, size and orientation, without decoding a pixel.

In: the bytes of an image file. Out: an `ImageHeader`, or an error that names the format found
instead. The first bytes tell the format, never the name. Headers are parsed here and not by Pillow
for two reasons: limits must be checked before anything is allocated (Pillow's WebP reader allocates
the canvas when it opens a file), and metadata must not decide whether pixels can be read:
`pixel_stream` leaves only what the decoder needs. An EXIF orientation that is illegal or
unreadable counts as 1, because the pixels are fine; Pillow's reader would warn (silencing that is
not thread-safe), and its `exif_transpose` raises on damaged EXIF. Sources: JPEG: ITU-T T.81, annex
B; PNG: specification, third edition; GIF89a; WebP: RFC 9649; EXIF: Exif
2.32 (CIPA DC-008), 4.6.4; for other formats see `avif`, `bitmap`, `tiff`.
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from image_classification.errors import ImageDamagedError, ImageError, ImageFormatError
from image_classification.images import foreign
from image_classification.images.avif import AvifLayout, read_avif_layout
from image_classification.images.bitmap import BitmapLayout, read_bmp_layout, read_ppm_layout
from image_classification.images.tiff import TiffLayout, read_tiff_layout

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP")  # in messages; more are decoded
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_END = b"\xff\xd9"
END_BYTES = 4096
"""Size of the end of a file that may contain its end mark; other programs append data to it."""

# Of any structure of a file: more is an attack on the loops that walk them. 32,768 chunks of 8 KiB,
# which libpng writes, hold 268 MB; walking them takes 10 ms here and 100 ms in Pillow's reader.
_MAX_PARTS = 32_768
_MAX_SEGMENTS = 4_096  # before the first scan; the largest profile takes 255, each up to 64 KiB
_MAX_JUNK = 1 << 16  # bytes between two segments
_MAX_TABLES = 1 << 16  # bytes of Huffman and quantization tables before it; a JPEG has about 1 KB
_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # by color type
_MAX_PROFILE = 1 << 16  # bytes of hexadecimal digits: the orientation is among the first
_MAX_ENTRIES = 1_000  # of an EXIF directory; the standard has about 100 tags
_NO_DIGITS = bytes(set(range(256)) - set(b"0123456789abcdefABCDEF"))
_MARKER = re.compile(rb"\xff[^\x00\xff]")  # 0xFF before a zero or another one is junk
BARE_MARKERS = frozenset((0x01, *range(0xD0, 0xD9)))  # no length follows
FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_DECODED_FRAMES = frozenset((0xC0, 0xC1, 0xC2, 0xC9, 0xCA))
_PROGRESSIVE = frozenset((0xC2, 0xCA))  # Huffman, arithmetic coding
SCAN, _END = 0xDA, 0xD9
_EXIF, _ADOBE = 0xE1, 0xEE
JPEG_METADATA = frozenset((*range(0xE0, 0xF0), 0xFE)) - {_ADOBE}  # Adobe: color transform
UPRIGHT = 1  # EXIF orientation
_CHUNK = struct.Struct(">I4s")
_GRAPHIC_CONTROL = b"\xf9\x04"  # one block of 4 bytes
_MAX_GIF_BLOCKS = 131_072  # 33 MB in blocks of 255 bytes; XMP, as text, has shorter ones
_EXIF_PREFIX = b"Exif\0\0"
_ORIENTATION_TAG = 0x0112
_VALUE_FORMATS = {1: "B", 3: "H", 4: "I"}  # TIFF types BYTE, SHORT (the legal one), LONG
_ENTRY_BYTES = 12
_LAYOUTS: dict[str, Callable[[bytes], AvifLayout | BitmapLayout | TiffLayout]] = {
    "AVIF": read_avif_layout,
    "BMP": read_bmp_layout,
    "PPM": read_ppm_layout,
    "TIFF": read_tiff_layout,
}


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says about itself.

    Attributes:
        format: one of `FORMATS`, TIFF, AVIF or PPM.
        width, height: pixels as stored, each at least 1; see `upright_size`.
        orientation: EXIF orientation, 1 to 8.
        channels: 1 gray, 2 gray and alpha, 3 color or palette, 4 with alpha or CMYK.
        bit_depth: bits of one channel (or palette index).
        is_progressive: a JPEG of several scans over the whole image.
        frame: byte offset of a JPEG's frame header or of a GIF's first image descriptor, else 0.
        scan: byte offset of a JPEG's first scan header, else 0.
        control: byte offset of the graphic control extension of a GIF's first frame, else 0.
    """

    format: str
    width: int
    height: int
    orientation: int = UPRIGHT
    channels: int = 3
    bit_depth: int = 8
    is_progressive: bool = False
    frame: int = field(default=0, compare=False)
    scan: int = field(default=0, compare=False)
    control: int = field(default=0, compare=False)

    @property
    def is_transposed(self) -> bool:
        """Whether turning the image upright swaps width and height."""
        return self.orientation >= 5

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) in pixels after the orientation is applied."""
        return (self.width, self.height) if self.is_transposed else (self.height, self.width)


def read_header(data: bytes) -> ImageHeader:
    """Read the header of an image file.

    Raises:
        ImageFormatError: another format, or a form of one that is not decoded; names it.
        ImageDamagedError: the header is cut off or impossible.
    """
    image_format = sniff(data)
    reader = {
        "JPEG": _read_jpeg,
        "PNG": _read_png,
        "GIF": _read_gif,
        "WEBP": _read_webp,
    }.get(image_format)
    try:
        header = reader(data) if reader else _read_layout(data, image_format)
    except (struct.error, IndexError) as error:
        raise ImageDamagedError(
            f"the header of this {image_format} is cut off: it has {len(data)} bytes"
        ) from error
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # nobody foresaw it: the fault of this image alone
        raise ImageDamagedError(
            f"the header of this {image_format} ({len(data)} bytes) cannot be read: "
            f"{type(error).__name__}: {error}; save the image again"
        ) from error
    if header.width < 1 or header.height < 1:
        raise ImageDamagedError(
            f"the header of this {image_format} says {header.width} × {header.height} pixels, "
            "expected at least 1 × 1"
        )
    return header


def sniff(data: bytes) -> str:
    """Return the format of `data`; an ImageFormatError names one that is not accepted."""
    found = None
    if data.startswith(b"\xff\xd8"):
        found = "JPEG"
    elif data.startswith(PNG_SIGNATURE):
        found = "PNG"
    elif data[:6] in (b"GIF87a", b"GIF89a"):
        found = "GIF"
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        found = "WEBP"
    elif data.startswith(b"BM"):
        found = "BMP"
    named = None if found else foreign.name_foreign(data)
    if named and (decoded := foreign.decoded_format(named)):
        return decoded
    if found and (found not in ("JPEG", "PNG") or b"\0" not in data[:END_BYTES]):
        named = foreign.altered_on_the_way(data, found)
    if named or not found:
        raise ImageFormatError(f"expected an image ({', '.join(FORMATS)}), got {named}")
    return found


def has_end_mark(data: bytes, image_format: str) -> bool:
    """Whether a JPEG or PNG ends as it should; True for other formats, which have no mark."""
    mark = {"JPEG": JPEG_END, "PNG": b"IEND"}.get(image_format, b"")
    return mark in data[-END_BYTES:]


def _read_jpeg(data: bytes) -> ImageHeader:
    frame = scan = tables = 0
    orientation = None
    for marker, start, end in jpeg_segments(data):
        if marker in FRAME_MARKERS and not frame:
            frame = start
        elif marker == SCAN:
            scan = start
        elif marker == _EXIF and orientation is None:
            content = data[start + 4 : end]
            if content.startswith(_EXIF_PREFIX):
                orientation = _read_orientation(content)
        elif marker not in JPEG_METADATA:
            tables += end - start
    if not frame:
        raise ImageDamagedError(f"this JPEG ({len(data)} bytes) has no frame header")
    if not scan:
        raise ImageDamagedError(
            f"this JPEG ({len(data)} bytes) is truncated or corrupt: it ends before its first scan"
        )
    if tables > _MAX_TABLES:
        raise ImageDamagedError(
            f"expected at most {_MAX_TABLES} bytes of tables before the pixels of a JPEG, got "
            f"{tables}"
        )
    marker = data[frame + 1]
    bit_depth, height, width, channels = struct.unpack_from(">BHHB", data, frame + 4)
    if marker not in _DECODED_FRAMES:
        raise ImageFormatError(
            "expected a baseline, extended or progressive JPEG, got a lossless or hierarchical one "
            f"(frame SOF{marker & 15})"
        )
    if bit_depth != 8:
        raise ImageFormatError(f"expected a JPEG of 8 bits per channel, got {bit_depth} bits")
    return ImageHeader(
        "JPEG",
        width,
        height,
        orientation or UPRIGHT,
        channels,
        bit_depth,
        is_progressive=marker in _PROGRESSIVE,
        frame=frame,
        scan=scan,
    )


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start (at its 0xFF) and end of every segment up to the first scan or the end.

    Junk between segments is skipped, as every decoder does, up to 64 KiB of it.

    Raises:
        ImageDamagedError: there are too many, or more junk: a decoder would read on.
    """
    position = 2
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(data, position, position + _MAX_JUNK)
        if found is None and position + _MAX_JUNK < len(data):
            raise ImageDamagedError(
                f"expected the next segment of a JPEG within {_MAX_JUNK} bytes, got only other "
                f"bytes from byte {position} on"
            )
        if found is None or found.end() + 2 > len(data):
            return
        marker, position = data[found.end() - 1], found.start()
        if marker in BARE_MARKERS:
            position += 2
        elif marker == _END:
            return
        else:
            end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
            yield marker, position, end
            if marker == SCAN:
                return
            position = end
    raise ImageDamagedError(
        f"expected at most {_MAX_SEGMENTS} segments before the pixels of a JPEG, got more"
    )


def _read_png(data: bytes) -> ImageHeader:
    if data[12:16] != b"IHDR":
        raise ImageDamagedError("this PNG does not begin with its header chunk (IHDR)")
    width, height, bit_depth, color_type = struct.unpack_from(">IIBB", data, 16)
    if color_type not in _CHANNELS or bit_depth not in (1, 2, 4, 8, 16):
        raise ImageDamagedError(
            f"this PNG has color type {color_type} with bit depth {bit_depth}, a combination that "
            "PNG does not have"
        )
    return ImageHeader(
        "PNG", width, height, _png_orientation(data), _CHANNELS[color_type], bit_depth
    )


def _png_orientation(data: bytes) -> int:
    """From the chunk eXIf, or else from the first text chunk of older ImageMagick and exiftool."""
    profile: bytes | None = None
    for kind, start, end in png_chunks(data):
        if kind == b"eXIf":
            return _read_orientation(data[start + 8 : end - 4])
        if profile is None and kind in (b"tEXt", b"zTXt", b"iTXt"):
            if data.startswith((b"Raw profile type exif\0", b"Raw profile type APP1\0"), start + 8):
                profile = _raw_profile(kind, data[start + 8 : min(end - 4, start + _MAX_PROFILE)])
    return UPRIGHT if profile is None else _read_orientation(profile)


def _raw_profile(kind: bytes, text: bytes) -> bytes:
    """The bytes in `\\nexif\\n    <length>\\n<hexadecimal lines>`; empty if they cannot be read."""
    value = text.partition(b"\0")[2]
    if kind == b"zTXt":
        try:
            value = zlib.decompressobj().decompress(value[1:], _MAX_PROFILE)
        except zlib.error:
            return b""
    for name in (b"\nexif\n", b"\nAPP1\n", b"\napp1\n"):
        _, found, rest = value.partition(name)
        if found:
            length, _, digits = rest.lstrip(b" ")[:_MAX_PROFILE].partition(b"\n")
            digits = digits.translate(None, _NO_DIGITS) if length.isdigit() else b""
            return bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii"))
    return b""


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end (length, type, content, checksum) of every chunk.

    The last chunk of a truncated file may end after the file does.

    Raises:
        ImageDamagedError: there are too many.
    """
    position = len(PNG_SIGNATURE)
    for _ in range(_MAX_PARTS):
        if position + 8 > len(data):
            return
        length, kind = _CHUNK.unpack_from(data, position)
        yield kind, position, position + length + 12
        position += length + 12
    raise ImageDamagedError(f"expected at most {_MAX_PARTS} chunks in a PNG, got more")


def _read_gif(data: bytes) -> ImageHeader:
    """The size that holds both the logical screen and the first frame, as decoders allocate it."""
    width, height = struct.unpack_from("<HH", data, 6)
    position, control, is_extension = gif_palette_end(data), 0, False
    for _ in range(_MAX_GIF_BLOCKS):
        kind = data[position]
        if is_extension:  # its blocks, each a length and as many bytes, up to an empty one
            is_extension = kind > 0
            position += kind + 1
        elif kind == 0x2C:  # image descriptor
            left, top, columns, rows = struct.unpack_from("<HHHH", data, position + 1)
            size = max(width, left + columns), max(height, top + rows)
            return ImageHeader("GIF", *size, frame=position, control=control)
        elif kind == 0x21:
            if data.startswith(_GRAPHIC_CONTROL, position + 1) and not data[position + 7]:
                control = position
            is_extension = True
            position += 2
        elif kind == 0x3B:  # trailer
            raise ImageDamagedError("this GIF has no frame")
        else:
            position += 1  # junk
    raise ImageDamagedError(
        f"expected at most {_MAX_GIF_BLOCKS} blocks before the first frame of a GIF, got more"
    )


def gif_palette_end(data: bytes) -> int:
    """The byte offset after the header of a GIF and its global palette."""
    flags = data[10]
    return 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)


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
    for _ in range(_MAX_PARTS):
        if position + 8 > len(data):
            return UPRIGHT
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"EXIF":
            return _read_orientation(data[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    raise ImageDamagedError(f"expected at most {_MAX_PARTS} chunks in a WEBP, got more")


def _read_layout(data: bytes, image_format: str) -> ImageHeader:
    layout = _LAYOUTS[image_format](data)
    if layout.refusal:
        named = f"a{'n' * (image_format == 'AVIF')} {image_format} {layout.refusal}"
        named += f": {foreign.CONVERT}"
        raise ImageFormatError(f"expected an image ({', '.join(FORMATS)}), got {named}")
    found = layout.width, layout.height, layout.orientation, layout.channels, layout.bit_depth
    return ImageHeader(image_format, *found)


def _read_orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, in `exif` (its `Exif\\0\\0` prefix may be missing); else 1."""
    tiff = exif[len(_EXIF_PREFIX) :] if exif.startswith(_EXIF_PREFIX) else exif
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return UPRIGHT
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, directory)
        for entry in range(min(entries, _MAX_ENTRIES)):
            start = directory + 2 + entry * _ENTRY_BYTES
            tag, kind, count = struct.unpack_from(order + "HHI", tiff, start)
            if tag == _ORIENTATION_TAG and count == 1 and kind in _VALUE_FORMATS:
                (value,) = struct.unpack_from(order + _VALUE_FORMATS[kind], tiff, start + 8)
                return int(value) if 1 <= value <= 8 else UPRIGHT
    except struct.error:  # an offset points beyond the end
        pass
    return UPRIGHT
