"""Bytes to pixels and back: the only place in the project that decodes an image.

In: the bytes of an image file (JPEG, PNG, GIF, WEBP, BMP), of which nothing is trusted. Out: uint8
H·W·C, upright, RGB or grey, C-contiguous; or an `ImageError` that says what is wrong.

Plain JPEG goes through simplejpeg (libjpeg-turbo), which refuses whatever it has a complaint about;
those files and all other formats go to Pillow, which decides. Both free the interpreter lock while
they decode and resize.
"""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from PIL import Image

from image_classification.data.headers import ImageHeader, read_header
from image_classification.data.jpeg_cutting import Box
from image_classification.data.jpeg_decoding import decode_jpeg, decode_jpeg_part
from image_classification.data.orientation import UPRIGHT, stored_box, turn_upright
from image_classification.data.pillow_decoding import decode_with_pillow
from image_classification.data.samples import UInt8Array
from image_classification.errors import ImageDamagedError, ImageTooLargeError

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
    scale = _reduction(header, header.upright_size, min_size)
    pixels = _decode_stored(data, header, channels, scale, smooth_chroma)
    return turn_upright(pixels, header.orientation)


def decode_part(
    data: bytes,
    part: Box,
    *,
    channels: int = 3,
    min_size: tuple[int, int] | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    header: ImageHeader | None = None,
    smooth_chroma: bool = True,
    blue_first: bool = False,
) -> UInt8Array:
    """Decode a part of an image file, and of a JPEG not much more than that part.

    Args:
        data: the file's content.
        part: (top, left, height, width) in pixels of the upright picture, inside it.
        min_size: (height, width). If given, the part of a JPEG may come back at 1/2, 1/4 or 1/8, as
            long as neither side falls below this. Its edges then move by up to 7 pixels of the
            file, to multiples of the reduction.
        channels, max_pixels, header, smooth_chroma: as in `decode`.
        blue_first: colours in the order blue, green, red.

    Returns:
        uint8 (height, width, channels), rows contiguous; not reduced, these are the pixels that
        `decode` gives there, bit for bit.

    Raises:
        ImageError: as `decode` does; damage outside the part may go unnoticed.
    """
    if header is None:
        header = read_header(data)
    check_pixels(header.width, header.height, max_pixels)
    scale = _reduction(header, part[2:], min_size)
    box = stored_box(part, (header.height, header.width), header.orientation)
    if scale > 1:
        box = (box[0] - box[0] % scale, box[1] - box[1] % scale,
               box[2] - box[2] % scale, box[3] - box[3] % scale)  # fmt: skip
    pixels = None
    if header.format == "JPEG" and not header.is_progressive:
        pixels = decode_jpeg_part(data, header, box, channels, scale, smooth_chroma, blue_first)
    if pixels is None:
        whole = _decode_stored(data, header, channels, scale, smooth_chroma)
        top, left = box[0] // scale, box[1] // scale
        pixels = whole[top : top - (-box[2] // scale), left : left - (-box[3] // scale)]
        if blue_first:
            pixels = np.ascontiguousarray(pixels[:, :, ::-1])
    if header.orientation != UPRIGHT:
        pixels = turn_upright(np.ascontiguousarray(pixels), header.orientation)
    return pixels


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


def _decode_stored(
    data: bytes, header: ImageHeader, channels: int, scale: int, smooth_chroma: bool
) -> UInt8Array:
    """All pixels as stored (H·W·C), at 1/`scale`."""
    pixels = None
    if header.format == "JPEG":
        _check_scans(data, header)
        pixels = decode_jpeg(data, header, channels, scale, smooth_chroma)
    if pixels is None:
        pixels = decode_with_pillow(data, header, channels, scale)
    return pixels


def _reduction(header: ImageHeader, size: tuple[int, int], min_size: tuple[int, int] | None) -> int:
    """The largest of 8, 4, 2 that leaves both sides of `size` at `min_size` or above, else 1."""
    if min_size is None or header.format != "JPEG":
        return 1
    height, width = size
    for scale in _SCALES:
        if height // scale >= min_size[0] and width // scale >= min_size[1]:
            return scale
    return 1
