"""Bytes to pixels and back: the only place in the project that decodes an image.

In: the bytes of an image file (JPEG, PNG, GIF, WEBP, BMP), of which nothing is trusted. Out: uint8
H·W·C, upright, RGB or grey, C-contiguous; or an `ImageError` that says what is wrong.

Plain JPEG goes through simplejpeg (libjpeg-turbo), which refuses whatever it has a complaint about;
those files and all other formats go to Pillow, which decides. Both free the interpreter lock while
they decode and resize.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from image_classification.data.headers import ImageHeader, read_header, without_metadata
from image_classification.data.orientation import turn_upright
from image_classification.data.samples import UInt8Array
from image_classification.errors import ImageDamagedError, ImageError, ImageTooLargeError

DEFAULT_MAX_PIXELS = 64 << 20
"""67 megapixels: 50-megapixel photographs pass; as RGB this is 200 MB."""

INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "area": Image.Resampling.BOX,  # TensorFlow's name
    "lanczos": Image.Resampling.LANCZOS,
    "hamming": Image.Resampling.HAMMING,
}

_SCALES = (8, 4, 2)  # other DCT scales cost more than a full decode
_MAX_JPEG_SCANS = 100  # encoders write about 10; each costs a pass over the whole picture

# The readers themselves instead of `Image.open`: that one warns (about large images and damaged
# multi-picture headers), and warnings cannot be silenced in one thread only.
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}
# What Pillow's readers raise at damaged files; a warning only where warnings are made errors.
_PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, AssertionError,
    ArithmeticError, EOFError, RuntimeError, MemoryError, struct.error, zlib.error, Warning,
)  # fmt: skip


def decode(
    data: bytes,
    *,
    channels: int = 3,
    min_size: tuple[int, int] | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    header: ImageHeader | None = None,
    smooth_chroma: bool = True,
) -> UInt8Array:
    """Decode an image file.

    Alpha is composited over white, 16 bits are scaled to 8, the first frame of an animation is
    taken, and the EXIF orientation is applied (an illegal one counts as upright).

    Args:
        data: the file's content.
        channels: 3 for RGB, 1 for grey (ITU-R 601 luma).
        min_size: (height, width). If given, a JPEG may come back at 1/2, 1/4 or 1/8 of its size,
            as long as neither upright side falls below this: several times faster.
        max_pixels: limit of width × height in the file, checked before pixels are allocated.
        header: of `data`, where the caller has read it already.
        smooth_chroma: False repeats the colour of a JPEG with halved chroma instead of
            interpolating it: a third faster, and invisible where the picture is shrunk afterwards.

    Returns:
        uint8 (height, width, channels), writable and C-contiguous.

    Raises:
        ImageFormatError: not an accepted image format.
        ImageDamagedError: truncated or corrupt.
        ImageTooLargeError: more than `max_pixels`.
    """
    if header is None:
        header = read_header(data)
    check_pixels(header.width, header.height, max_pixels)
    scale = _reduction(header, min_size)
    pixels = None
    if header.format == "JPEG":
        _check_scans(data, header)
        pixels = _decode_jpeg(data, header, channels, scale, smooth_chroma)
    if pixels is None:
        pixels = _decode_with_pillow(data, header, channels, scale)
    return turn_upright(pixels, header.orientation)


def resize(
    image: UInt8Array,
    height: int,
    width: int,
    interpolation: str = "bilinear",
    box: tuple[float, float, float, float] | None = None,
    out: UInt8Array | None = None,
    mirror: bool = False,
    upside_down: bool = False,
) -> UInt8Array:
    """Resize with antialiasing (the filter widens when it shrinks); "nearest" has none.

    Args:
        image: uint8 (H, W, channels), 1 or 3 channels.
        height, width: of the result, in pixels.
        interpolation: a key of `INTERPOLATIONS`.
        box: (left, top, right, bottom) in pixels of `image`, fractions allowed: the part to
            resize. The filter may look at pixels beyond it, so the result is what resizing the
            whole image and then cropping gives.
        out: where to write the result, uint8 (height, width, channels).
        mirror, upside_down: flip the result (here it costs 25 µs, as a numpy copy ten times that).

    Returns:
        `out`, or a new C-contiguous array.
    """
    picture = Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0])
    resized = picture.resize((width, height), INTERPOLATIONS[interpolation], box)
    if mirror:
        resized = resized.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if upside_down:
        resized = resized.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    if out is None:
        out = np.empty((height, width, image.shape[2]), np.uint8)
    out[...] = np.asarray(resized).reshape(out.shape)
    return out


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


def check_pixels(width: int, height: int, max_pixels: int, when: str = "") -> None:
    """An ImageTooLargeError for more than `max_pixels` pixels; `when` says at which stage."""
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"expected at most {max_pixels} pixels ({max_pixels / 1e6:.1f} megapixels), {when}got "
            f"{width} × {height} = {width * height / 1e6:.1f} megapixels; "
            "make the image smaller or raise the limit (IMAGE_CLASSIFICATION_MAX_PIXELS)"
        )


def _check_scans(data: bytes, header: ImageHeader) -> None:
    if header.is_progressive and data.count(b"\xff\xda") > _MAX_JPEG_SCANS:
        raise ImageDamagedError(
            f"expected at most {_MAX_JPEG_SCANS} scans in a progressive JPEG, "
            f"got {data.count(bytes((0xFF, 0xDA)))}: it would take minutes to decode"
        )


def _reduction(header: ImageHeader, min_size: tuple[int, int] | None) -> int:
    """The largest of 8, 4, 2 that leaves both upright sides at `min_size` or above, else 1."""
    if min_size is None or header.format != "JPEG":
        return 1
    height, width = header.upright_size
    for scale in _SCALES:
        if height // scale >= min_size[0] and width // scale >= min_size[1]:
            return scale
    return 1


def _decode_jpeg(
    data: bytes, header: ImageHeader, channels: int, scale: int, smooth_chroma: bool
) -> UInt8Array | None:
    """Pixels as stored (H·W·C), or None where libjpeg-turbo has any complaint."""
    if header.channels not in (1, 3):
        return None  # CMYK: Pillow knows Adobe's inversion
    # What libjpeg makes of 1/scale; any smaller scale would fall below it.
    height, width = -(-header.height // scale), -(-header.width // scale)
    try:
        if simplejpeg.decode_jpeg_header(data)[:2] != (header.height, header.width):
            return None
        pixels: UInt8Array = simplejpeg.decode_jpeg(
            data,
            colorspace="RGB" if channels == 3 else "GRAY",
            min_height=height if scale > 1 else 0,
            min_width=width if scale > 1 else 0,
            fastupsample=not smooth_chroma,
        )
    except (ValueError, RuntimeError):
        return None
    return pixels


def _decode_with_pillow(data: bytes, header: ImageHeader, channels: int, scale: int) -> UInt8Array:
    """Pixels as stored (H·W·C)."""
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
    """uint8 (H, W, channels) of a loaded Pillow image of any mode."""
    mode, transparency = image.mode, image.info.get("transparency")
    if mode in ("RGBA", "LA", "PA") or (mode == "P" and transparency is not None):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    elif mode.startswith("I"):
        return _from_16_bits(np.asarray(image), transparency, channels)
    elif transparency is not None and mode in ("1", "L", "RGB"):
        image = _without_colour_key(image, header.bit_depth)
    pixels = np.array(image.convert("RGB" if channels == 3 else "L"), np.uint8)
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
