"""The boxes of a still image in the ISO base media format, as AVIF and HEIC have them.

In: the bytes of a file, which are not trusted. Out: its `Boxes`: the primary image, and the type,
bytes, properties and references of each item. The number of boxes and of what they list is limited,
and nothing is copied. Sources: ISO/IEC 14496-12, 4.2 and 8.11; ISO/IEC 23008-12, 9.3.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from image_classification.errors import ImageDamagedError

_Span = tuple[int, int]  # start and end
_MAX_BOXES = 4_096  # of a file; a grid of 192 tiles has about 200
_MAX_LISTED = 16_384  # items, places, references and properties that a file lists
_ROOM = 1 << 20  # bytes that an item may have beyond those of the file


@dataclass
class Item:
    """An image, or how it is made from others.

    Attributes:
        kind: of 4 bytes: `av01`, `grid`, …
        spans: start and end of its pieces.
        in_file: whether these count from the start of the file, not of the box idat.
        properties: of each: whether it must be understood, its kind, start and end in the file.
    """

    kind: bytes = b""
    spans: list[_Span] = field(default_factory=list)
    in_file: bool = True
    properties: list[tuple[bool, bytes, int, int]] = field(default_factory=list)


@dataclass
class Boxes:
    """The items of a file.

    Attributes:
        primary: number of the image to show.
        items: by number.
        references: (kind, from, to) in their order.
        stored: start and end of the box idat.
    """

    primary: int = 0
    items: dict[int, Item] = field(default_factory=dict)
    references: list[tuple[bytes, int, tuple[int, ...]]] = field(default_factory=list)
    stored: _Span = (0, 0)


class _Reader:
    """Reads numbers of an AVIF from a position on, and walks its boxes.

    Args:
        data: the file's content.
    """

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self._boxes, self._listed = data, 0, 0, 0

    def take(self, size: int) -> int:
        """Return the next number of `size` bytes, 0 to 8."""
        self.at += size
        if self.at > len(self.data):
            raise struct.error
        return int.from_bytes(self.data[self.at - size : self.at], "big")

    def count(self, size: int) -> range:
        """Return the range of a count, within the number of things that a file may list."""
        number = self.take(size)
        self._listed += number
        if self._listed > _MAX_LISTED:
            raise ImageDamagedError(
                f"expected at most {_MAX_LISTED} items and references in an AVIF, got more"
            )
        return range(number)

    def boxes(self, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
        """Yield kind, start and end of the content of each box."""
        position = start
        while position + 8 <= end:
            self._boxes += 1
            if self._boxes > _MAX_BOXES:
                raise ImageDamagedError(f"expected at most {_MAX_BOXES} boxes in an AVIF, got more")
            size, kind = struct.unpack_from(">I4s", self.data, position)
            content = position + 8
            if size == 1:
                (size,) = struct.unpack_from(">Q", self.data, content)
                content += 8
            stop = position + size if size else end
            if stop < content or stop > end:
                if kind == b"mdat":  # of a truncated file: what the items need shows the rest
                    stop = end
                else:
                    raise ImageDamagedError(
                        f"this AVIF ({len(self.data)} bytes) is truncated or corrupt: its box "
                        f"{text_of(kind)} ends at byte {stop}"
                    )
            yield kind, content, stop
            position = stop


def read_boxes(data: bytes) -> Boxes:
    """Read the boxes of the still image of a file; those of a sequence are not read.

    Raises:
        ImageDamagedError: a box ends after the file, or there are thousands.
        struct.error, IndexError: a box is cut off.
    """
    found, reader = Boxes(), _Reader(data)
    for kind, start, end in reader.boxes(0, len(data)):
        if kind == b"meta":
            _read_meta(reader, found, start + 4, end)
            return found
    return found


def _read_meta(reader: _Reader, found: Boxes, start: int, end: int) -> None:
    for kind, at, stop in reader.boxes(start, end):
        version = reader.data[at]
        reader.at = at + 4
        if kind == b"pitm":
            found.primary = reader.take(4 if version else 2)
        elif kind == b"iinf":
            reader.count(4 if version else 2)
            _read_kinds(reader, found, reader.at, stop)
        elif kind == b"iloc":
            _read_places(reader, found, version)
        elif kind == b"iref":
            for name, first, last in reader.boxes(at + 4, stop):
                reader.at = first
                origin = reader.take(4 if version else 2)
                count = reader.count(2)
                if reader.at + len(count) * (4 if version else 2) > last:
                    raise struct.error
                targets = tuple(reader.take(4 if version else 2) for _ in count)
                found.references.append((name, origin, targets))
        elif kind == b"idat":
            found.stored = at, stop
        elif kind == b"iprp":
            _read_properties(reader, found, at, stop)


def _item(found: Boxes, number: int) -> Item:
    return found.items.setdefault(number, Item())


def _read_kinds(reader: _Reader, found: Boxes, start: int, end: int) -> None:
    for kind, at, _ in reader.boxes(start, end):
        if kind == b"infe" and reader.data[at] >= 2:
            reader.at = at + 4
            number = reader.take(2 if reader.data[at] == 2 else 4)
            reader.take(2)  # protection
            _item(found, number).kind = reader.take(4).to_bytes(4, "big")


def _read_places(reader: _Reader, found: Boxes, version: int) -> None:
    sizes = reader.take(2)
    offset_size, length_size, base_size, index_size = (sizes >> n & 15 for n in (12, 8, 4, 0))
    for _ in reader.count(2 if version < 2 else 4):
        item = _item(found, reader.take(2 if version < 2 else 4))
        method = reader.take(2) & 15 if version else 0
        reader.take(2)  # the file: this one
        base = reader.take(base_size)
        item.in_file, item.spans = method == 0, []
        for _ in reader.count(2):
            reader.take(index_size if version else 0)
            offset = base + reader.take(offset_size)
            length = reader.take(length_size)
            if method < 2:
                item.spans.append((offset, offset + length))


def _read_properties(reader: _Reader, found: Boxes, start: int, end: int) -> None:
    properties: list[tuple[bytes, int, int]] = []
    for kind, at, stop in reader.boxes(start, end):
        if kind == b"ipco":
            properties = list(reader.boxes(at, stop))
        elif kind == b"ipma":
            version, is_wide = reader.data[at], reader.data[at + 3] & 1
            reader.at = at + 4
            for _ in reader.count(4):
                item = _item(found, reader.take(4 if version else 2))
                for _ in reader.count(1):
                    value = reader.take(2 if is_wide else 1)
                    essential = value & (0x8000 if is_wide else 0x80)
                    index = value ^ essential
                    if 0 < index <= len(properties):
                        item.properties.append((essential > 0, *properties[index - 1]))


def content_of(data: bytes, boxes: Boxes, item: Item) -> bytes | memoryview:
    """Return the bytes of an item, without a copy if they are in one piece.

    Raises:
        ImageDamagedError: they are not in the file.
    """
    first, last = (0, len(data)) if item.in_file else boxes.stored
    spans = [(first + start, first + end) for start, end in item.spans]
    if not spans or any(not start < end <= last for start, end in spans):
        raise ImageDamagedError(
            f"this AVIF ({len(data)} bytes) is truncated or corrupt: an image is not in the file"
        )
    view = memoryview(data)
    if len(spans) == 1:
        return view[spans[0][0] : spans[0][1]]
    if sum(end - start for start, end in spans) > len(data) + _ROOM:
        raise ImageDamagedError("this AVIF is corrupt: an image is larger than the file")
    return b"".join(view[start:end] for start, end in spans)


def text_of(kind: bytes) -> str:
    """Return a kind for a message."""
    return repr(kind.decode("latin-1"))
