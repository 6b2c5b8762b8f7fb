"""Where the parts of a JPEG file are: what cutting it needs to know beside its `ImageHeader`.

In: the bytes of a JPEG file. Out: a `JpegLayout`, or None for a file that cannot be cut because its
pixels are not one run of code from top to bottom. Source: ITU-T T.81, annexes A.2 and B.2.

A file that `segmenting` has made holds a table of its pieces, so that a reader need not look for
the restart markers: an application segment (APP9) just before the scan, `SEGMENTS`, a zero byte,
and the bytes from each marker to the next as 16-bit numbers, the highest byte first; the first
counts from two bytes before the code, the last ends at the end mark. A reader must not trust it.
"""

from __future__ import annotations

from dataclasses import dataclass

from image_classification.data.samples import IntArray

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
        has_small_chroma: whether colour is stored in fewer pixels than brightness.
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
