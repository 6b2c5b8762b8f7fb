"""One training image from its bytes and one row of numbers: a pure function.

In: the bytes of an image file and a row of `draw_numbers`, in which all randomness is. Out: uint8
height·width·channels, like `preprocess`; equal numbers make equal pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from image_classification.errors import HyperparameterError
from image_classification.images.decode import decode_region
from image_classification.images.header import ImageHeader, read_header
from image_classification.images.jpeg_regions import Box
from image_classification.images.operations import (
    affine,
    affine_matrix,
    color_jitter,
    random_erasing,
)
from image_classification.images.preprocessing import (
    Preprocessing,
    decode_for,
    resize_and_crop,
    resized_size,
)
from image_classification.images.randaugment import (
    MAX_MAGNITUDE,
    MAX_OPERATIONS,
    OPERATIONS,
    randaugment,
)
from image_classification.images.resize import HIDING_RATIO, resize, resize_into
from image_classification.samples import UInt8Array

_TRIALS = 10  # areas and aspect ratios tried before the center is taken, as in torchvision

NUMBERS = np.dtype(
    [
        ("top", "f8"), ("left", "f8"), ("tall", "f8", _TRIALS), ("wide", "f8", _TRIALS),
        ("horizontal_flip", "?"), ("vertical_flip", "?"),
        ("rotation", "f8"), ("zoom", "f8"), ("shear", "f8"), ("ratio", "f8"),
        ("hue", "i8"), ("saturation", "i8"), ("lightness", "i8"),
        ("operations", "i8", MAX_OPERATIONS), ("signs", "f8", MAX_OPERATIONS),
        ("erased", "?"), ("erasing", "f8", 4),
    ]
)  # fmt: skip
"""One row for each image: `top` and `left` as shares, 0 to below 1, of the room for the crop; the
parts to try, `tall` and `wide` as shares of the side of a square of the image's area."""


