"""One training image from its bytes and one row of random numbers: a pure function.

In: an `Augmentation`, the bytes of an image file and a row of `draw_numbers`, which holds all
randomness; the rows of a batch are drawn at once, so an image depends neither on the thread that
makes it nor on the time. Out: uint8 height·width·channels, like `preprocess`; equal numbers make
equal pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from image_classification.images import operations, randaugment
from image_classification.images import preprocessing as evaluation
from image_classification.images.decode import decode_region
from image_classification.images.header import ImageHeader, read_header
from image_classification.images.jpeg_regions import Box
from image_classification.images.preprocessing import Preprocessing, resize
from image_classification.images.resize import HIDING_RATIO, resize_into
from image_classification.samples import Float64Array, StructuredArray, UInt8Array

_TRIALS = 10  # areas and aspect ratios tried before the center is taken, as in torchvision
_SLOTS = randaugment.MAX_OPERATIONS
_MOST_RESIZED = 8 << 20
"""Pixels of an image that is resized as a whole before it is warped: a 1:8 panorama at 1,024. Of a
larger one only the region that the crop shows is resized; a thin image would fill the memory."""

NUMBERS = np.dtype(
    [
        ("top", "f8"), ("left", "f8"), ("tall", "f8", _TRIALS), ("wide", "f8", _TRIALS),
        ("horizontal_flip", "?"), ("vertical_flip", "?"),
        ("rotation", "f8"), ("zoom", "f8"), ("shear", "f8"), ("ratio", "f8"),
        ("hue", "i8"), ("saturation", "i8"), ("lightness", "i8"),
        ("operations", "i8", _SLOTS), ("signs", "f8", _SLOTS),
        ("erased", "?"), ("erasing", "f8", 4),
    ]
)  # fmt: skip
"""One row per image: `top` and `left` as shares, 0 to below 1, of the room for the crop; `tall` and
`wide`, the regions to try, as shares of the side of a square of the image's area."""


@dataclass(frozen=True)
class Augmentation:
    """What is random in a training image; the default is nothing, which equals `preprocess`.

    Attributes:
        crop: "center", "random" (any position in the resized image) or "random_resized" (a region
            of random area and aspect ratio, resized to the input; ignores `Preprocessing.resize`
            and `mode`).
        area: lowest and highest share of the image's area, for "random_resized".
        aspect: lowest and highest width / height, drawn uniformly in its logarithm.
        horizontal_flip, vertical_flip: probabilities.
        rotation: lowest and highest angle in degrees, positive counterclockwise.
        zoom: lowest and highest zoom; 0.1 shows 10% more of the image, −0.1 less.
        shear: largest shear either way.
        stretch: largest change of the aspect ratio either way: 1 ± stretch.
        hue, saturation, lightness: largest offsets either way, see `color_jitter`.
        fill: what lies outside a warped image: "reflect" or a gray level.
        operations, magnitude: of RandAugment, 0 to 4 operations of magnitude 0 to 30.
        erasing: probability that a rectangle is erased.
    """

    crop: str = "center"
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    rotation: tuple[float, float] = (0.0, 0.0)
    zoom: tuple[float, float] = (0.0, 0.0)
    shear: float = 0.0
    stretch: float = 0.0
    hue: int = 0
    saturation: int = 0
    lightness: int = 0
    fill: int | str = "reflect"
    operations: int = 0
    magnitude: float = 9.0
    erasing: float = 0.0

    @classmethod
    def mxnet(cls, augmentation_type: str | None) -> Augmentation:
        """The level `augmentation_type` of the MXNet built-in; "" or None is no augmentation."""
        if not augmentation_type:
            return cls()
        crop = cls(crop="random", horizontal_flip=0.5)
        color = replace(crop, hue=36, saturation=50, lightness=50)
        return {
            "crop": crop,
            "crop_color": color,
            "crop_color_transform": replace(
                color, rotation=(-10.0, 10.0), shear=0.1, stretch=0.25, fill=255
            ),
        }[augmentation_type]

    @classmethod
    def keras(cls, flip: str, rotation: float, zoom: float) -> Augmentation:
        """The three layers of the TensorFlow built-in: RandomFlip, RandomRotation, RandomZoom.

        Args:
            flip: "horizontal_and_vertical", "horizontal", "vertical" or "None".
            rotation: largest turn either way as a fraction of a full turn.
            zoom: largest zoom either way.
        """
        degrees = 360 * abs(rotation)
        return cls(
            horizontal_flip=0.5 if "horizontal" in flip else 0.0,
            vertical_flip=0.5 if "vertical" in flip else 0.0,
            rotation=(-degrees, degrees),
            zoom=(-abs(zoom), abs(zoom)),
        )

    @property
    def warps(self) -> bool:
        """Whether images are rotated, zoomed, sheared or stretched."""
        return any((*self.rotation, *self.zoom, self.shear, self.stretch))


