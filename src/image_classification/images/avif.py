"""AVIF: the layout of the still image of a file, and a copy of the file without anything else.

In: the bytes of an AVIF file, which are not trusted. Out: an `AvifLayout`, which says what decoding
costs or why the file is refused; and a file for Pillow that holds only the items which that cost
counts: the primary image, the tiles of a grid and the alpha of both. So nothing else is decoded:
no sequence, gain map, thumbnail or derived image. Sources: ISO/IEC 14496-12, 8.11 (boxes of items);
ISO/IEC 23008-12, 6 (properties, grids); AV1 Image File Format 1.1.0; `av1`.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from PIL import AvifImagePlugin, features

from image_classification.errors import ImageDamagedError
from image_classification.images.av1 import CodedImage, read_coded_image
from image_classification.images.item_boxes import Boxes, Item, content_of, read_boxes, text_of

_Place = tuple[bool, tuple[tuple[int, int], ...]]  # where the bytes of an item are
CODEC = "dav1d"
"""The decoder whose cost is known; wheels of Pillow have it."""

_MAX_ITEMS = 1_024  # that are decoded; a photograph of 48 megapixels has up to 192 tiles
_MAX_UNITS = 16_384  # of AV1 data in all items
_MAX_PROPERTY = 1_024  # bytes of a property that pixels need
_MAX_SIDE = 32_768  # libavif's limit
_ROOM = 1 << 20  # bytes that items may have beyond those of the file: equal tiles share theirs
_KEPT = (b"ispe", b"pixi", b"av1C", b"colr", b"auxC", b"a1op", b"lsel", b"a1lx")
_UNDERSTOOD = frozenset((*_KEPT, b"irot", b"imir", b"clap", b"pasp", b"clli", b"mdcv", b"cclv"))
_ALPHA = (
    b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0",
    b"urn:mpeg:hevc:2015:auxid:1\0",
)
_LONG_GRID = 1  # flag: sides of 32 bits
_MOST_HELD = 9  # pictures that AV1 keeps for reference, and the next one
_STATE_BYTES = 4  # of the decoder for each pixel: 14 KB for a tile of 64 × 64, the smallest
_PLANES = 3  # of color
# EXIF orientation by (mirrored: no, top to bottom, left to right) and quarter turns to the left.
_ORIENTATIONS = {0: (1, 8, 3, 6), 1: (4, 5, 2, 7), 2: (2, 7, 4, 5)}


@dataclass(frozen=True)
class AvifLayout:
    """What the boxes and the AV1 headers of the still image say.

    Attributes:
        width, height: pixels as stored; 0 if the file is refused.
        orientation: 1 to 8, as in EXIF.
        channels: 1 gray, 3 color, 4 with alpha.
        bit_depth: bits of a sample.
        frames: AV1 frames that are decoded, of all items.
        decoded_pixels: of these frames, at most.
        coded_bytes: of these frames; tiles can share theirs.
        decoder_bytes: that the decoded planes and what describes them take at the same time.
        refusal: why the image cannot be decoded, as in `without a still image`; "" if it can.
    """

    width: int = 0
    height: int = 0
    orientation: int = 1
    channels: int = 3
    bit_depth: int = 8
    frames: int = 0
    decoded_pixels: int = 0
    coded_bytes: int = 0
    decoder_bytes: int = 0
    refusal: str = ""


@cache
def can_decode() -> bool:
    """Return whether Pillow decodes AVIF here."""
    return bool(features.check("avif")) and AvifImagePlugin.get_codec_version(CODEC) is not None


def read_avif_layout(data: bytes) -> AvifLayout:
    """Read the boxes and AV1 headers of the still image.

    Raises:
        ImageDamagedError: a box or an item is cut off, or contradicts another one.
        struct.error: a box is cut off.
    """
    boxes = read_boxes(data)
    if refusal := _refusal(data, boxes):
        return AvifLayout(refusal=refusal)
    primary = boxes.items[boxes.primary]
    width, height = _size_of(data, primary)
    if max(width, height) > _MAX_SIDE:
        return AvifLayout(refusal=f"of {width} × {height} pixels, more than {_MAX_SIDE} in a row")
    kept = _kept_items(data, boxes)
    _check_size(data, kept)
    frames = decoded = size = held = 0
    depth, is_gray = 8, True
    grids: list[tuple[int, int]] = []
    read: dict[_Place, tuple[CodedImage, int]] = {}
    for item in kept.values():
        if item.kind == b"grid":
            grids.append(_grid(data, boxes, item)[1])
            continue
        if (place := _place(item)) not in read:
            content = content_of(data, boxes, item)
            read[place] = read_coded_image(content), len(content)
            if sum(known.units for known, _ in read.values()) > _MAX_UNITS:
                raise ImageDamagedError(
                    f"expected at most {_MAX_UNITS} units of AV1 data in an AVIF, got more"
                )
        coded, content_bytes = read[place]
        frames, decoded, size = frames + coded.frames, decoded + coded.pixels, size + content_bytes
        held += coded.largest * _STATE_BYTES
        held += coded.frame_bytes * (min(coded.frames, _MOST_HELD) + coded.has_grain)
        declared = _size_of(data, item)
        if declared != (coded.width, coded.height):  # it is scaled to what the container says
            decoded += declared[0] * declared[1]
            held += declared[0] * declared[1] * _PLANES * _sample_bytes(coded.bit_depth)
        depth, is_gray = max(depth, coded.bit_depth), is_gray and coded.is_gray
    held += sum(columns * rows for columns, rows in grids) * _PLANES * _sample_bytes(depth)
    has_alpha = any(kind == b"auxl" for kind, _, _ in _kept_references(boxes, kept))
    channels = 4 if has_alpha else 1 if is_gray else 3
    orientation = _orientation(data, primary)
    return AvifLayout(width, height, orientation, channels, depth, frames, decoded, size, held)


def _place(item: Item) -> _Place:
    return item.in_file, tuple(item.spans)


def _check_size(data: bytes, kept: dict[int, Item]) -> None:
    """Refuse items that overlap: reading them would cost more than the file has."""
    size = sum(end - start for _, spans in {*map(_place, kept.values())} for start, end in spans)
    if size > 2 * len(data) + _ROOM:
        raise ImageDamagedError(
            f"this AVIF is corrupt: its images have {size} bytes, but the file has {len(data)}"
        )


def _sample_bytes(bit_depth: int) -> int:
    return 2 if bit_depth > 8 else 1


def _refusal(data: bytes, boxes: Boxes) -> str:
    primary = boxes.items.get(boxes.primary)
    if primary is None or not primary.kind:
        return "without a still image"
    if primary.kind not in (b"av01", b"grid"):
        return f"whose image is of the type {text_of(primary.kind)}"
    for item in _kept_items(data, boxes).values():
        if item.kind not in (b"av01", b"grid"):
            return f"with a tile of the type {text_of(item.kind)}"
        for is_essential, kind, _, _ in item.properties:
            if is_essential and kind not in _UNDERSTOOD:
                return f"with the property {text_of(kind)}"
    return ""


def _kept_references(
    boxes: Boxes, kept: dict[int, Item]
) -> Iterator[tuple[bytes, int, tuple[int, ...]]]:
    for kind, origin, targets in boxes.references:
        if origin in kept and all(target in kept for target in targets):
            yield kind, origin, targets


def _kept_items(data: bytes, boxes: Boxes) -> dict[int, Item]:
    """The items that are decoded: the primary one, then tiles and alpha."""
    kept = {boxes.primary: boxes.items[boxes.primary]}

    def add_tiles(number: int) -> None:
        item = boxes.items[number]
        if item.kind != b"grid":
            return
        tiles = [t for kind, a, b in boxes.references if (kind, a) == (b"dimg", number) for t in b]
        count = _grid(data, boxes, item)[0]
        if len(tiles) != count or len(set(tiles)) != count or not set(tiles) <= set(boxes.items):
            raise ImageDamagedError(
                f"this AVIF contradicts itself: a grid of {count} tiles has {len(set(tiles))}"
            )
        if any(tile in kept or boxes.items[tile].kind == b"grid" for tile in tiles):
            raise ImageDamagedError("this AVIF contradicts itself: the tile of a grid is not one")
        kept.update((tile, boxes.items[tile]) for tile in tiles)

    add_tiles(boxes.primary)
    colored = set(kept)
    for kind, origin, targets in boxes.references:
        if kind != b"auxl" or origin in kept or origin not in boxes.items:
            continue
        of_these = colored.intersection(targets)
        if boxes.items[origin].kind == b"grid" and boxes.primary not in of_these:
            continue
        if of_these and _is_alpha(data, boxes.items[origin]):
            kept[origin] = boxes.items[origin]
            add_tiles(origin)
            colored -= of_these
    if len(kept) > _MAX_ITEMS:
        raise ImageDamagedError(f"expected at most {_MAX_ITEMS} tiles in an AVIF, got more")
    return kept


def _is_alpha(data: bytes, item: Item) -> bool:
    return any(
        kind == b"auxC" and data.startswith(_ALPHA, start + 4)
        for _, kind, start, _ in item.properties
    )


def _size_of(data: bytes, item: Item) -> tuple[int, int]:
    for _, kind, start, _ in item.properties:
        if kind == b"ispe":
            width, height = struct.unpack_from(">II", data, start + 4)
            return width, height
    raise ImageDamagedError("this AVIF does not say the size of an image (ispe)")


def _orientation(data: bytes, item: Item) -> int:
    turns = mirrored = 0
    for _, kind, start, _ in item.properties:
        if kind == b"irot":
            turns = data[start] & 3
        elif kind == b"imir":
            mirrored = 1 + (data[start] & 1)
    return _ORIENTATIONS[mirrored][turns]


def _grid(data: bytes, boxes: Boxes, item: Item) -> tuple[int, tuple[int, int]]:
    """The number of tiles of a grid and its (width, height)."""
    content = bytes(content_of(data, boxes, item)[:16])
    _, flags, rows, columns = struct.unpack_from(">BBBB", content)
    size = struct.unpack_from(">II" if flags & _LONG_GRID else ">HH", content, 4)
    return (rows + 1) * (columns + 1), (int(size[0]), int(size[1]))


def only_still_image(data: bytes) -> bytes:
    """Return an AVIF of the same still image, as stored, with nothing else in it."""
    boxes = read_boxes(data)
    kept = dict(sorted(_kept_items(data, boxes).items()))  # libavif expects them in order
    contents = {_place(item): content_of(data, boxes, item) for item in kept.values()}
    properties, assigned = [], []
    for number, item in kept.items():
        indices = []
        for is_essential, kind, start, end in item.properties:
            content = data[start : min(end, start + 4)] if kind == b"av1C" else data[start:end]
            if kind not in _KEPT or (kind == b"colr" and not content.startswith(b"nclx")):
                continue
            if len(content) > _MAX_PROPERTY:
                raise ImageDamagedError(
                    f"expected at most {_MAX_PROPERTY} bytes in the property {text_of(kind)} of an "
                    f"AVIF, got {len(content)}"
                )
            properties.append(_box(kind, content))
            indices.append(len(properties) | (0x8000 if is_essential else 0))
        assigned.append(struct.pack(f">IB{len(indices)}H", number, len(indices), *indices))
    references = [
        _box(kind, struct.pack(f">IH{len(targets)}I", origin, len(targets), *targets))
        for kind, origin, targets in _kept_references(boxes, kept)
        if kind in (b"dimg", b"auxl", b"prem")
    ]
    kinds = [
        _box(b"infe", struct.pack(">IIH4sB", 3 << 24, number, 0, item.kind, 0))
        for number, item in kept.items()
    ]

    def meta(offset: int) -> bytes:
        offsets = {}
        for key, content in contents.items():
            offsets[key] = offset, len(content)
            offset += len(content)
        places = [
            struct.pack(">IHHHII", number, 0, 0, 1, *offsets[_place(item)])
            for number, item in kept.items()
        ]
        return _box(
            b"meta",
            bytes(4),
            _box(b"hdlr", bytes(8), b"pict", bytes(13)),
            _box(b"pitm", struct.pack(">II", 1 << 24, boxes.primary)),
            _box(b"iloc", struct.pack(">IHI", 2 << 24, 0x4400, len(kept)), *places),
            _box(b"iinf", struct.pack(">II", 1 << 24, len(kept)), *kinds),
            _box(b"iref", struct.pack(">I", 1 << 24), *references) if references else b"",
            _box(
                b"iprp",
                _box(b"ipco", *properties),
                _box(b"ipma", struct.pack(">II", 1 << 24 | 1, len(kept)), *assigned),
            ),
        )

    head = _box(b"ftyp", b"avif", bytes(4), b"avifmif1miaf")
    start = len(head) + len(meta(0)) + 8
    data_head = struct.pack(">I4s", 8 + sum(map(len, contents.values())), b"mdat")
    return b"".join((head, meta(start), data_head, *contents.values()))


def _box(kind: bytes, *contents: bytes) -> bytes:
    content = b"".join(contents)
    return struct.pack(">I4s", 8 + len(content), kind) + content
