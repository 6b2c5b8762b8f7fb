"""Pixels to files: JPEG, PNG, and the thumbnails of pages."""

import base64
import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from image_classification.errors import ImageDamagedError, UsageError
from image_classification.images.decode import decode
from image_classification.images.header import read_header
from image_classification.images.preprocessing import resize
from image_classification.images.price import admit
from image_classification.samples import UInt8Array

SIDE = 128
"""Pixels of the longer side of a thumbnail, unless the caller wants another size."""
_QUALITY = 80
_LOSSLESS = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # modes that PNG stores as they are


def encode_jpeg(image: UInt8Array, quality: int = 95) -> bytes:
    """Encode `image` (uint8, H·W·3 or H·W·1) as a baseline JPEG, 4:2:0, quality 1 to 100."""
    kinds = ("RGB", "420") if image.shape[2] == 3 else ("GRAY", "Gray")
    encoded: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(image), quality, colorspace=kinds[0], colorsubsampling=kinds[1]
    )
    return encoded


def encode_png(image: UInt8Array) -> bytes:
    """Encode `image` (uint8, H·W·3 or H·W·1) as a PNG, without loss."""
    content = io.BytesIO()
    Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0]).save(content, "PNG")
    return content.getvalue()


def encode_picture(image: Image.Image) -> bytes:
    """Encode a Pillow image, upright, as a PNG, without loss; a cut one is an ImageDamagedError."""
    content, upright = io.BytesIO(), image
    with suppress(Exception):  # damaged EXIF, which the decoder of files ignores too
        upright = ImageOps.exif_transpose(image)
    try:
        is_exact = upright.mode in _LOSSLESS
        (upright if is_exact else upright.convert("RGB")).save(content, "PNG", compress_level=1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageDamagedError(f"Pillow cannot read the image: {error}") from error
    return content.getvalue()


def encode_any(image: object) -> bytes:
    """Encode a Pillow image, or an array of one image, as a PNG, without loss.

    Raises:
        UsageError: it is neither; an array is uint8 (height, width, 3).
    """
    if isinstance(image, Image.Image):
        return encode_picture(image)
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise UsageError(
                "expected an array of one image, uint8 of shape (height, width, 3) in the order "
                f"red, green, blue, got {image.dtype} of shape {image.shape}"
            )
        return encode_png(image)
    raise UsageError(
        "expected an image as a path, bytes, a Pillow image or an array, a list of these, or a "
        f"folder, got {type(image).__name__}"
    )


def thumbnail_of_file(path: Path) -> str | None:
    """The thumbnail of the image file at `path`; None also if it cannot be read."""
    try:
        return thumbnail(path.read_bytes())
    except OSError:
        return None


def thumbnail(content: bytes, side: int = SIDE) -> str | None:
    """A JPEG of at most `side` pixels a side as `data:` URI; None if nothing can be decoded.

    A damaged JPEG is shown as far as it goes: this is the only place that looks at pixels of a file
    that `decode` refuses, and they go nowhere but into the page.
    """
    try:
        image = _decode_leniently(content, side)
    except MemoryError:
        raise
    except Exception:  # whatever the decoder raises at a damaged file
        return None
    return shrunk(image, side)


def shrunk(image: UInt8Array, side: int = SIDE) -> str:
    """`image` (uint8, H·W·3 or H·W·1) as `data:` URI of a JPEG of at most `side` pixels a side."""
    height, width = image.shape[:2]
    scale = min(1.0, side / max(height, width))
    small = resize(image, max(1, round(height * scale)), max(1, round(width * scale)))
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(small, _QUALITY)).decode()


def _decode_leniently(content: bytes, side: int) -> UInt8Array:
    header = read_header(content)
    try:
        return decode(content, header=header, min_size=(side // 2, side // 2))
    except ImageDamagedError:
        if header.format != "JPEG":
            raise
        admit(content, header)
        pixels: UInt8Array = simplejpeg.decode_jpeg(content, "RGB", strict=False)
        return pixels
