"""RandAugment: a few operations drawn from a fixed list, all of one magnitude.

In and out: uint8 H·W·C. Source: Cubuk et al., "RandAugment" (2019), with the operations and ranges
of torchvision 0.20 `RandAugment`; uncovered areas are gray, and interpolation is bilinear.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from image_classification.samples import Float64Array, IntArray, UInt8Array

MAX_OPERATIONS = 4
MAX_MAGNITUDE = 30
_GRAY = 128


def _affine(image: Image.Image, *rows: float) -> Image.Image:
    """The six numbers are where a point of the result comes from."""
    fill = _GRAY if image.mode == "L" else (_GRAY,) * 3
    method, filter_ = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return image.transform(image.size, method, rows, filter_, fillcolor=fill)


def _shear_x(image: Image.Image, m: float) -> Image.Image:
    return _affine(image, 1, 0.3 * m, -0.15 * m * image.height, 0, 1, 0)


def _shear_y(image: Image.Image, m: float) -> Image.Image:
    return _affine(image, 1, 0, 0, 0.3 * m, 1, -0.15 * m * image.width)


def _translate_x(image: Image.Image, m: float) -> Image.Image:
    return _affine(image, 1, 0, 150 / 331 * m * image.width, 0, 1, 0)


def _translate_y(image: Image.Image, m: float) -> Image.Image:
    return _affine(image, 1, 0, 0, 0, 1, 150 / 331 * m * image.height)


def _rotate(image: Image.Image, m: float) -> Image.Image:
    cosine, sine = math.cos(math.radians(30 * m)), math.sin(math.radians(30 * m))
    x, y = image.width / 2, image.height / 2
    return _affine(
        image, cosine, sine, x - cosine * x - sine * y, -sine, cosine, y + sine * x - cosine * y
    )


def _brightness(image: Image.Image, m: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(1 + 0.9 * m)


def _color(image: Image.Image, m: float) -> Image.Image:
    return ImageEnhance.Color(image).enhance(1 + 0.9 * m)


def _contrast(image: Image.Image, m: float) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(1 + 0.9 * m)


def _sharpness(image: Image.Image, m: float) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(1 + 0.9 * m)


def _posterize(image: Image.Image, m: float) -> Image.Image:
    return ImageOps.posterize(image, 8 - round(4 * abs(m)))


def _solarize(image: Image.Image, m: float) -> Image.Image:
    return ImageOps.solarize(image, round(255 * (1 - abs(m))) + 1)


def _autocontrast(image: Image.Image, _: float) -> Image.Image:
    return ImageOps.autocontrast(image)


def _equalize(image: Image.Image, _: float) -> Image.Image:
    return ImageOps.equalize(image)


def _identity(image: Image.Image, _: float) -> Image.Image:
    return image


OPERATIONS: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    *(_identity, _shear_x, _shear_y, _translate_x, _translate_y, _rotate, _brightness),
    *(_color, _contrast, _sharpness, _posterize, _solarize, _autocontrast, _equalize),
)
"""Each takes a picture and a signed magnitude, −1 to 1. At 0 all leave the picture unchanged but
autocontrast and equalize, which have no magnitude."""


def randaugment(image: UInt8Array, operations: IntArray, strength: Float64Array) -> None:
    """Apply some of `OPERATIONS` in turn, in place; about 0.2–1 ms each for 224 × 224.

    Args:
        image: uint8 (H, W, 1 or 3).
        operations: integers (K,), which of `OPERATIONS`.
        strength: float (K,), signed magnitudes, −1 to 1.
    """
    picture = Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0])
    for operation, magnitude in zip(operations.tolist(), strength.tolist(), strict=True):
        picture = OPERATIONS[operation](picture, magnitude)
    image[...] = np.asarray(picture).reshape(image.shape)
