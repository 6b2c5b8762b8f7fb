"""JPEG to pixels with libjpeg-turbo (simplejpeg): a whole file, or the part of it that is needed.

In: the bytes of a JPEG file and its header. Out: uint8 H·W·C as stored, or None where libjpeg-turbo
has a complaint: then Pillow decides. Frees the interpreter lock.
"""

from __future__ import annotations

import simplejpeg

from image_classification.data.headers import ImageHeader
from image_classification.data.jpeg_cutting import Box, cut_jpeg
from image_classification.data.jpeg_layout import read_layout
from image_classification.data.samples import UInt8Array

_CHROMA_REACH = 2  # pixels: the colour of a pixel is interpolated from the colours around it
_COLOURS = {(3, False): "RGB", (3, True): "BGR", (1, False): "GRAY", (1, True): "GRAY"}


def decode_jpeg(
    data: bytes, header: ImageHeader, channels: int, scale: int, smooth_chroma: bool
) -> UInt8Array | None:
    """The whole picture at 1/`scale`: uint8 (height, width, channels), C-contiguous."""
    if header.channels not in (1, 3):
        return None  # CMYK: Pillow knows Adobe's inversion
    size = (header.height, header.width)
    try:
        if simplejpeg.decode_jpeg_header(data)[:2] != size:
            return None
    except (ValueError, RuntimeError):
        return None
    return _decode(data, size, _COLOURS[channels, False], scale, smooth_chroma)


def decode_jpeg_part(
    data: bytes,
    header: ImageHeader,
    box: Box,
    channels: int,
    scale: int,
    smooth_chroma: bool,
    blue_first: bool = False,
) -> UInt8Array | None:
    """The pixels of `box` at 1/`scale`, the same that cutting them from the whole picture gives.

    Args:
        data: the file.
        header: of `data`.
        box: as stored; its top and left are multiples of `scale`.
        channels, scale, smooth_chroma, blue_first: as in `images.decode_part`.

    Returns:
        A view with contiguous rows, or None: also where a part cannot be had more cheaply.
    """
    layout = read_layout(data)
    if layout is None or header.channels not in (1, 3):
        return None
    margin = _CHROMA_REACH if smooth_chroma and layout.has_small_chroma else 0
    cut = cut_jpeg(data, (header.height, header.width), layout, box, margin)
    if cut is None:
        return None
    colours = _COLOURS[channels, blue_first]
    pixels = _decode(cut.data, cut.box[2:], colours, scale, smooth_chroma, is_strict=cut.is_whole)
    if pixels is None:
        return None
    top, left = (box[0] - cut.box[0]) // scale, (box[1] - cut.box[1]) // scale
    return pixels[top : top - (-box[2] // scale), left : left - (-box[3] // scale)]


def _decode(
    data: bytes | bytearray,
    size: tuple[int, int],
    colours: str,
    scale: int,
    smooth_chroma: bool,
    is_strict: bool = True,
) -> UInt8Array | None:
    # What libjpeg makes of 1/scale; any smaller scale would fall below it.
    height, width = -(-size[0] // scale), -(-size[1] // scale)
    try:
        pixels: UInt8Array = simplejpeg.decode_jpeg(
            data,
            colorspace=colours,
            min_height=height if scale > 1 else 0,
            min_width=width if scale > 1 else 0,
            fastupsample=not smooth_chroma,
            strict=is_strict,
        )
    except (ValueError, RuntimeError):
        return None
    return pixels if pixels.shape[:2] == (height, width) else None