@dataclass(frozen=True)
class Augmentation:
    """What is random in a training image; the default is nothing, which equals `preprocess`.

    Attributes:
        crop: "center", "random" (any position of the resized image) or "random_resized" (a part
            of random area and aspect ratio, resized to the input; `Preprocessing.resize` and
            `mode` play no part).
        area: lowest and highest share of the image's area, for "random_resized".
        aspect: lowest and highest width / height, drawn uniformly in its logarithm.
        horizontal_flip, vertical_flip: probabilities.
        rotation: lowest and highest angle in degrees, positive counter-clockwise.
        zoom: lowest and highest zoom; 0.1 shows 10 % more of the image, −0.1 less.
        shear: largest shear either way.
        stretch: largest change of the aspect ratio either way: 1 ± stretch.
        hue, saturation, lightness: largest offsets either way, see `color`.
        fill: what lies outside a warped image: "reflect" or a gray level.
        operations, magnitude: of a RandAugment policy, 0 to 4 operations of strength 0 to 30.
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
        """The levels of the MXNet built-in (contract, 2.5); None or "none" is no augmentation."""
        if augmentation_type in (None, "", "none"):
            return cls()
        crop = cls(crop="random", horizontal_flip=0.5)
        color = replace(crop, hue=36, saturation=50, lightness=50)
        levels = {
            "crop": crop,
            "crop_color": color,
            "crop_color_transform": replace(
                color, rotation=(-10.0, 10.0), shear=0.1, stretch=0.25, fill=255
            ),
        }
        if augmentation_type not in levels:
            raise HyperparameterError(
                f"augmentation_type must be one of {', '.join(levels)}, got {augmentation_type!r}"
            )
        return levels[str(augmentation_type)]

    @classmethod
    def keras(cls, flip: str, rotation: float, zoom: float) -> Augmentation:
        """The three layers of the TensorFlow built-in: RandomFlip, RandomRotation, RandomZoom.

        Args:
            flip: "horizontal_and_vertical", "horizontal", "vertical" or "None".
            rotation: largest turn either way as a fraction of a full turn.
            zoom: largest zoom either way.
        """
        modes = ("horizontal_and_vertical", "horizontal", "vertical", "None")
        if flip not in modes:
            raise HyperparameterError(
                f"augmentation_random_flip must be one of {', '.join(modes)}, got {flip!r}"
            )
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
) -> npt.NDArray[np.void]:
    """The numbers of `count` images, dtype `NUMBERS`; as many draws for each, whatever is used."""
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
    _draw_randaugment(numbers, augmentation, generator.random((count, 5 + 2 * MAX_OPERATIONS)))
    return numbers


def _draw_randaugment(
    numbers: npt.NDArray[np.void], augmentation: Augmentation, draws: npt.NDArray[np.float64]
) -> None:
    numbers["erased"] = draws[:, 0] < augmentation.erasing
    numbers["erasing"] = draws[:, 1:5]
    numbers["operations"] = len(OPERATIONS) * draws[:, 5 : 5 + MAX_OPERATIONS]
    numbers["signs"] = np.where(draws[:, 5 + MAX_OPERATIONS :] < 0.5, -1.0, 1.0)


def augment(
    data: bytes,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    numbers: np.void,
    out: UInt8Array | None = None,
) -> UInt8Array:
    """One training image: a function of the bytes and of `numbers`, a row of `draw_numbers`.

    The order is: decode, crop or resize, warp about the center, flip, color jitter, RandAugment,
    random erasing.

    Raises:
        ImageError: as `preprocess` does.
    """
    if out is None:
        shape = (preprocessing.height, preprocessing.width, preprocessing.channels)
        out = np.empty(shape, np.uint8)
    if augmentation.crop == "random_resized":
        _crop_resized(data, preprocessing, augmentation, numbers, out)
    else:
        _crop(data, preprocessing, augmentation, numbers, out)
    if augmentation.hue or augmentation.saturation or augmentation.lightness:
        color_jitter(
            out, int(numbers["hue"]), int(numbers["lightness"]), int(numbers["saturation"])
        )
    if augmentation.operations:
        chosen = slice(augmentation.operations)
        strength = numbers["signs"][chosen] * (augmentation.magnitude / MAX_MAGNITUDE)
        randaugment(out, numbers["operations"][chosen], strength)
    if numbers["erased"]:
        random_erasing(out, numbers["erasing"].tolist(), preprocessing.mean)
    return out


def _crop(
    data: bytes,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    numbers: np.void,
    out: UInt8Array,
) -> None:
    """The input's size at the center or anywhere in the resized, perhaps warped, image."""
    header = read_header(data)
    resized = resized_size(header.upright_size, preprocessing)
    room = (resized[0] - out.shape[0], resized[1] - out.shape[1])
    corner = (room[0] // 2, room[1] // 2)
    if augmentation.crop == "random":
        corner = (_place(numbers["top"], room[0]), _place(numbers["left"], room[1]))
    flips = bool(numbers["horizontal_flip"]), bool(numbers["vertical_flip"])
    if augmentation.crop == "random" and not augmentation.warps:
        _cut_part(data, header, resized, corner, preprocessing, out, *flips)
        return
    image = decode_for(data, header, resized, preprocessing)
    if augmentation.warps:
        if resized != image.shape[:2]:
            image = resize(image, *resized, preprocessing.interpolation)
        affine(image, _matrix(numbers), corner, augmentation.fill, out, *flips)
    else:
        resize_and_crop(image, resized, corner, preprocessing, out, *flips)


def _cut_part(
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
    part = (int(top), int(left), math.ceil(bottom) - int(top), math.ceil(right) - int(left))
    image = _decode_part(data, header, part, preprocessing, bgr=horizontal_flip)
    box = None
    if image.shape[:2] == part[2:]:  # else it is reduced, and its edges lie where they can
        box = (left - part[1], top - part[0], right - part[1], bottom - part[0])
    resize_into(image, out, preprocessing.interpolation, horizontal_flip, vertical_flip, box)


def _crop_resized(
    data: bytes,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    numbers: np.void,
    out: UInt8Array,
) -> None:
    """A part of random area and aspect ratio, resized to the input, perhaps warped."""
    header = read_header(data)
    size = header.upright_size
    height, width = _part(size, numbers, augmentation.aspect)
    top, left = _place(numbers["top"], size[0] - height), _place(numbers["left"], size[1] - width)
    interpolation = preprocessing.interpolation
    flips = bool(numbers["horizontal_flip"]), bool(numbers["vertical_flip"])
    part = (top, left, height, width)
    bgr = flips[0] and not augmentation.warps
    image = _decode_part(data, header, part, preprocessing, bgr=bgr)
    if augmentation.warps:
        unwarped = np.empty_like(out)
        resize_into(image, unwarped, interpolation)
        affine(unwarped, _matrix(numbers), (0, 0), augmentation.fill, out, *flips)
    else:
        resize_into(image, out, interpolation, *flips)


def _decode_part(
    data: bytes, header: ImageHeader, part: Box, preprocessing: Preprocessing, *, bgr: bool
) -> UInt8Array:
    """A part that will be resized to the input; for `resize_into`, blue first to be mirrored."""
    target = (preprocessing.height, preprocessing.width)
    ratio = min(part[2] / target[0], part[3] / target[1])
    return decode_region(
        data,
        part,
        channels=preprocessing.channels,
        # Reducing in the decoder averages, which "nearest" promises not to do.
        min_size=None if preprocessing.interpolation == "nearest" else target,
        max_pixels=preprocessing.max_pixels,
        header=header,
        smooth_chroma=ratio < HIDING_RATIO,
        bgr=bgr,
    )


def _matrix(numbers: np.void) -> npt.NDArray[np.float64]:
    names = ("rotation", "zoom", "shear", "ratio")
    return affine_matrix(*(float(numbers[name]) for name in names))


def _place(share: float, room: int) -> int:
    """A position from 0 to `room`, each equally likely."""
    return int(share * (room + 1))


def _part(size: tuple[int, int], numbers: np.void, aspect: tuple[float, float]) -> tuple[int, int]:
    """(height, width): the first drawn part that fits, else the largest in the aspect range."""
    side = math.sqrt(size[0] * size[1])
    for tall, wide in zip(numbers["tall"].tolist(), numbers["wide"].tolist(), strict=True):
        height, width = round(side * tall), round(side * wide)
        if 0 < height <= size[0] and 0 < width <= size[1]:
            return height, width
    ratio = min(max(size[1] / size[0], aspect[0]), aspect[1])
    return max(1, min(size[0], round(size[1] / ratio))), max(
        1, min(size[1], round(size[0] * ratio))
    )
