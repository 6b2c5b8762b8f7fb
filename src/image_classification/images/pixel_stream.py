"""What Pillow reads of an image file: the parts that hold the pixels, and no longer than it may.

In: the bytes of a file. Out: an object to read them from, without metadata, text, profiles, further
frames, and without a copy. Each read looks at the CPU time of the thread: what a header cannot
tell (code that inflates to nothing, for example) ends there, after at most 64 KiB too many.
"""

import io
from bisect import bisect_right
from itertools import accumulate

from image_classification.images.header import (
    JPEG_METADATA,
    ImageHeader,
    gif_palette_end,
    jpeg_segments,
    png_chunks,
)
from image_classification.images.price import Allowance

_PIXEL_CHUNKS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))
_GRAPHIC_CONTROL_BYTES = 8
_Span = tuple[int, int]  # start and end in the file


class PixelStream:
    """Parts of a file, one after the other, as a file that can be read and sought.

    Args:
        data: the file's content.
        spans: start and end of each part, at least one.
        allowance: CPU time of the thread that reads.
    """

    def __init__(self, data: bytes, spans: list[_Span], allowance: Allowance) -> None:
        self._data, self._allowance = data, allowance
        self._starts = [start for start, _ in spans]
        self._offsets = [0, *accumulate(end - start for start, end in spans)]
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, all that is left if it is negative.

        Raises:
            ImageTooLargeError: the CPU time is over.
        """
        self._allowance.check()
        begin, last = self._position, self._offsets[-1]
        end = last if size < 0 else min(begin + size, last)
        if begin >= end:
            return b""
        self._position = end
        pieces = []
        index = bisect_right(self._offsets, begin) - 1
        while begin < end:
            stop = min(end, self._offsets[index + 1])
            shift = self._starts[index] - self._offsets[index]
            pieces.append(self._data[begin + shift : stop + shift])
            begin, index = stop, index + 1
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to an offset from the start, from the current position or from the end."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._offsets[-1]}
        self._position = max(0, origin[whence] + offset)
        return self._position

    def tell(self) -> int:
        """Return the current position."""
        return self._position


def pixel_spans(data: bytes, header: ImageHeader) -> list[_Span]:
    """Start and end of each part of the file that its pixels need; all of a WEBP or BMP."""
    if header.format == "JPEG":
        segments = jpeg_segments(data)
        kept = [(start, end) for kind, start, end in segments if kind not in JPEG_METADATA]
        kept.insert(0, (0, 2))
        if header.scan:
            kept.append((header.scan, len(data)))
    elif header.format == "PNG":
        kept = [(a, b) for kind, a, b in png_chunks(data) if kind in _PIXEL_CHUNKS]
        kept.insert(0, (0, 8))
    elif header.format == "GIF":
        kept = [(0, gif_palette_end(data)), (header.frame, len(data))]
        if header.control:
            kept.insert(1, (header.control, header.control + _GRAPHIC_CONTROL_BYTES))
    else:
        kept = [(0, len(data))]
    merged: list[_Span] = []
    for start, end in kept:
        start, end = min(start, len(data)), min(end, len(data))
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged
