"""TIFF: the layout of the first image of a file, and a copy of the file without anything else.

In: the bytes of a TIFF, which are not trusted. Out: a `TiffLayout`, which says what decoding costs
or why the file is refused; and a file for Pillow whose directory has only the tags that the pixels
need, so that no other tag is read: thousands of tags can point to the same megabytes. Source: TIFF
6.0, sections 2, 3, 8, 11 and 15.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from image_classification.errors import ImageDamagedError

SIGNATURES = (b"II*\0", b"MM\0*")

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _COLORS = 256, 257, 258, 259, 262
_FILL_ORDER, _STRIPS, _SAMPLES, _ROWS, _STRIP_BYTES = 266, 273, 277, 278, 279
_ORIENTATION, _PLANES, _PREDICTOR, _PALETTE = 274, 284, 317, 320
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES = 322, 323, 324, 325
_EXTRA_SAMPLES, _SAMPLE_FORMAT = 338, 339
_FAX_OPTIONS = (292, 293)
_KEPT = frozenset((
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _COLORS, _FILL_ORDER, _STRIPS, _SAMPLES, _ROWS,
    _STRIP_BYTES, _PLANES, _PREDICTOR, _PALETTE, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES,
    _EXTRA_SAMPLES, _SAMPLE_FORMAT, *_FAX_OPTIONS,
))  # fmt: skip
_TYPES = {1: "B", 3: "H", 4: "I"}  # BYTE, SHORT, LONG: those of the tags above
_ENTRY_BYTES = 12
_MAX_ENTRIES = 1_000  # of a directory; cameras write about 50
_MAX_VALUES = 1 << 17  # of a tag: offsets of strips or tiles, colors of a palette
_ROOM = 1 << 20  # pixels that a tile may have beyond those of the image, and bytes of a file

_FAX = (2, 3, 4)
_DECODED = {1: "none", 5: "LZW", 8: "deflate", 32946: "deflate", 32773: "PackBits"}
_NAMES = {6: "JPEG", 7: "JPEG", 34712: "JPEG 2000", 34925: "LZMA", 50000: "zstd", 50001: "WebP"}
_COLOR_NAMES = {4: "a mask", 6: "YCbCr", 8: "Lab", 32844: "LogLuv", 32845: "LogLuv"}
_BLACK_IS_ZERO, _RGB, _INDEXED, _CMYK = 1, 2, 3, 5
# Meaning of the samples → their number → bits of each.
_FORMS: dict[int, dict[int, tuple[int, ...]]] = {
    0: {1: (1, 2, 4, 8)},
    _BLACK_IS_ZERO: {1: (1, 2, 4, 8, 16), 2: (8,)},
    _RGB: {3: (8, 16), 4: (8, 16)},
    _INDEXED: {1: (1, 2, 4, 8)},
    _CMYK: {4: (8,)},
}


@dataclass(frozen=True)
class TiffLayout:
    """What the directory of the first image says.

    Attributes:
        width, height: pixels as stored; 0 if the file is refused.
        orientation: 1 to 8, as in EXIF.
        channels: samples of a pixel, 3 for a palette.
        bit_depth: bits of a sample.
        buffer_bytes: of a strip or tile, which libtiff allocates; 0 without compression.
        refusal: why the image cannot be decoded, as in `with JPEG compression`; "" if it can.
    """

    width: int = 0
    height: int = 0
    orientation: int = 1
    channels: int = 3
    bit_depth: int = 8
    buffer_bytes: int = 0
    refusal: str = ""


@dataclass(frozen=True)
class _Tag:
    kind: int
    raw: bytes
    values: tuple[int, ...]


def read_tiff_layout(data: bytes) -> TiffLayout:
    """Read the directory of the first image.

    Raises:
        ImageDamagedError: its strips or tiles contradict the size of the image or of the file.
        struct.error: the directory is cut off.
    """
    tags = _read_tags(data)
    if tags is None:
        return TiffLayout(refusal="without a readable directory")
    width, height = _one(tags, _WIDTH, 0), _one(tags, _HEIGHT, 0)
    samples, colors = _one(tags, _SAMPLES, 1), _one(tags, _COLORS, 0)
    bits = set(tags[_BITS].values) if _BITS in tags else {1}
    if refusal := _refusal(tags, samples, colors, bits):
        return TiffLayout(refusal=refusal)
    (depth,) = bits
    pixel_bits = samples * depth
    is_tiled = _TILES in tags
    columns, rows = width, min(_one(tags, _ROWS, height), height)
    if is_tiled:
        columns, rows = _one(tags, _TILE_WIDTH, 0), _one(tags, _TILE_HEIGHT, 0)
    buffer_bytes = (columns * pixel_bits + 7) // 8 * rows
    offsets = tags.get(_TILES if is_tiled else _STRIPS)
    sizes = tags.get(_TILE_BYTES if is_tiled else _STRIP_BYTES)
    if not (width and height and columns and rows and offsets and sizes):
        raise ImageDamagedError("this TIFF has no pixels: its directory names no strips or tiles")
    if columns * rows > 4 * width * height + _ROOM:
        raise ImageDamagedError(
            f"expected tiles that fit an image of {width} × {height} pixels, got {columns} × {rows}"
        )
    end = max(map(sum, zip(offsets.values, sizes.values, strict=False)))
    stored, needed = sum(sizes.values), (width * pixel_bits + 7) // 8 * height
    is_plain = _one(tags, _COMPRESSION, 1) == 1
    if end > len(data) or stored > 2 * len(data) + _ROOM or (is_plain and stored < needed):
        raise ImageDamagedError(
            f"this TIFF of {width} × {height} pixels is truncated or corrupt: its strips have "
            f"{stored} bytes and end at byte {end}, but the file has {len(data)} bytes"
        )
    orientation = _one(tags, _ORIENTATION, 1)
    return TiffLayout(
        width,
        height,
        orientation if 1 <= orientation <= 8 else 1,
        3 if colors == _INDEXED else samples,
        depth,
        0 if is_plain else buffer_bytes,
    )


def _refusal(tags: Mapping[int, _Tag], samples: int, colors: int, bits: set[int]) -> str:
    compression = _one(tags, _COMPRESSION, 1)
    if compression not in _DECODED and compression not in _FAX:
        return f"with {_NAMES.get(compression, f'the compression {compression}')} compression"
    if colors not in _FORMS:
        return f"of the color space {_COLOR_NAMES.get(colors, colors)}"
    if set(tags[_SAMPLE_FORMAT].values if _SAMPLE_FORMAT in tags else (1,)) != {1}:
        return "of signed or floating-point numbers"
    depth = min(bits)
    if len(bits) > 1 or depth not in _FORMS[colors].get(samples, ()):
        return f"of {samples} samples with {' and '.join(map(str, sorted(bits)))} bits"
    if colors == _INDEXED and _PALETTE not in tags:
        return "without its palette"
    is_fax = compression in _FAX
    if is_fax and (samples, depth) != (1, 1):
        return "with fax compression of more than 1 bit"
    if _one(tags, _PREDICTOR, 1) not in (1, 2):
        return "with a predictor for floating-point numbers"
    is_planar = _one(tags, _PLANES, 1) != 1
    if (is_planar and depth != 8) or (_one(tags, _FILL_ORDER, 1) != 1 and not is_fax):
        return "in an unusual order of bits or planes"
    return ""


def _one(tags: Mapping[int, _Tag], tag: int, default: int) -> int:
    return tags[tag].values[0] if tag in tags else default


def _read_tags(data: bytes) -> dict[int, _Tag] | None:
    """Return the tags that pixels need and the orientation; None if there are too many values."""
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    (entries,) = struct.unpack_from(order + "H", data, start)
    if entries > _MAX_ENTRIES:
        return None
    tags: dict[int, _Tag] = {}
    for entry in range(entries):
        at = start + 2 + entry * _ENTRY_BYTES
        tag, kind, count = struct.unpack_from(order + "HHI", data, at)
        if not count or (tag not in _KEPT and tag != _ORIENTATION):
            continue
        if kind not in _TYPES or count > _MAX_VALUES:
            return None
        form = f"{order}{count}{_TYPES[kind]}"
        size = struct.calcsize(form)
        if size > 4:
            (at,) = struct.unpack_from(order + "I", data, at + 8)
        else:
            at += 8
        tags[tag] = _Tag(kind, data[at : at + size], struct.unpack_from(form, data, at))
    return tags


def without_metadata(data: bytes) -> bytes:
    """Return a TIFF of the same pixels as stored, whose directory has only the tags they need."""
    tags = {tag: found for tag, found in (_read_tags(data) or {}).items() if tag in _KEPT}
    order = "<" if data.startswith(b"II") else ">"
    padding = bytes(len(data) % 2)
    start = len(data) + len(padding)
    values_at = start + 2 + _ENTRY_BYTES * len(tags) + 4
    directory, values = [struct.pack(order + "H", len(tags))], b""
    for tag in sorted(tags):
        found = tags[tag]
        field = found.raw.ljust(4, b"\0")
        if len(found.raw) > 4:
            field = struct.pack(order + "I", values_at + len(values))
            values += found.raw + bytes(len(found.raw) % 2)
        directory.append(struct.pack(order + "HHI", tag, found.kind, len(found.values)) + field)
    directory.append(bytes(4))  # no next image
    head = data[:4] + struct.pack(order + "I", start)
    return b"".join((head, memoryview(data)[8:], padding, *directory, values))
