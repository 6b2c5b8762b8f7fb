"""What libjpeg-turbo does not take: PNG, GIF, WEBP, BMP, and JPEGs it has a complaint about.

In: the bytes of an image file and its header. Out: uint8 H·W·C as stored. Pillow decides what is
damaged; it frees the interpreter lock while it decodes.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from image_classification.data.headers import ImageHeader, without_metadata
from image_classification.data.samples import UInt8Array
from image_classification.errors import ImageDamagedError, ImageError, ImageTooLargeError

# The readers themselves instead of `Image.open`: that one warns (about large images and damaged
# multi-picture headers), and warnings cannot be silenced in one thread only.
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}
_STRIP_PIXELS = 1 << 20  # smaller pictures are converted whole
# Pillow's blocks of 16 MiB come from a thread's heap, where glibc keeps them: 144 MiB for each
# thread that ever had a picture of 36 megapixels. Blocks beyond 32 MiB go back to the system.
Image.core.set_block_size(64 * 2**20)  # type: ignore[attr-defined]  # not in the types
# What Pillow's readers raise at damaged files; a warning only where warnings are made errors.
_PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, AssertionError,
    ArithmeticError, EOFError, RuntimeError, MemoryError, struct.error, zlib.error, Warning,
)  # fmt: skip


def decode_with_pillow(data: bytes, header: ImageHeader, channels: int, scale: int) -> UInt8Array:
    """Pixels as stored, uint8 (H, W, channels); a JPEG at 1/`scale`.

    Raises:
        ImageDamagedError: truncated or corrupt.
        ImageTooLargeError: Pillow's own limit.
    """
    content = io.BytesIO(without_metadata(data, header))
    try:
        with _READERS[header.format](content) as image:
            if image.size != (header.width, header.height):
                raise ImageDamagedError(
                    f"this {header.format} contradicts itself: {header.width} × {header.height} "
                    f"pixels in one place, {image.width} × {image.height} in another"
                )
            if scale > 1:
                image.draft(None, (image.width // scale, image.height // scale))
            image.load()
            return _to_array(image, header, channels)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(
            f"{error}; make the image smaller (Pillow has a limit of its own)"
        ) from error
    except _PILLOW_ERRORS as error:
        raise ImageDamagedError(
            f"this {header.format} of {header.width} × {header.height} pixels "
            f"({len(data)} bytes) is truncated or corrupt: {error}"
        ) from error


def _to_array(image: Image.Image, header: ImageHeader, channels: int) -> UInt8Array:
    """uint8 (H, W, channels) of a loaded Pillow image of any mode.

    In strips, because each step makes a copy: of a whole picture of 64 megapixels 1 GB together.
    """
    pixels = np.empty((image.height, image.width, channels), np.uint8)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
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
        image = _without_colour_key(image, header.bit_depth)
    pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"), np.uint8)
    return pixels.reshape(image.height, image.width, channels)


def _from_16_bits(grey: npt.NDArray[Any], transparency: object, channels: int) -> UInt8Array:
    """16-bit grey (H, W) scaled by 1/257, so that 65,535 becomes 255; Pillow would clip it."""
    wide = np.clip(grey, 0, 0xFFFF).astype(np.uint32)
    narrow = ((wide + 128) // 257).astype(np.uint8)
    if isinstance(transparency, int):
        narrow[wide == transparency] = 255
    return np.repeat(narrow[:, :, np.newaxis], channels, axis=2)


def _without_colour_key(image: Image.Image, bit_depth: int) -> Image.Image:
    """Pixels of the one transparent colour become white.

    PNG gives the colour in the file's own depth, but Pillow has scaled the pixels to 8 bits.
    """
    transparency = image.info["transparency"]
    pixels = np.array(image.convert("RGB"), np.uint8)
    levels = np.atleast_1d(np.asarray(transparency, np.int64))
    if image.mode != "1":  # there Pillow has scaled it
        levels = levels >> 8 if bit_depth == 16 else levels * 255 // ((1 << bit_depth) - 1)
    pixels[(pixels == levels).all(axis=2)] = 255
    return Image.fromarray(pixels)
