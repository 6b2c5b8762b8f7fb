"""Random erasing: a rectangle of a training image becomes the mean colour.

In and out: uint8 H·W·C. Source: Zhong et al., "Random Erasing Data Augmentation" (2017), with its
areas and aspect ratios; the mean, which normalisation makes 0, instead of noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from image_classification.data.samples import UInt8Array

AREA = (0.02, 0.33)
ASPECT = (0.3, 10 / 3)


def erase(image: UInt8Array, shares: Sequence[float], colour: Sequence[float]) -> None:
    """Fill a rectangle of `image`, in place.

    Args:
        image: uint8 (H, W, C).
        shares: four numbers, 0 to below 1, that place area, aspect ratio (in its logarithm), top
            and left within their ranges.
        colour: C values, 0–255.
    """
    rows, columns, _ = image.shape
    area = rows * columns * (AREA[0] + (AREA[1] - AREA[0]) * shares[0])
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    ratio = math.exp(low + (high - low) * shares[1])
    height = min(rows, max(1, round(math.sqrt(area * ratio))))
    width = min(columns, max(1, round(math.sqrt(area / ratio))))
    top = int(shares[2] * (rows - height + 1))
    left = int(shares[3] * (columns - width + 1))
    image[top : top + height, left : left + width] = [round(value) for value in colour]
