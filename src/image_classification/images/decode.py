"""Bytes to pixels: the only place in the project that decodes an image.

In: the bytes of an image file (JPEG, PNG, GIF, WEBP, BMP, TIFF, AVIF, PPM), which are not trusted.
Out: uint8 H·W·C, upright, RGB or gray; or an `ImageError` that says what is wrong.

Plain JPEG goes through simplejpeg (libjpeg-turbo), which refuses a file at the slightest fault; the
refused files and all other formats go to Pillow, which decides. Of a JPEG, `decode_region` decodes
little more than the region (see `jpeg_regions`). Both libraries release the interpreter lock while
they decode.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import IO, cast

import numpy as np
import simplejpeg
from PIL import AvifImagePlugin, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from image_classification.errors import (
    ImageClassificationError,
    ImageDamagedError,
    ImageError,
    ImageTooLargeError,
)
from image_classification.images.avif import CODEC, only_still_image
from image_classification.images.header import UPRIGHT, ImageHeader, read_header
from image_classification.images.jpeg_regions import Box, cut_jpeg, read_layout
from image_classification.images.pixel_stream import PixelStream, pixel_spans, to_array
from image_classification.images.price import Allowance, admit
from image_classification.images.tiff import without_metadata
from image_classification.samples import UInt8Array

DEFAULT_MAX_PIXELS = 64 << 20
"""67 megapixels: 50-megapixel photographs pass; as RGB this is 200 MB."""

_SCALES = (8, 4, 2)  # other DCT scales cost more than a full decode
_CHROMA_REACH = 2  # pixels: the color of a pixel is interpolated from the colors around it
_COLORS = {
    (4, False): "RGBX",
    (3, False): "RGB",
    (3, True): "BGR",
    (1, False): "GRAY",
    (1, True): "GRAY",
}
# The readers themselves instead of `Image.open`, which warns (about large images and damaged
# multi-picture headers); warnings cannot be silenced in one thread only.
_READERS: dict[str, type[ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "GIF": GifImageFile,
    "WEBP": WebPImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "PPM": PpmImageFile,
}
# Direction of rows and columns, −1 for backward; from 5 on, after the image is transposed.
_BACKWARD = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
# What Pillow's readers raise at damaged files; a warning only where warnings are made errors.
_PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, AssertionError,
    ArithmeticError, EOFError, RuntimeError, MemoryError, struct.error, zlib.error, Warning,
)  # fmt: skip


class UnusualImageError(ImageError):
    """Only Pillow can decode the image, and the caller does not want that here."""


def decode(
    data: bytes,
    *,
    channels: int = 3,
    min_size: tuple[int, int] | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    header: ImageHeader | None = None,
    smooth_chroma: bool = True,
    may_use_pillow: bool = True,
) -> UInt8Array:
    """Decode an image file.

    Alpha is composited over white, 16 bits are scaled to 8, an animation gives its first frame, and
    the EXIF orientation is applied (an illegal one counts as upright).

    Args:
        data: the file's content.
        channels: 3 for RGB, 1 for gray (ITU-R 601 luma), 4 for RGB and a byte without meaning: the
            layout of Pillow, which takes such pixels without a copy.
        min_size: (height, width). If given, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size,
            as long as neither upright side falls below this: several times faster.
        max_pixels: limit of width × height in the file, checked before pixels are allocated.
        header: of `data`, if the caller has read it already.
        smooth_chroma: False repeats the color of a JPEG with halved chroma instead of
            interpolating it: a third faster, and invisible where the image is shrunk afterward.
        may_use_pillow: False raises an UnusualImageError for what libjpeg-turbo does not decode.

    Returns:
        uint8 (height, width, channels), writable and C-contiguous.

    Raises:
        ImageFormatError: not an accepted image format.
        ImageDamagedError: truncated or corrupt.
        ImageTooLargeError: more than `max_pixels`, or more memory or CPU time than one image may
            cost (`price.picture_limits`).
    """
    if header is None:
        header = read_header(data)
    check_pixels(header.width, header.height, max_pixels)
    scale = jpeg_scale(header, header.upright_size, min_size)
    with _one_image(data, header):
        allowance = admit(data, header, scale)
        pixels = _decode_stored(
            data, header, channels, scale, smooth_chroma, allowance, may_use_pillow
        )
        return _turn_upright(pixels, header)


def decode_region(
    data: bytes,
    region: Box,
    *,
    channels: int = 3,
    min_size: tuple[int, int] | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    header: ImageHeader | None = None,
    smooth_chroma: bool = True,
    bgr: bool = False,
) -> UInt8Array:
    """Decode a region of an image file, and of a JPEG little more than that region.

    Args:
        data: the file's content.
        region: (top, left, height, width) in pixels of the upright image, inside it.
        min_size: (height, width). If given, the region of a JPEG may be decoded at 1/2, 1/4 or 1/8,
            as long as neither side falls below this. Its edges then move by up to 7 pixels of the
            file, to multiples of the scale.
        channels, max_pixels, header, smooth_chroma: as in `decode`.
        bgr: colors in the order blue, green, red.

    Returns:
        uint8 (height, width, channels), rows contiguous; at full scale these are the pixels that
        `decode` gives there, bit for bit.

    Raises:
        ImageError: as `decode` does; damage outside the region may go unnoticed.
    """
    if header is None:
        header = read_header(data)
    check_pixels(header.width, header.height, max_pixels)
    scale = jpeg_scale(header, region[2:], min_size)
    with _one_image(data, header):
        allowance = admit(data, header, scale)
        box = _stored_box(region, header)
        if scale > 1:
            box = (box[0] - box[0] % scale, box[1] - box[1] % scale,
                   box[2] - box[2] % scale, box[3] - box[3] % scale)  # fmt: skip
        pixels = None
        if header.format == "JPEG" and not header.is_progressive:
            pixels = _decode_jpeg_region(
                data, header, box, _COLORS[channels, bgr], scale, smooth_chroma
            )
        if pixels is None:
            whole = _decode_stored(data, header, channels, scale, smooth_chroma, allowance)
            top, left = box[0] // scale, box[1] // scale
            pixels = whole[top : top - (-box[2] // scale), left : left - (-box[3] // scale)]
            if bgr:
                pixels = np.ascontiguousarray(pixels[:, :, ::-1])
        return _turn_upright(pixels, header)


@contextmanager
def _one_image(data: bytes, header: ImageHeader) -> Iterator[None]:
    """Turn an unforeseen error into one of this image alone: all others still count."""
    try:
        yield
    except (ImageClassificationError, MemoryError):
        raise
    except Exception as error:
        raise ImageDamagedError(
            f"decoding this {header.format} of {header.width} × {header.height} pixels "
            f"({len(data)} bytes) failed: {type(error).__name__}: {error}; save the image again"
        ) from error


def check_pixels(width: int, height: int, max_pixels: int, when: str = "") -> None:
    """Raise an ImageTooLargeError for more than `max_pixels` pixels; `when` names the stage."""
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"expected at most {max_pixels} pixels ({max_pixels / 1e6:.1f} megapixels), {when}got "
            f"{width} × {height} = {width * height / 1e6:.1f} megapixels; "
            "make the image smaller or raise the limit (IMAGE_CLASSIFICATION_MAX_PIXELS)"
        )


def jpeg_scale(header: ImageHeader, size: tuple[int, int], min_size: tuple[int, int] | None) -> int:
    """Return the largest of 8, 4, 2 that leaves both sides at `min_size` or above, else 1.

    Args:
        header: of a file; only a JPEG can be decoded at a fraction of its size.
        size: (height, width) of what is decoded.
        min_size: (height, width), or None for the full size.
    """
    if min_size is None or header.format != "JPEG":
        return 1
    height, width = size
    for scale in _SCALES:
        if height // scale >= min_size[0] and width // scale >= min_size[1]:
            return scale
    return 1


def _stored_box(box: Box, header: ImageHeader) -> Box:
    """Find where a box of the upright image is stored."""
    top, left, height, width = box
    rows, columns = _BACKWARD.get(header.orientation, (1, 1))
    full_height, full_width = header.upright_size
    if rows < 0:
        top = full_height - top - height
    if columns < 0:
        left = full_width - left - width
    return (left, top, width, height) if header.is_transposed else (top, left, height, width)


def _turn_upright(pixels: UInt8Array, header: ImageHeader) -> UInt8Array:
    """Turn H·W·C as stored upright, C-contiguous: a copy of about 4 ns per pixel, or none."""
    if header.orientation == UPRIGHT:
        return pixels
    pixels = np.ascontiguousarray(pixels)
    # Whole pixels are moved, not channels: half the time.
    whole = pixels.view(f"V{pixels.shape[2]}")[:, :, 0]
    if header.is_transposed:
        whole = whole.T
    rows, columns = _BACKWARD.get(header.orientation, (1, 1))
    turned = np.ascontiguousarray(whole[::rows, ::columns])
    return turned.view(np.uint8).reshape(*turned.shape, pixels.shape[2])


def _decode_stored(
    data: bytes,
    header: ImageHeader,
    channels: int,
    scale: int,
    smooth_chroma: bool,
    allowance: Allowance,
    may_use_pillow: bool = True,
) -> UInt8Array:
    """All pixels as stored (H·W·C), at 1/`scale`."""
    pixels = None
    if header.format == "JPEG":
        pixels = _decode_whole_jpeg(data, header, _COLORS[channels, False], scale, smooth_chroma)
    if pixels is None and not may_use_pillow:
        raise UnusualImageError(f"libjpeg-turbo does not decode this {header.format}")
    if pixels is None and channels == 4:
        colors = _decode_with_pillow(data, header, 3, scale, allowance)
        pixels = np.empty((*colors.shape[:2], 4), np.uint8)
        pixels[:, :, :3] = colors
        pixels[:, :, 3] = 255
    if pixels is None:
        pixels = _decode_with_pillow(data, header, channels, scale, allowance)
    return pixels


def _decode_whole_jpeg(
    data: bytes, header: ImageHeader, colors: str, scale: int, smooth_chroma: bool
) -> UInt8Array | None:
    """Decode with libjpeg-turbo, C-contiguous; None if it finds any fault."""
    if header.channels not in (1, 3):
        return None  # CMYK: Pillow knows Adobe's inversion
    size = (header.height, header.width)
    try:
        if simplejpeg.decode_jpeg_header(data)[:2] != size:
            return None
    except MemoryError:
        raise
    except Exception:  # KeyError, for example, at a sampling that has no name
        return None
    return _decode_jpeg(data, size, colors, scale, smooth_chroma)


def _decode_jpeg_region(
    data: bytes, header: ImageHeader, box: Box, colors: str, scale: int, smooth_chroma: bool
) -> UInt8Array | None:
    """The pixels of `box` at 1/`scale`, the same that cutting them from the whole image gives.

    `box` is as stored; its top and left are multiples of `scale`. Returns a view with contiguous
    rows, or None where libjpeg-turbo finds a fault or decoding the region saves nothing.
    """
    layout = read_layout(data)
    if layout is None or header.channels not in (1, 3):
        return None
    margin = _CHROMA_REACH if smooth_chroma and layout.has_small_chroma else 0
    cut = cut_jpeg(data, (header.height, header.width), layout, box, margin)
    if cut is None:
        return None
    pixels = _decode_jpeg(cut.data, cut.box[2:], colors, scale, smooth_chroma, strict=cut.is_whole)
    if pixels is None:
        return None
    top, left = (box[0] - cut.box[0]) // scale, (box[1] - cut.box[1]) // scale
    return pixels[top : top - (-box[2] // scale), left : left - (-box[3] // scale)]


def _decode_jpeg(
    data: bytes | bytearray,
    size: tuple[int, int],
    colors: str,
    scale: int,
    smooth_chroma: bool,
    strict: bool = True,
) -> UInt8Array | None:
    # What libjpeg makes of 1/scale; any smaller scale would fall below it.
    height, width = -(-size[0] // scale), -(-size[1] // scale)
    try:
        pixels: UInt8Array = simplejpeg.decode_jpeg(
            data,
            colorspace=colors,
            min_height=height if scale > 1 else 0,
            min_width=width if scale > 1 else 0,
            fastupsample=not smooth_chroma,
            strict=strict,
        )
    except MemoryError:
        raise
    except Exception:
        return None
    return pixels if pixels.shape[:2] == (height, width) else None


@cache
def _configure_pillow() -> None:
    # Pillow's blocks of 16 MiB come from a thread's heap, where glibc keeps them: 144 MiB for each
    # thread that ever had an image of 36 megapixels. Blocks beyond 32 MiB go back to the system.
    Image.core.set_block_size(64 * 2**20)  # type: ignore[attr-defined]  # not in the types
    # Each of our threads decodes one image. Pillow would start a thread per CPU for each of them,
    # whose time the limit of an image does not count.
    AvifImagePlugin.DEFAULT_MAX_THREADS, AvifImagePlugin.DECODE_CODEC_CHOICE = 1, CODEC


def _decode_with_pillow(
    data: bytes, header: ImageHeader, channels: int, scale: int, allowance: Allowance
) -> UInt8Array:
    _configure_pillow()
    if header.format == "TIFF":
        data = without_metadata(data)
    elif header.format == "AVIF":
        data = only_still_image(data)
    content = cast("IO[bytes]", PixelStream(data, pixel_spans(data, header), allowance))
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
            return to_array(image, header, channels, allowance)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(f"{error}; make the image smaller (Pillow's own limit)") from error
    except _PILLOW_ERRORS as error:
        raise ImageDamagedError(
            f"this {header.format} of {header.width} × {header.height} pixels "
            f"({len(data)} bytes) is truncated or corrupt{_other_cause(data, header)}: {error}"
        ) from error


def _other_cause(data: bytes, header: ImageHeader) -> str:
    """Another cause to report: libwebp gives the same error for damage and for lack of memory."""
    if header.format != "WEBP" or b"VP8L" not in data:
        return ""
    return (
        ", or its code tables need more memory than an image of this size can take (save it again, "
        "for example as PNG)"
    )
