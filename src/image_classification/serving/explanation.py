"""Where in an image a model sees its class: a class activation map as a picture, and a box.

The picture is gray and covers the whole upright image: stretch it over the image. The map is
interpolated. Regions that speak against the class and regions that the crop leaves out are black;
the strongest point is white.

The box is that of the strongest region: the cells of the map with at least half of its highest
value that are connected, side by side, with the highest one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from image_classification.images.encode import encode_png
from image_classification.images.preprocessing import Box
from image_classification.samples import BoolArray, FloatArray

_SIDE = 64  # pixels of the picture, which has no more details
_STRONG = 0.5  # of the highest value


@dataclass(frozen=True)
class Explanation:
    """Where a model sees its most probable class.

    Attributes:
        picture: a PNG of 64 × 64 gray pixels: the upright image, stretched to a square.
        box: of the strongest region; None if nothing in the image supports the class.
    """

    picture: bytes
    box: Box | None


def explain(values: FloatArray, seen: Box) -> Explanation:
    """Return the explanation in a map, (height, width), of the part of an image that is `seen`."""
    strength = np.where(np.isfinite(values), np.maximum(values, 0), 0).astype(np.float32)
    if strength.size > _SIDE**2:  # of a network with large inputs: the region costs its length
        small = Image.fromarray(strength).resize((_SIDE, _SIDE), Image.Resampling.BOX)
        strength = np.asarray(small)
    highest = float(strength.max(initial=0))
    picture = np.zeros((_SIDE, _SIDE, 1), np.uint8)
    if not highest > 0:
        return Explanation(encode_png(picture), None)
    left, top, right, bottom = (round(_SIDE * share) for share in seen)
    size = (max(1, right - left), max(1, bottom - top))
    gray = Image.fromarray((255 * (strength / highest)).astype(np.uint8))
    resized = np.asarray(gray.resize(size, Image.Resampling.BICUBIC))
    picture[top : top + size[1], left : left + size[0], 0] = resized[: _SIDE - top, : _SIDE - left]
    return Explanation(encode_png(picture), _box_of(strength >= _STRONG * highest, strength, seen))


def _box_of(strong: BoolArray, strength: FloatArray, seen: Box) -> Box:
    """Return the box of the strong cells connected with the highest one, in the whole image."""
    region = np.zeros_like(strong)
    region.flat[int(strength.argmax())] = True
    for _ in range(strong.size):  # it grows by one cell to each side, until it no longer does
        before = region
        grown = region.copy()
        grown[1:] |= region[:-1]
        grown[:-1] |= region[1:]
        grown[:, 1:] |= region[:, :-1]
        grown[:, :-1] |= region[:, 1:]
        region = grown & strong
        if (region == before).all():
            break
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    height, width = strong.shape
    left, top, right, bottom = seen
    return (
        left + (right - left) * float(columns[0]) / width,
        top + (bottom - top) * float(rows[0]) / height,
        left + (right - left) * (float(columns[-1]) + 1) / width,
        top + (bottom - top) * (float(rows[-1]) + 1) / height,
    )
