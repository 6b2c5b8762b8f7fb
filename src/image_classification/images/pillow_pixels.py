"""The pixels of an image that Pillow has loaded, as an array over white.

In: a Pillow image of any mode. Out: uint8 H·W·C. Alpha is composited over white, the one color that
a PNG declares transparent becomes white, and 16 bits are scaled to 8.
"""

import numpy as np
from PIL import Image

from image_classification.images.header import ImageHeader
from image_classification.images.price import STRIP_PIXELS, Allowance
from image_classification.samples import Array, UInt8Array


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
