"""A part of a JPEG file as a small JPEG file, made without decoding.

In: a JPEG and the rows and columns that are wanted. Out: a `JpegCut` that holds them, to be handed
to any decoder. The decoder's cost is that of the pixels it is given, so nothing is decoded that is
not needed, beyond whole pieces of code.

With restart markers (see `segmenting`) the picture is a grid of pieces that can be decoded on their
own: those that are needed are put together, their markers numbered anew. Without them the code can
be entered at the top only: the file is told to be less high, and what lies below is not decoded.

    ┌──┬──┬──┬──┐                    ┌───────────┐
    │  │▒▒│▒▒│  │  restart markers:  │▒▒▒▒▒▒▒▒▒▒▒│  none: all down to
    │  │▒▒│▒▒│  │  a rectangle of    │▒▒▒▒▒▒▒▒▒▒▒│  the lowest row
    │  │  │  │  │  the grid          │           │
    └──┴──┴──┴──┘                    └───────────┘
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from image_classification.samples import IntArray, UInt8Array

_BASELINE, _EXTENDED = 0xC0, 0xC1  # Huffman code, sequential
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_RESTARTS, _SCAN = 0xDD, 0xDA
_MAX_SEGMENTS = 1000
_TABLE, _TABLE_NAME = 0xE9, b"SEGMENTS\0"
_MAX_PIECE = 0xFFFF  # bytes of one piece, and of the table
_BLOCK = 8  # pixels of a side


@dataclass(frozen=True)
class JpegLayout:
    """A sequential JPEG of one scan.

    Attributes:
        frame: byte offset of the frame header's marker; its height is 5 bytes on, its width 7.
        scan: byte offset of the first byte of code.
        mcu_height, mcu_width: pixels of a minimum coded unit, the smallest piece of the code.
        interval: units between two restart markers; 0 where there are none.
        has_small_chroma: whether color is stored in fewer pixels than brightness.
        table: byte offset and number of the lengths in the table of pieces; (0, 0) without one.
    """

    frame: int
    scan: int
    mcu_height: int
    mcu_width: int
    interval: int
    has_small_chroma: bool
    table: tuple[int, int] = (0, 0)


def read_layout(data: bytes) -> JpegLayout | None:
    """The layout of a JPEG file; None where the picture is not one sequential scan.

    Only the headers are read: whether the code is whole is not seen.
    """
    position, frame, interval, table = 2, 0, 0, (0, 0)
    try:
        for _ in range(_MAX_SEGMENTS):
            if data[position] != 0xFF:
                return None
            marker = data[position + 1]
            if marker == _SCAN:
                return _layout(data, frame, position, interval, table) if frame else None
            if marker in _FRAMES:
                if frame or marker not in (_BASELINE, _EXTENDED):
                    return None
                frame = position
            elif marker == _RESTARTS:
                interval = data[position + 4] << 8 | data[position + 5]
            length = data[position + 2] << 8 | data[position + 3]
            if marker == _TABLE and data.startswith(_TABLE_NAME, position + 4):
                start = position + 4 + len(_TABLE_NAME)
                table = start, (position + 2 + length - start) // 2
            position += 2 + length
    except IndexError:
        pass
    return None


def with_table(data: bytes, scan: int, lengths: IntArray) -> bytes:
    """The file with a table of its pieces, or as it is where they do not fit into one.

    Args:
        data: a JPEG with restart markers.
        scan: byte offset of the scan's marker.
        lengths: bytes from each marker to the next, as in the table.
    """
    content = _TABLE_NAME + lengths.astype(">u2").tobytes()
    if lengths.max() > _MAX_PIECE or 2 + len(content) > _MAX_PIECE:
        return data
    segment = bytes((0xFF, _TABLE)) + (2 + len(content)).to_bytes(2, "big") + content
    return data[:scan] + segment + data[scan:]


def _layout(
    data: bytes, frame: int, scan: int, interval: int, table: tuple[int, int]
) -> JpegLayout | None:
    components = data[frame + 9]
    if data[scan + 4] != components:
        return None  # a scan for each component
    sampling = [data[frame + 11 + 3 * number] for number in range(components)]
    across, down = (max(factor >> 4 for factor in sampling), max(f & 15 for f in sampling))
    if min(across, down) < 1:
        return None
    if components == 1:
        across = down = 1  # the units of a single component are single blocks
    return JpegLayout(
        frame,
        scan + 2 + (data[scan + 2] << 8 | data[scan + 3]),
        _BLOCK * down,
        _BLOCK * across,
        interval,
        across > 1 or down > 1,
        table,
    )


_END = b"\xff\xd9"
_RESTART = 0xD0  # the first of 8 markers that are used in turn
_TURNS = np.tile(np.arange(_RESTART, _RESTART + 8, dtype=np.uint8), 512)
_END_BYTES = 4096  # where the end mark is looked for; other programs append their data there

Box = tuple[int, int, int, int]
"""(top, left, height, width) in pixels of the picture as it is stored."""


@dataclass(frozen=True)
class JpegCut:
    """A JPEG that shows a part of another.

    Attributes:
        data: the file.
        box: what it shows.
        is_whole: whether its code ends where its picture does. If not, a decoder warns of the code
            that is left over, which is as it should be.
    """

    data: bytes | bytearray
    box: Box
    is_whole: bool


def cut_jpeg(
    data: bytes, size: tuple[int, int], layout: JpegLayout, box: Box, margin: int = 0
) -> JpegCut | None:
    """The smallest cut that holds `box`.

    Args:
        data: a JPEG file.
        size: (height, width) of its picture in pixels, as stored.
        layout: of `data`.
        box: lies inside the picture.
        margin: pixels around `box` that must be there too, as far as the picture goes.

    Returns:
        None where the whole file must be decoded: it is cut off, damaged, or all of it is needed.
        The pixels of `box` are those that a decoder makes of the whole file, bit for bit, if
        `margin` covers what it looks at around a pixel: 2 where it interpolates small chroma, else
        none. Code that is damaged in the middle may go unnoticed, as in a full decode.
    """
    top, left = max(0, box[0] - margin), max(0, box[1] - margin)
    bottom = min(size[0], box[0] + box[2] + margin)
    right = min(size[1], box[1] + box[3] + margin)
    if layout.interval:
        found = _cut_segments(data, size, layout, (top, left, bottom - top, right - left))
        if found is not None:
            return found
    return _cut_bottom(data, size, layout, bottom)


def _cut_bottom(
    data: bytes, size: tuple[int, int], layout: JpegLayout, bottom: int
) -> JpegCut | None:
    if bottom > size[0] - layout.mcu_height:
        return None
    # Here, because a decoder that is told not to mind what is left over does not mind what is
    # missing either. Not in the headers: a thumbnail has an end mark of its own.
    if data.find(_END, max(layout.scan, len(data) - _END_BYTES)) < 0:
        return None
    patched = _patched(data[: layout.scan], layout, bottom, size[1])
    return JpegCut(patched + data[layout.scan :], (0, 0, bottom, size[1]), False)


def _cut_segments(
    data: bytes, size: tuple[int, int], layout: JpegLayout, box: Box
) -> JpegCut | None:
    """None where the pieces are no grid, or the markers are not what the headers announce."""
    units = -(-size[1] // layout.mcu_width)
    across, odd = divmod(units, layout.interval)
    if odd:
        return None
    rows = range(box[0] // layout.mcu_height, -(-(box[0] + box[2]) // layout.mcu_height))
    side = layout.interval * layout.mcu_width
    columns = range(box[1] // side, -(-(box[1] + box[3]) // side))
    down = -(-size[0] // layout.mcu_height)
    if len(rows) == down and len(columns) == across:
        return None
    bounds = segment_bounds(data, layout, across * down)
    if bounds is None:
        return None
    top, left = rows.start * layout.mcu_height, columns.start * side
    height = min(size[0], rows.stop * layout.mcu_height) - top
    width = min(size[1], columns.stop * side) - left
    # The pieces of a row follow each other in the file, with their markers between.
    first = np.arange(rows.start, rows.stop) * across + columns.start
    begins, ends = bounds[first] + 2, bounds[first + len(columns)] + 2
    pieces: list[bytes | bytearray] = [_patched(data[: layout.scan], layout, height, width)]
    pieces += [data[a:b] for a, b in zip(begins.tolist(), ends.tolist(), strict=True)]
    cut = bytearray().join(pieces)
    grid = np.diff(bounds).reshape(down, across)
    lengths = grid[rows.start : rows.stop, columns.start : columns.stop]
    places = layout.scan - 1 + np.cumsum(lengths)
    np.frombuffer(cut, np.uint8)[places] = _turns(len(places))
    cut[-1] = _END[1]  # what follows the last piece, a marker or already the end
    return JpegCut(cut, (top, left, height, width), True)


def segment_bounds(data: bytes, layout: JpegLayout, count: int) -> IntArray | None:
    """int64 (count + 1,): byte offset of the marker before every piece, and of the end mark.

    Before the first piece there is none: two bytes before it. None where the file has another
    number of pieces, or markers out of turn.
    """
    code = np.frombuffer(data, np.uint8)
    place, listed = layout.table
    if listed == count:
        bounds = np.empty(count + 1, np.int64)
        bounds[0] = 0
        np.cumsum(np.frombuffer(data, ">u2", count, place), out=bounds[1:])
        bounds += layout.scan - 2
        if bounds[-1] + 2 <= len(data) and _are_turns(code, bounds[1:-1]):
            if data.startswith(_END, int(bounds[-1])):
                return bounds
    is_marker = code[layout.scan : -1] == 0xFF
    is_marker &= (code[layout.scan + 1 :] & 0xF8) == _RESTART
    markers = np.flatnonzero(is_marker) + layout.scan
    if len(markers) != count - 1 or not _are_turns(code, markers):
        return None
    last = int(markers[-1]) + 2 if count > 1 else layout.scan
    end = data.find(_END, last)
    return np.concatenate(([layout.scan - 2], markers, [end])) if end >= last else None


def _are_turns(code: UInt8Array, markers: IntArray) -> bool:
    """Whether the restart markers are there, and numbered in turn."""
    return bool((code[markers] == 0xFF).all() and (code[markers + 1] == _turns(len(markers))).all())


def _turns(count: int) -> UInt8Array:
    """The second bytes of `count` restart markers, which are numbered 0 to 7 in turn."""
    return np.resize(_TURNS, count) if count > len(_TURNS) else _TURNS[:count]


def _patched(headers: bytes, layout: JpegLayout, height: int, width: int) -> bytearray:
    patched = bytearray(headers)
    patched[layout.frame + 5 : layout.frame + 9] = height.to_bytes(2, "big") + width.to_bytes(
        2, "big"
    )
    return patched
