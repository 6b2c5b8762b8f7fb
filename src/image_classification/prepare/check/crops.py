"""Cropped copies: images that look like a part of another image.

In: perceptual hashes and thumbnails of 32 × 32 gray levels. Out: pairs of images. Both the hashes
of the crops and the comparisons are computed for many images at once.
"""

from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import numpy as np

from image_classification.prepare.check.phash import (
    COSINES,
    FREQUENCIES,
    HASH_BITS,
    HASHED_SIDE,
    NEAR_BITS,
    bit_counts,
    bits_above_median,
)
from image_classification.samples import Array, FloatArray, IntArray, UInt8Array, UInt64Array

_CROPS = tuple(  # the part of a side that a crop keeps, and where it starts
    [(part, place * (1 - part)) for place in (0, 0.5, 1)] for part in (0.9, 0.8, 0.7)
)
_PLACES = 3  # along a side
_NUMBER = len(_CROPS) * _PLACES**2
_SAME = 0.9
"""Correlation of the gray levels of a crop and a copy. Measured on 900 photographs: all copies of
80 and 90% of both sides from the middle, and 20% of crops of 70 to 95% at any place, are found;
of the pairs of other photographs, one of almost the same view."""
_COMPARED_SIDE = HASHED_SIDE // 2
_HASHED_AT_ONCE, _VERIFIED_AT_ONCE, _COMPARED_AT_ONCE = 128, 512, 1 << 17
_MOST_EQUAL, _MOST_VERIFIED = 2000, 4  # crops in a band that an image is compared with, closely


