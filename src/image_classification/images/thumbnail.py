"""Small pictures of problem images, for people: a data URI, whatever is wrong with the file."""

from __future__ import annotations

import base64
from pathlib import Path

import simplejpeg

from image_classification.errors import ImageError
from image_classification.images.decode import DEFAULT_MAX_PIXELS, decode
from image_classification.images.encode import encode_jpeg
from image_classification.images.header import read_header
from image_classification.images.resize import resize
from image_classification.samples import UInt8Array

_SIDE = 128  # pixels of the longer side
_QUALITY = 80


def thumbnail(path: Path) -> str | None:
    """A JPEG of at most 128 pixels a side as `data:` URI; None where there is nothing to see.

    A damaged JPEG is shown as far as it goes: the only place where pixels of a file that `decode`
    refuses are looked at, and they go nowhere but into the page.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return thumbnail_of(content)


def thumbnail_of(content: bytes) -> str | None:
    """The same of an encoded image."""
    try:
        image = _pixels(content)
    except (ImageError, ValueError, RuntimeError):
        return None
    height, width = image.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    small = resize(image, max(1, round(height * scale)), max(1, round(width * scale)))
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(small, _QUALITY)).decode()


def _pixels(content: bytes) -> UInt8Array:
    header = read_header(content)
    try:
        return decode(content, header=header, min_size=(_SIDE // 2, _SIDE // 2))
    except ImageError:
        if header.format != "JPEG" or header.width * header.height > DEFAULT_MAX_PIXELS:
            raise
        pixels: UInt8Array = simplejpeg.decode_jpeg(content, "RGB", strict=False)
        return pixels