def draw_numbers(
    augmentation: Augmentation, generator: np.random.Generator, count: int
) -> StructuredArray:
    """Draw the numbers of `count` images, dtype `NUMBERS`; equally many draws for each image."""
    draws = generator.random((count, 20 + 2 * _TRIALS))
    numbers = np.zeros(count, NUMBERS)
    numbers["top"], numbers["left"] = draws[:, 0], draws[:, 1]
    numbers["horizontal_flip"] = draws[:, 2] < augmentation.horizontal_flip
    numbers["vertical_flip"] = draws[:, 3] < augmentation.vertical_flip
    stretch = augmentation.stretch
    ranges = {
        "rotation": augmentation.rotation,
        "zoom": augmentation.zoom,
        "shear": (-augmentation.shear, augmentation.shear),
        "ratio": (1 - stretch, 1 + stretch),
    }
    for column, (name, (low, high)) in enumerate(ranges.items(), start=4):
        numbers[name] = low + (high - low) * draws[:, column]
    for column, name in enumerate(("hue", "saturation", "lightness")):
        limit = getattr(augmentation, name)
        # MXNet's mean of two draws, which makes extremes rarer; truncated toward 0 like there.
        share = (draws[:, 8 + 2 * column] + 4 * draws[:, 9 + 2 * column]) / 5
        numbers[name] = np.trunc((2 * share - 1) * limit)
    (low, high), (flat, wide) = augmentation.area, np.log(augmentation.aspect)
    area = low + (high - low) * draws[:, 20 : 20 + _TRIALS]
    aspect = np.exp(flat + (wide - flat) * draws[:, 20 + _TRIALS :])
    numbers["tall"], numbers["wide"] = np.sqrt(area / aspect), np.sqrt(area * aspect)
    more = generator.random((count, 5 + 2 * _SLOTS))
    numbers["erased"] = more[:, 0] < augmentation.erasing
    numbers["erasing"] = more[:, 1:5]
    numbers["operations"] = len(randaugment.OPERATIONS) * more[:, 5 : 5 + _SLOTS]
    numbers["signs"] = np.where(more[:, 5 + _SLOTS :] < 0.5, -1.0, 1.0)
    return numbers


def augment(
    data: bytes,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    numbers: np.void,
    out: UInt8Array | None = None,
) -> UInt8Array:
    """Make one training image: a function of the bytes and of `numbers`, a row of `draw_numbers`.

    The order is: decode, crop or resize, warp about the center, flip, color jitter, RandAugment,
    random erasing.

    Raises:
        ImageError: as `preprocess` does.
    """
    if out is None:
        shape = (preprocessing.height, preprocessing.width, preprocessing.channels)
        out = np.empty(shape, np.uint8)
    crop = _crop_resized if augmentation.crop == "random_resized" else _crop
    crop(data, preprocessing, augmentation, numbers, out)
    if augmentation.hue or augmentation.saturation or augmentation.lightness:
        offsets = (int(numbers[name]) for name in ("hue", "lightness", "saturation"))
        operations.color_jitter(out, *offsets)
    if augmentation.operations:
        chosen = slice(augmentation.operations)
        strength = numbers["signs"][chosen] * (augmentation.magnitude / randaugment.MAX_MAGNITUDE)
        randaugment.randaugment(out, numbers["operations"][chosen], strength)
    if numbers["erased"]:
        operations.random_erasing(out, numbers["erasing"].tolist(), preprocessing.mean)
    return out


