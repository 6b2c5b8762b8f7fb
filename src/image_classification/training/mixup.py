"""Mixup and cutmix: each image of a batch is mixed with a partner, and so are their targets.

In: uint8 images N·H·W·C and a generator for this step. Out: the images, changed in place, and how
much of each is still its own. The partner of image i is image N − 1 − i: batches are shuffled, so
it is a random one. The share is at least a half, which only decides who of a pair is called whose
partner; training accuracy is then measured against the larger part.
Sources: Zhang et al., "mixup" (2017); Yun et al., "CutMix" (2019).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from image_classification.samples import FloatArray, UInt8Array


def mix(
    images: UInt8Array, generator: np.random.Generator, mixup_alpha: float, cutmix_alpha: float
) -> float:
    """Mix the images of a batch in place; the share, 0.5 to 1, that is each image's own.

    0.2 ms an image of 224 × 224 for mixup, less for cutmix.

    Args:
        images: uint8 (N, H, W, C).
        generator: of this step.
        mixup_alpha, cutmix_alpha: the share is drawn from Beta(alpha, alpha); 0 is off, and of
            two that are on each step takes one at random.
    """
    takes_cutmix = generator.random() < 0.5 if mixup_alpha and cutmix_alpha else not mixup_alpha
    alpha = cutmix_alpha if takes_cutmix else mixup_alpha
    share = float(generator.beta(alpha, alpha))
    share = max(share, 1.0 - share)
    if takes_cutmix:
        return _paste(images, share, generator)
    _blend(images, share)
    return share


def blended(
    targets: FloatArray, weights: FloatArray, share: float
) -> tuple[FloatArray, FloatArray]:
    """Targets (N, classes) and weights (N,) of a batch whose images were mixed.

    The loss of a mixed image is share · (its own target's, by its own weight) + (1 − share) · (the
    partner's target's, by the partner's weight). Losses are affine in the target, so the blend of
    the weighted rows says just that: its size is the new weight, its direction the new target. A
    rare class thus keeps its weight within a mixture, and padding brings no target.
    """
    rows = _mixed(weights[:, None] * targets, share)
    mixed = _mixed(weights, share)
    divisor = np.where(mixed > 0, mixed, 1.0)
    return (rows / divisor[:, None]).astype(np.float32), mixed.astype(np.float32)


def _mixed(values: FloatArray, share: float) -> npt.NDArray[np.float64]:
    return share * values.astype(np.float64) + (1.0 - share) * values[::-1]


def _blend(images: UInt8Array, share: float) -> None:
    """Rounded weighted means, pair by pair, so that no copy of the batch is needed."""
    part = round(256 * share)
    for first in range(len(images) // 2):
        a, b = images[first].astype(np.uint16), images[-1 - first].astype(np.uint16)
        images[first] = (a * part + b * (256 - part) + 128) >> 8
        images[-1 - first] = (b * part + a * (256 - part) + 128) >> 8


def _paste(images: UInt8Array, share: float, generator: np.random.Generator) -> float:
    """Swap a rectangle of area 1 − share about a random center; the share after clipping."""
    rows, columns = images.shape[1:3]
    side = math.sqrt(1.0 - share)
    height, width = round(rows * side), round(columns * side)
    y, x = int(generator.integers(rows)), int(generator.integers(columns))
    top, bottom = max(0, y - height // 2), min(rows, y - height // 2 + height)
    left, right = max(0, x - width // 2), min(columns, x - width // 2 + width)
    part = images[:, top:bottom, left:right]
    part[...] = part[::-1].copy()
    return 1.0 - (bottom - top) * (right - left) / (rows * columns)
