"""Bytes to pixels and back: the only place in the project that decodes an image.

In: the bytes of an image file (JPEG, PNG, GIF, WEBP, BMP), of which nothing is trusted. Out: uint8
H·W·C, upright, RGB or gray, C-contiguous; or an `ImageError` that says what is wrong.

Plain JPEG goes through simplejpeg (libjpeg-turbo), which refuses whatever it has a complaint about;
those files and all other formats go to Pillow, which decides. Both free the interpreter lock while
they decode and resize.
"""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from PIL import Image

from image_classification.samples import UInt8Array


def encode_jpeg(image: UInt8Array, quality: int = 95) -> bytes:
    """`image` (uint8, H·W·3 or H·W·1) as a baseline JPEG, 4:2:0, quality 1 to 100."""
    kinds = ("RGB", "420") if image.shape[2] == 3 else ("GRAY", "Gray")
    encoded: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), quality, colorspace=kinds[0], colorsubsampling=kinds[1]
    )
    return encoded


def encode_png(image: UInt8Array) -> bytes:
    """`image` (uint8, H·W·3 or H·W·1) as a PNG, without loss."""
    content = io.BytesIO()
    Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0]).save(content, "PNG")
    return content.getvalue()
