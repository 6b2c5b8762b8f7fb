"""What Pillow reads of an image file, and its pixels, within the CPU time that an image can take.

In: the bytes of a file. Out: an object to read the parts from that hold the pixels, without
metadata, text, profiles, further frames, and without a copy; then, from the `Image` that Pillow
makes of it, an array over white. Each read and each strip checks the CPU time of the thread. So a
cost that the header does not show (code that inflates to nothing, for example) ends there, at most
64 KiB too late.
"""

import io
from bisect import bisect_right
from itertools import accumulate

import numpy as np
from PIL import Image

from image_classification.images.header import (
    JPEG_METADATA,
    ImageHeader,
    gif_palette_end,
    jpeg_segments,
    png_chunks,
)
from image_classification.images.price import STRIP_PIXELS, Allowance
from image_classification.samples import Array, UInt8Array

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
    """Start and end of each part of the file that its pixels need; all of a WEBP, BMP or PPM."""
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


def to_array(
    image: Image.Image, header: ImageHeader, channels: int, allowance: Allowance
) -> UInt8Array:
    """Return the pixels of a loaded Pillow image of any mode, over white.

    In strips, because each step makes a copy: 1 GB together for an image of 64 megapixels.

    Args:
        image: as Pillow has loaded it.
        header: of its file.
        channels: 3 for RGB, 1 for gray.
        allowance: CPU time of this thread, checked before each strip.

    Returns:
        uint8 (height, width, channels), C-contiguous.

    Raises:
        ImageTooLargeError: the time is over.
    """
    pixels = np.empty((image.height, image.width, channels), np.uint8)
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        allowance.check()
        bottom = min(top + rows, image.height)
        strip = image.crop((0, top, image.width, bottom))
        pixels[top:bottom] = _strip_to_array(strip, header, channels)
    return pixels


def _strip_to_array(image: Image.Image, header: ImageHeader, channels: int) -> UInt8Array:
    mode, transparency = image.mode, image.info.get("transparency")
    if mode in ("RGBA", "LA", "PA") or (mode == "P" and transparency is not None):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    elif mode.startswith("I"):
        return _from_16_bits(np.asarray(image), transparency, channels)
    elif transparency is not None and mode in ("1", "L", "RGB"):
        image = _without_color_key(image, header.bit_depth)
    wanted = "RGB" if channels == 3 else "L"
    pixels = np.asarray(image if image.mode == wanted else image.convert(wanted), np.uint8)
    return pixels.reshape(image.height, image.width, channels)


def _from_16_bits(gray: Array, transparency: object, channels: int) -> UInt8Array:
    """16-bit gray (H, W) scaled by 1/257, so that 65,535 becomes 255; Pillow would clip it."""
    wide = np.clip(gray, 0, 0xFFFF).astype(np.uint32)
    narrow = ((wide + 128) // 257).astype(np.uint8)
    if isinstance(transparency, int):
        narrow[wide == transparency] = 255
    return np.repeat(narrow[:, :, np.newaxis], channels, axis=2)


def _without_color_key(image: Image.Image, bit_depth: int) -> Image.Image:
    """Make the pixels of the one transparent color white.

    PNG gives the color in the file's own depth, but Pillow has scaled the pixels to 8 bits.
    """
    key = image.info["transparency"]
    levels = [int(level) for level in (key if isinstance(key, tuple) else (key,))]
    if image.mode != "1":  # there Pillow has scaled it
        deepest = (1 << bit_depth) - 1
        levels = [n >> 8 if bit_depth == 16 else n * 255 // deepest for n in levels]
    if not all(0 <= level <= 255 for level in levels):
        return image
    if image.mode != "RGB":
        whitened = [*range(256)]
        whitened[levels[0]] = 255
        return image.convert("L").point(whitened)
    # Compared as whole pixels of 4 bytes, the last one 255: a quarter of the time of 3 channels.
    pixels = np.array(image.convert("RGBX")).view(np.uint32)
    pixels[pixels == np.array([*levels, 255], np.uint8).view(np.uint32)] = 0xFFFFFFFF
    return Image.fromarray(pixels.view(np.uint8)).convert("RGB")