def _crop(
    data: bytes,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    numbers: np.void,
    out: UInt8Array,
) -> None:
    """The input's size at the center of, or anywhere in, the resized and perhaps warped image."""
    header = read_header(data)
    resized = evaluation.resized_size(header.upright_size, preprocessing)
    room = (resized[0] - out.shape[0], resized[1] - out.shape[1])
    corner = (room[0] // 2, room[1] // 2)
    if augmentation.crop == "random":
        corner = (_position(numbers["top"], room[0]), _position(numbers["left"], room[1]))
    flips = bool(numbers["horizontal_flip"]), bool(numbers["vertical_flip"])
    if augmentation.crop == "random" and not augmentation.warps:
        _crop_region(data, header, resized, corner, preprocessing, out, *flips)
        return
    image = evaluation.decode_for(data, header, resized, preprocessing)
    if not augmentation.warps:
        evaluation.resize_and_crop(image, resized, corner, preprocessing, out, *flips)
        return
    warp = operations.Warp(_matrix(numbers), resized, corner, augmentation.fill)
    at = (0, 0)
    if resized != image.shape[:2]:
        region: Box | None = (0, 0, *resized)
        if resized[0] * resized[1] > max(_MOST_RESIZED, 8 * out.shape[0] * out.shape[1]):
            region = warp.source(*out.shape[:2])
        if region is None:  # a turn about the center moves the ends of a long image far away
            out[...] = augmentation.fill
            return
        at = region[:2]
        image = _resize_region(image, resized, region, preprocessing.interpolation)
    operations.affine(image, warp, out, *flips, at=at)


def _resize_region(
    image: UInt8Array, resized: tuple[int, int], region: Box, interpolation: str
) -> UInt8Array:
    """Resize an image to `resized` (height, width), but compute only a region of the result."""
    top, left, height, width = region
    if (height, width) == resized:
        return resize(image, height, width, interpolation)
    down, across = image.shape[0] / resized[0], image.shape[1] / resized[1]
    box = (left * across, top * down, (left + width) * across, (top + height) * down)
    return resize(image, height, width, interpolation, box)


def _crop_region(
    data: bytes,
    header: ImageHeader,
    resized: tuple[int, int],
    corner: tuple[int, int],
    preprocessing: Preprocessing,
    out: UInt8Array,
    horizontal_flip: bool,
    vertical_flip: bool,
) -> None:
    """As `resize_and_crop`, to less than a pixel; nothing outside the crop is decoded or seen."""
    size = header.upright_size
    rows, columns = size[0] / resized[0], size[1] / resized[1]
    top, left = corner[0] * rows, corner[1] * columns
    bottom = min(size[0], top + out.shape[0] * rows)
    right = min(size[1], left + out.shape[1] * columns)
    region = (int(top), int(left), math.ceil(bottom) - int(top), math.ceil(right) - int(left))
    image = _decode_region(data, header, region, preprocessing, bgr=horizontal_flip)
    box = None
    if image.shape[:2] == region[2:]:  # else it was decoded smaller, and its edges have moved
        box = (left - region[1], top - region[0], right - region[1], bottom - region[0])
    resize_into(image, out, preprocessing.interpolation, horizontal_flip, vertical_flip, box)


def _crop_resized(
    data: bytes,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    numbers: np.void,
    out: UInt8Array,
) -> None:
    """A region of random area and aspect ratio, resized to the input and perhaps warped."""
    header = read_header(data)
    size = header.upright_size
    height, width = _region_size(size, numbers, augmentation.aspect)
    top = _position(numbers["top"], size[0] - height)
    left = _position(numbers["left"], size[1] - width)
    interpolation, region = preprocessing.interpolation, (top, left, height, width)
    flips = bool(numbers["horizontal_flip"]), bool(numbers["vertical_flip"])
    bgr = flips[0] and not augmentation.warps
    image = _decode_region(data, header, region, preprocessing, bgr=bgr)
    if augmentation.warps:
        unwarped = np.empty_like(out)
        resize_into(image, unwarped, interpolation)
        whole = (preprocessing.height, preprocessing.width)
        warp = operations.Warp(_matrix(numbers), whole, (0, 0), augmentation.fill)
        operations.affine(unwarped, warp, out, *flips)
    else:
        resize_into(image, out, interpolation, *flips)


def _decode_region(
    data: bytes, header: ImageHeader, region: Box, preprocessing: Preprocessing, *, bgr: bool
) -> UInt8Array:
    """Decode a region for `resize_into`, which takes BGR if it is to flip it horizontally."""
    target = (preprocessing.height, preprocessing.width)
    ratio = min(region[2] / target[0], region[3] / target[1])
    return decode_region(
        data,
        region,
        channels=preprocessing.channels,
        # The decoder's smaller scales average, which "nearest" promises not to do.
        min_size=None if preprocessing.interpolation == "nearest" else target,
        max_pixels=preprocessing.max_pixels,
        header=header,
        smooth_chroma=ratio < HIDING_RATIO,
        bgr=bgr,
    )


def _matrix(numbers: np.void) -> Float64Array:
    names = ("rotation", "zoom", "shear", "ratio")
    return operations.affine_matrix(*(float(numbers[name]) for name in names))


def _position(share: float, room: int) -> int:
    """A position from 0 to `room`, each equally likely."""
    return int(share * (room + 1))


def _region_size(
    size: tuple[int, int], numbers: np.void, aspect: tuple[float, float]
) -> tuple[int, int]:
    """(height, width): the first drawn region that fits, else the largest in the aspect range."""
    side = math.sqrt(size[0] * size[1])
    for tall, wide in zip(numbers["tall"].tolist(), numbers["wide"].tolist(), strict=True):
        height, width = round(side * tall), round(side * wide)
        if 0 < height <= size[0] and 0 < width <= size[1]:
            return height, width
    ratio = min(max(size[1] / size[0], aspect[0]), aspect[1])
    height = max(1, min(size[0], round(size[1] / ratio)))
    return height, max(1, min(size[1], round(size[0] * ratio)))
