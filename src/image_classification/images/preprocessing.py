"""The preprocessing of evaluation: one value, saved in the artifact, and its only implementation.

In: the bytes of an image file. Out: uint8 height·width·channels, the input of the model's graph.
Validation, `predict` and the server all call `preprocess`, so they cannot differ.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

import numpy as np
from PIL import Image

from image_classification.errors import DataError, ImageError
from image_classification.images.decode import (
    DEFAULT_MAX_PIXELS,
    check_pixels,
    decode,
    jpeg_scale,
)
from image_classification.images.header import ImageHeader, read_header
from image_classification.images.price import Price, check_resize, price_of, with_resize
from image_classification.samples import UInt8Array

INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "area": Image.Resampling.BOX,  # TensorFlow's name
    "lanczos": Image.Resampling.LANCZOS,
    "hamming": Image.Resampling.HAMMING,
}
MODES = ("crop", "squash")
SMALL_IMAGES = ("enlarge", "refuse")

Box = tuple[float, float, float, float]
"""(left, top, right, bottom), as shares of the width and height of an upright image."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image file becomes the input of the model.

    Attributes:
        channels: 3 (RGB) or 1 (gray).
        height, width: of the model's input, in pixels.
        resize: the shorter side in pixels before the crop; None crops the image as it is.
        mode: "crop" (resize the shorter side, then crop the center) or "squash" (resize both sides
            to the input's, which changes the aspect ratio; ignores `resize`).
        interpolation: a key of `INTERPOLATIONS`.
        mean, std: one per channel in units of 0 to 255. Not applied here: the model's graph
            computes (pixel − mean) / std. People can read them in the artifact.
        max_pixels: larger images are refused.
        small_images: "enlarge" a resized image that is smaller than the crop, or "refuse" it.
    """

    height: int
    width: int
    channels: int = 3
    resize: int | None = None
    mode: str = "crop"
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    max_pixels: int = DEFAULT_MAX_PIXELS
    small_images: str = "enlarge"

    def __post_init__(self) -> None:
        """Raise a DataError that names a field with an impossible value."""
        resize = 1 if self.resize is None else self.resize
        for name in ("height", "width", "channels", "max_pixels", "resize"):
            value = resize if name == "resize" else getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise DataError(f"preprocessing: {name} must be a whole number from 1, got {value}")
        choices = {
            "channels": (1, 3),
            "mode": MODES,
            "interpolation": tuple(INTERPOLATIONS),
            "small_images": SMALL_IMAGES,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise DataError(
                    f"preprocessing: {name} must be one of {', '.join(map(str, allowed))}, "
                    f"got {getattr(self, name)!r}"
                )
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            are_numbers = all(isinstance(x, (int, float)) and math.isfinite(x) for x in numbers)
            if len(numbers) != self.channels or not are_numbers:
                raise DataError(
                    f"preprocessing: {name} must be {self.channels} numbers, got {numbers}"
                )
        if min(self.std) <= 0:
            raise DataError(f"preprocessing: std must be above 0, got {self.std}")

    def to_json(self) -> dict[str, object]:
        """Return a JSON object of all fields."""
        content = asdict(self)
        return {**content, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, content: object) -> Preprocessing:
        """Read what `to_json` returns; a DataError names unknown, missing or impossible fields."""
        expected = {field.name for field in fields(cls)}
        if not isinstance(content, dict) or set(content) != expected:
            found = sorted(content) if isinstance(content, dict) else repr(content)[:200]
            raise DataError(f"preprocessing: expected the fields {sorted(expected)}, got {found}")
        try:
            return cls(**{**content, "mean": tuple(content["mean"]), "std": tuple(content["std"])})
        except (TypeError, OverflowError) as error:  # a whole number can be beyond every float
            raise DataError(f"preprocessing: mean and std must be lists: {error}") from error


def preprocess(
    data: bytes,
    preprocessing: Preprocessing,
    out: UInt8Array | None = None,
    header: ImageHeader | None = None,
    may_use_pillow: bool = True,
) -> UInt8Array:
    """Turn one image file into the model's input: a deterministic function of the bytes.

    Args:
        data: the file's content.
        preprocessing: what to do.
        out: where to write the result, uint8 (height, width, channels); None makes a new array.
        header: of `data`, if the caller has read it already.
        may_use_pillow: as in `decode`.

    Raises:
        ImageError: one of its subclasses, see `decode`; itself if the image is too small and
            `small_images` is "refuse".
    """
    height, width = preprocessing.height, preprocessing.width
    if header is None:
        header = read_header(data)
    resized = resized_size(header.upright_size, preprocessing)
    top, left = (resized[0] - height) // 2, (resized[1] - width) // 2
    check_resize(height, width)
    image = decode_for(data, header, resized, preprocessing, may_use_pillow)
    return resize_and_crop(image, resized, (top, left), preprocessing, out)


def price_for(data: bytes, header: ImageHeader, preprocessing: Preprocessing) -> Price:
    """Return what `preprocess` of `data`, with this header, costs at most.

    Raises:
        ImageError: the image has too many pixels or scans, or it is too small and may not be.
    """
    check_pixels(header.width, header.height, preprocessing.max_pixels)
    resized = resized_size(header.upright_size, preprocessing)
    smallest = _smallest_decoded(resized, preprocessing)
    scale = jpeg_scale(header, header.upright_size, smallest)
    rows = -(-header.upright_size[0] // scale)
    output = (preprocessing.height, preprocessing.width)
    return with_resize(price_of(data, header, scale), rows, output)


def resized_size(upright_size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the (height, width) in pixels to which an image is resized before the crop."""
    height, width = upright_size
    needed = (preprocessing.height, preprocessing.width)
    if preprocessing.mode == "squash":
        return needed
    size = upright_size
    if preprocessing.resize is not None:
        shorter = min(upright_size)
        # Whole numbers: the longer side is rounded down, the shorter one is exact.
        size = (preprocessing.resize * height // shorter, preprocessing.resize * width // shorter)
    if size[0] >= needed[0] and size[1] >= needed[1]:
        return size
    if preprocessing.small_images == "refuse":
        raise ImageError(
            f"the image has {width} × {height} pixels (width × height), {size[1]} × {size[0]} "
            f"before the crop; expected at least {needed[1]} × {needed[0]}: "
            f"set resize to at least {max(needed)}"
        )
    factor = max(needed[0] / height, needed[1] / width)
    return max(needed[0], int(height * factor)), max(needed[1], int(width * factor))


def decode_for(
    data: bytes,
    header: ImageHeader,
    min_size: tuple[int, int],
    preprocessing: Preprocessing,
    may_use_pillow: bool = True,
) -> UInt8Array:
    """Decode the upright image, at a smaller scale if `min_size` (height, width) allows it."""
    return decode(
        data,
        channels=preprocessing.channels,
        min_size=_smallest_decoded(min_size, preprocessing),
        max_pixels=preprocessing.max_pixels,
        header=header,
        may_use_pillow=may_use_pillow,
    )


def seen_box(upright_size: tuple[int, int], preprocessing: Preprocessing) -> Box:
    """Return the part of an image of this (height, width) that the model sees."""
    rows, columns = resized_size(upright_size, preprocessing)
    height, width = preprocessing.height, preprocessing.width
    top, left = (rows - height) // 2, (columns - width) // 2
    return left / columns, top / rows, (left + width) / columns, (top + height) / rows


def _smallest_decoded(
    resized: tuple[int, int], preprocessing: Preprocessing
) -> tuple[int, int] | None:
    # The decoder's smaller scales average, which "nearest" promises not to do.
    return None if preprocessing.interpolation == "nearest" else resized


def resize_and_crop(
    image: UInt8Array,
    resized: tuple[int, int],
    corner: tuple[int, int],
    preprocessing: Preprocessing,
    out: UInt8Array | None,
    horizontal_flip: bool = False,
    vertical_flip: bool = False,
) -> UInt8Array:
    """Resize `image` to `resized` (height, width), crop the input's size at `corner`, and flip.

    All in one step, so only the pixels of the crop are computed; rounding may differ from separate
    steps by a level or two of 255.
    """
    height, width = preprocessing.height, preprocessing.width
    (top, left), (rows, columns) = corner, image.shape[:2]
    flips = (horizontal_flip, vertical_flip)
    if resized == (rows, columns) and not any(flips):
        cropped = image[top : top + height, left : left + width]
        if out is None:
            return np.ascontiguousarray(cropped)
        out[...] = cropped
        return out
    box = (
        left * columns / resized[1],
        top * rows / resized[0],
        (left + width) * columns / resized[1],
        (top + height) * rows / resized[0],
    )
    return resize(image, height, width, preprocessing.interpolation, box, out, *flips)


def resize(
    image: UInt8Array,
    height: int,
    width: int,
    interpolation: str = "bilinear",
    box: tuple[float, float, float, float] | None = None,
    out: UInt8Array | None = None,
    horizontal_flip: bool = False,
    vertical_flip: bool = False,
) -> UInt8Array:
    """Resize with antialiasing (the filter widens when it shrinks); "nearest" has none.

    Args:
        image: uint8 (H, W, channels), 1 or 3 channels.
        height, width: of the result, in pixels.
        interpolation: a key of `INTERPOLATIONS`.
        box: (left, top, right, bottom) in pixels of `image`, fractions allowed: what to resize. The
            filter may look at pixels beyond it, so the result is what resizing the whole image and
            then cropping gives.
        out: where to write the result, uint8 (height, width, channels).
        horizontal_flip, vertical_flip: flip the result; 25 µs here, ten times that in NumPy.

    Returns:
        `out`, or a new C-contiguous array.
    """
    picture = Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0])
    resized = picture.resize((width, height), INTERPOLATIONS[interpolation], box)
    if out is None:
        out = np.empty((height, width, image.shape[2]), np.uint8)
    out[...] = np.asarray(flipped(resized, horizontal_flip, vertical_flip)).reshape(out.shape)
    return out


def flipped(picture: Image.Image, horizontal_flip: bool, vertical_flip: bool) -> Image.Image:
    """Flip a Pillow picture from left to right, from top to bottom, both, or not at all."""
    if horizontal_flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if vertical_flip:
        picture = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return picture
