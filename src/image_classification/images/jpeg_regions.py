"""A region of a JPEG file as a small JPEG file, made without decoding.

In: a JPEG and a box of pixels. Out: a `JpegCut` that holds the box, for any decoder. A decoder's
cost is that of the pixels it is given, so nothing is decoded that is not needed, beyond whole
pieces of code. `read_layout` returns None for a file that cannot be cut because its pixels are not
one run of code from top to bottom. Source: ITU-T T.81, annexes A.2 and B.2.

With restart markers (see `restart_markers`) the picture is a grid of pieces that can be decoded
separately: the pieces of the box are put together, their markers numbered anew. Without markers,
decoding must start at the top: the header announces fewer rows, and what lies below is not decoded.

    ┌──┬──┬──┬──┐                    ┌───────────┐
    │  │▒▒│▒▒│  │  restart markers:  │▒▒▒▒▒▒▒▒▒▒▒│  none: all down to
    │  │▒▒│▒▒│  │  a rectangle of    │▒▒▒▒▒▒▒▒▒▒▒│  the lowest row
    │  │  │  │  │  the grid          │           │
    └──┴──┴──┴──┘                    └───────────┘

A file that `restart_markers` has made holds a table of its pieces, so that a reader need not search
for the markers: an application segment (APP9) just before the scan, `SEGMENTS`, a zero byte, and
the bytes from each marker to the next as big-endian 16-bit numbers; the first counts from two bytes
before the code, the last ends at the end mark. A reader must not trust it.
"""

from dataclasses import dataclass

import numpy as np

from image_classification.images.header import (
    BARE_MARKERS,
    END_BYTES,
    FRAME_MARKERS,
    JPEG_END,
    SCAN,
)
from image_classification.samples import IntArray, UInt8Array

_BASELINE, _EXTENDED = 0xC0, 0xC1  # Huffman code, sequential
_RESTARTS = 0xDD
_MAX_SEGMENTS = 1000
_TABLE, _TABLE_NAME = 0xE9, b"SEGMENTS\0"
_MAX_PIECE = 0xFFFF  # bytes of one piece, and of the table
_BLOCK = 8  # pixels of a side
_RESTART = 0xD0  # the first of 8 markers that are used in turn
_TURNS = np.tile(np.arange(_RESTART, _RESTART + 8, dtype=np.uint8), 512)

Box = tuple[int, int, int, int]
"""(top, left, height, width) in pixels of the picture as it is stored."""


@dataclass(frozen=True)
class JpegLayout:
    """A sequential JPEG of one scan.

    Attributes:
        frame: byte offset of the frame header's marker; the height is 5 bytes on, the width 7.
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
    """Read the layout of a JPEG file from its headers; None if it is not one sequential scan."""
    position, frame, interval, table = 2, 0, 0, (0, 0)
    try:
        for _ in range(_MAX_SEGMENTS):
            marker = data[position + 1]
            if data[position] != 0xFF or marker in BARE_MARKERS:
                return None
            if marker == SCAN:
                return _layout(data, frame, position, interval, table) if frame else None
            if marker in FRAME_MARKERS:
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
    """Add a table of its pieces to a file, if they fit into one.

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


@dataclass(frozen=True)
class JpegCut:
    """A JPEG that shows a box of another.

    Attributes:
        data: the file.
        box: what it shows.
        is_whole: whether its code ends where its picture does. If not, a decoder warns about the
            code that is left over, which is expected.
    """

    data: bytes | bytearray
    box: Box
    is_whole: bool


def cut_jpeg(
    data: bytes, size: tuple[int, int], layout: JpegLayout, box: Box, margin: int = 0
) -> JpegCut | None:
    """Make the smallest cut that holds `box`.

    Args:
        data: a JPEG file.
        size: (height, width) of its picture in pixels, as stored.
        layout: of `data`.
        box: lies inside the picture.
        margin: pixels around `box` that the cut must hold too, as far as the picture goes.

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
    # Checked here, because a decoder that ignores left-over code ignores missing code too. Not
    # searched in the headers: a thumbnail has its own end mark.
    if data.find(JPEG_END, max(layout.scan, len(data) - END_BYTES)) < 0:
        return None
    patched = _patched(data[: layout.scan], layout, bottom, size[1])
    return JpegCut(patched + data[layout.scan :], (0, 0, bottom, size[1]), False)


def _cut_segments(
    data: bytes, size: tuple[int, int], layout: JpegLayout, box: Box
) -> JpegCut | None:
    """None if the pieces are not a grid, or the markers are not what the headers announce."""
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
    markers = layout.scan - 1 + np.cumsum(lengths)
    np.frombuffer(cut, np.uint8)[markers] = _turns(len(markers))
    cut[-1] = JPEG_END[1]  # what follows the last piece, a marker or already the end
    return JpegCut(cut, (top, left, height, width), True)


def segment_bounds(data: bytes, layout: JpegLayout, count: int) -> IntArray | None:
    """int64 (count + 1,): byte offset of the marker before every piece, and of the end mark.

    The first piece has no marker: two bytes before it. None if the file does not have `count`
    pieces, or markers out of turn.
    """
    code = np.frombuffer(data, np.uint8)
    table, listed = layout.table
    if listed == count:
        bounds = np.empty(count + 1, np.int64)
        bounds[0] = 0
        np.cumsum(np.frombuffer(data, ">u2", count, table), out=bounds[1:])
        bounds += layout.scan - 2
        if bounds[-1] + 2 <= len(data) and _are_turns(code, bounds[1:-1]):
            if data.startswith(JPEG_END, int(bounds[-1])):
                return bounds
    is_marker = code[layout.scan : -1] == 0xFF
    is_marker &= (code[layout.scan + 1 :] & 0xF8) == _RESTART
    if np.count_nonzero(is_marker) != count - 1:  # before their offsets take 8 bytes each
        return None
    markers = np.flatnonzero(is_marker) + layout.scan
    if not _are_turns(code, markers):
        return None
    last = int(markers[-1]) + 2 if count > 1 else layout.scan
    end = data.find(JPEG_END, last)
    return np.concatenate(([layout.scan - 2], markers, [end])) if end >= last else None


def _are_turns(code: UInt8Array, markers: IntArray) -> bool:
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
