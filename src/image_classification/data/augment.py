"""One training image from its bytes and one row of numbers: a pure function.

In: the bytes of an image file and a row of `plan`, in which all randomness is. Out: uint8
height·width·channels, like `prepare`; equal numbers make equal pixels.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from image_classification.data.augmentation import Augmentation, plan
from image_classification.data.colour import shift_colour
from image_classification.data.erasing import erase
from image_classification.data.headers import ImageHeader, read_header
from image_classification.data.images import decode_part, resize
from image_classification.data.jpeg_cutting import Box
from image_classification.data.policy import MAX_MAGNITUDE, apply_policy
from image_classification.data.preprocessing import Preprocessing, cut, decode_for, resized_size
from image_classification.data.reduction import HIDING_RATIO, resize_into
from image_classification.data.samples import UInt8Array
from image_classification.data.warp import affine_matrix, warp

__all__ = ["Augmentation", "augment", "plan"]


def augment(
    data: bytes,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    numbers: np.void,
    out: UInt8Array | None = None,
) -> UInt8Array:
    """One training image: a function of the bytes and of `numbers`, a row of `plan`.

    The order is: decode, crop or resize, warp about the centre, flip, colour, policy, erase.

    Raises:
        ImageError: as `prepare` does.
    """
    if out is None:
        shape = (preprocessing.height, preprocessing.width, preprocessing.channels)
        out = np.empty(shape, np.uint8)
    if augmentation.crop == "random_resized":
        _crop_resized(data, preprocessing, augmentation, numbers, out)
    else:
        _crop(data, preprocessing, augmentation, numbers, out)
    if augmentation.hue or augmentation.saturation or augmentation.lightness:
        shift_colour(
            out, int(numbers["hue"]), int(numbers["lightness"]), int(numbers["saturation"])
        )
    if augmentation.operations:
        chosen = slice(augmentation.operations)
        strength = numbers["signs"][chosen] * (augmentation.magnitude / MAX_MAGNITUDE)
        apply_policy(out, numbers["operations"][chosen], strength)
    if numbers["erased"]:
        erase(out, numbers["erasing"].tolist(), preprocessing.mean)
    return out


def _crop(
    data: bytes,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    numbers: np.void,
    out: UInt8Array,
) -> None:
    """The input's size at the centre or anywhere in the resized, perhaps warped, image."""
    header = read_header(data)
    resized = resized_size(header.upright_size, preprocessing)
    room = (resized[0] - out.shape[0], resized[1] - out.shape[1])
    corner = (room[0] // 2, room[1] // 2)
    if augmentation.crop == "random":
        corner = (_place(numbers["top"], room[0]), _place(numbers["left"], room[1]))
    flips = bool(numbers["mirror"]), bool(numbers["upside_down"])
    if augmentation.crop == "random" and not augmentation.warps:
        _cut_part(data, header, resized, corner, preprocessing, out, *flips)
        return
    image = decode_for(data, header, resized, preprocessing)
    if augmentation.warps:
        if resized != image.shape[:2]:
            image = resize(image, *resized, preprocessing.interpolation)
        warp(image, _matrix(numbers), corner, augmentation.fill, out, *flips)
    else:
        cut(image, resized, corner, preprocessing, out, *flips)


def _cut_part(
    data: bytes,
    header: ImageHeader,
    resized: tuple[int, int],
    corner: tuple[int, int],
    preprocessing: Preprocessing,
    out: UInt8Array,
    mirror: bool,
    upside_down: bool,
) -> None:
    """What `cut` does, to less than a pixel, but nothing outside the crop is decoded or seen."""
    size = header.upright_size
    rows, columns = size[0] / resized[0], size[1] / resized[1]
    top, left = corner[0] * rows, corner[1] * columns
    bottom = min(size[0], top + out.shape[0] * rows)
    right = min(size[1], left + out.shape[1] * columns)
    part = (int(top), int(left), math.ceil(bottom) - int(top), math.ceil(right) - int(left))
    image = _decode_part(data, header, part, preprocessing, blue_first=mirror)
    box = None
    if image.shape[:2] == part[2:]:  # else it is reduced, and its edges lie where they can
        box = (left - part[1], top - part[0], right - part[1], bottom - part[0])
    resize_into(image, out, preprocessing.interpolation, mirror, upside_down, box)


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
    flips = bool(numbers["mirror"]), bool(numbers["upside_down"])
    part = (top, left, height, width)
    blue_first = flips[0] and not augmentation.warps
    image = _decode_part(data, header, part, preprocessing, blue_first=blue_first)
    if augmentation.warps:
        unwarped = np.empty_like(out)
        resize_into(image, unwarped, interpolation)
        warp(unwarped, _matrix(numbers), (0, 0), augmentation.fill, out, *flips)
    else:
        resize_into(image, out, interpolation, *flips)


def _decode_part(
    data: bytes, header: ImageHeader, part: Box, preprocessing: Preprocessing, *, blue_first: bool
) -> UInt8Array:
    """A part that will be resized to the input; for `resize_into`, blue first to be mirrored."""
    target = (preprocessing.height, preprocessing.width)
    ratio = min(part[2] / target[0], part[3] / target[1])
    return decode_part(
        data,
        part,
        channels=preprocessing.channels,
        # Reducing in the decoder averages, which "nearest" promises not to do.
        min_size=None if preprocessing.interpolation == "nearest" else target,
        max_pixels=preprocessing.max_pixels,
        header=header,
        smooth_chroma=ratio < HIDING_RATIO,
        blue_first=blue_first,
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