def crop_pairs(hashes: UInt64Array, thumbnails: UInt8Array, chosen: IntArray) -> IntArray:
    """Return (pairs, 2), the places in `chosen` of images and of what looks like a crop of them.

    A crop has the perceptual hash of its copy to `NEAR_BITS` bits, so the two agree in one of
    `NEAR_BITS` + 1 bands; what the thumbnails show must be the same as well. Where all images are
    alike, of the crops that agree in a band only some are compared: the time stays bounded.

    Args:
        hashes: uint64 (chosen,), of the chosen images.
        thumbnails: uint8 (images, 32, 32).
        chosen: int64 (chosen,), which of the images are compared.
    """
    if not len(chosen):
        return np.empty((0, 2), np.int64)
    crops = np.empty((len(chosen), _NUMBER), np.uint64)
    for start in range(0, len(chosen), _HASHED_AT_ONCE):
        some = slice(start, start + _HASHED_AT_ONCE)
        crops[some] = _crop_hashes(thumbnails[chosen[some]].astype(np.float32))
    bounds = np.linspace(0, HASH_BITS, NEAR_BITS + 2).astype(int).tolist()
    # A crop and a copy as one number, so that those which agree in several bands count once.
    found = [_near_in_band(hashes, crops.ravel(), band) for band in pairwise(bounds)]
    crop, copy = np.divmod(np.unique(np.concatenate(found)), len(chosen))
    is_same = np.zeros(len(crop), np.bool_)
    for number in range(_NUMBER):
        of_number = np.flatnonzero(crop % _NUMBER == number)
        for start in range(0, len(of_number), _VERIFIED_AT_ONCE):
            some_of = of_number[start : start + _VERIFIED_AT_ONCE]
            wholes, copies = chosen[crop[some_of] // _NUMBER], chosen[copy[some_of]]
            is_same[some_of] = (
                _correlations(thumbnails[wholes], number, thumbnails[copies]) >= _SAME
            )
    return np.stack((crop[is_same] // _NUMBER, copy[is_same]), axis=1)


def _crop_hashes(grays: FloatArray) -> UInt64Array:
    """Return uint64 (images, crops), the perceptual hashes of the crops."""
    found = []
    for crops in _CROPS:
        rows = np.concatenate([COSINES @ _resampling(HASHED_SIDE, *crop) for crop in crops])
        rows = rows.astype(np.float32)
        shape = (-1, _PLACES, FREQUENCIES, _PLACES, FREQUENCIES)
        low = (rows @ grays @ rows.T).reshape(shape).transpose(0, 1, 3, 2, 4)
        found.append(bits_above_median(low).reshape(len(grays), -1))
    return np.concatenate(found, axis=1)


def _near_in_band(hashes: UInt64Array, crops: UInt64Array, band: tuple[int, int]) -> IntArray:
    """Return crop × images + image for each image and the crops of others that are nearest to it,
    of those with the same bits in a band."""
    low, high = band
    mask, shift = np.uint64((1 << high) - (1 << low)), np.uint64(low)
    keys = ((crops & mask) >> shift).astype(np.uint16)  # sorted fast, in little memory
    wanted = ((hashes & mask) >> shift).astype(np.uint16)
    order = np.argsort(keys, kind="stable").astype(np.int32)
    ends = np.cumsum(np.bincount(keys, minlength=1 << high - low))
    starts = np.concatenate(([0], ends))[wanted]
    counts = np.minimum(ends[wanted] - starts, _MOST_EQUAL)
    crops = crops[order]
    found = [np.empty(0, np.int64)]
    for images in _divided(np.argsort(wanted, kind="stable"), counts):
        some = counts[images]
        first = np.cumsum(some) - some
        places = np.arange(some.sum()) - np.repeat(first - starts[images], some)
        differing = bit_counts(crops[places] ^ np.repeat(hashes[images], some))
        near = np.flatnonzero(differing <= NEAR_BITS)
        copies = images[np.searchsorted(first, near, side="right") - 1]
        crop = order[places[near]].astype(np.int64)
        is_other = crop // _NUMBER != copies
        crop, copies, differing = crop[is_other], copies[is_other], differing[near[is_other]]
        nearest = np.lexsort((differing, copies))
        crop, copies = crop[nearest], copies[nearest]
        is_first = np.ones(len(copies), np.bool_)
        is_first[_MOST_VERIFIED:] = copies[_MOST_VERIFIED:] != copies[:-_MOST_VERIFIED]
        found.append(crop[is_first] * len(hashes) + copies[is_first])
    return np.concatenate(found)


def _divided(images: IntArray, counts: IntArray) -> Iterator[IntArray]:
    """Yield runs of images with a bounded sum of counts; images without any are left out."""
    images = images[counts[images] > 0]
    total = np.cumsum(counts[images])
    start = 0
    while start < len(images):
        before = total[start - 1] if start else 0
        end = int(np.searchsorted(total, before + _COMPARED_AT_ONCE, side="right"))
        yield images[start : max(end, start + 1)]
        start = max(end, start + 1)


def _correlations(wholes: UInt8Array, number: int, copies: UInt8Array) -> Array:
    """Return how the crops of this number correlate with the whole other images."""
    crops = _CROPS[number // _PLACES**2]
    down, across = crops[number % _PLACES**2 // _PLACES], crops[number % _PLACES]
    side = _COMPARED_SIDE
    parts = _resampling(side, *down) @ wholes.astype(np.float64) @ _resampling(side, *across).T
    others = _resampling(side, 1, 0) @ copies.astype(np.float64) @ _resampling(side, 1, 0).T
    parts -= parts.mean(axis=(1, 2), keepdims=True)
    others -= others.mean(axis=(1, 2), keepdims=True)
    squares = np.square(parts).sum(axis=(1, 2)) * np.square(others).sum(axis=(1, 2))
    products = (parts * others).sum(axis=(1, 2))
    return np.where(squares > 0, products / np.sqrt(np.where(squares > 0, squares, 1)), 0)


@cache
def _resampling(count: int, part: float, start: float) -> Array:
    """Return (count, 32), the triangle filter that resamples a part of a side to `count` pixels."""
    step = part * HASHED_SIDE / count
    centers = start * HASHED_SIDE + (np.arange(count) + 0.5) * step
    away = np.abs(np.arange(HASHED_SIDE) + 0.5 - centers[:, None]) / max(step, 1.0)
    weights = np.clip(1 - away, 0, None)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))
