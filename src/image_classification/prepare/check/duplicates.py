"""Problems with equal and similar images, within a subset or across subsets.

In: the subsets and the measurements of their images. Out: problems that name each group of images.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise

import numpy as np

from image_classification.prepare.check import Measurement, Problem, Subset
from image_classification.prepare.check.measure import COSINES, HASHED_SIDE
from image_classification.samples import Array, BoolArray, IntArray, UInt8Array, UInt64Array

_HASH_BITS = 64
_MOST_HASHES = (20_000, 300_000)  # up to which one band, or two, are enough to tell hashes apart
_SMALL = 16  # hashes with equal bands that are compared all with all
_MOST_COMPARED = 1 << 20


def equal_groups(values: Sequence[Hashable]) -> list[list[int]]:
    """Return the indices of each value that occurs twice or more; None and b"" do not count."""
    indices: defaultdict[Hashable, list[int]] = defaultdict(list)
    for index, value in enumerate(values):
        if value is not None and value != b"":
            indices[value].append(index)
    return [group for group in indices.values() if len(group) > 1]


def near_groups(hashes: UInt64Array, distance: int) -> IntArray:
    """Return the group of each hash: hashes that differ in at most `distance` bits are connected.

    The bits are cut into distance + `shared` bands: two hashes within the distance agree in at
    least `shared` of them (the pigeonhole principle). So for each choice of `shared` bands only
    hashes that agree there are compared, and no connection is missed. Groups that are connected
    already are not compared again. A million random hashes take 10 CPU seconds, and so do a
    million similar ones; only many different hashes with equal bands take longer.

    Args:
        hashes: uint64 (n,), all different.
        distance: 1 to 60.

    Returns:
        int64 (n,), the smallest index of the group; its own for a hash that is near no other.
    """
    groups: IntArray = np.arange(len(hashes))
    shared = 1 + sum(len(hashes) > most for most in _MOST_HASHES)
    bounds = np.linspace(0, _HASH_BITS, distance + shared + 1).astype(int).tolist()
    bands = [(1 << high) - (1 << low) for low, high in pairwise(bounds)]
    for chosen in combinations(bands, shared):
        keys = hashes & np.uint64(sum(chosen))
        order = np.argsort(keys)
        keys = keys[order]
        starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if len(keys) else order
        sizes = np.diff(np.append(starts, len(keys)))
        found = [_pairs_of_small(hashes, order, starts, sizes, distance)]
        for start, size in zip(starts[sizes > _SMALL], sizes[sizes > _SMALL], strict=True):
            found += _links_of_large(hashes, groups, order[start : start + size], distance)
        groups = _connected(groups, np.concatenate(found))
    return groups


def _pairs_of_small(
    hashes: UInt64Array, order: IntArray, starts: IntArray, sizes: IntArray, distance: int
) -> IntArray:
    """Return (pairs, 2), the near hashes of the small runs: each with the next, then with the one
    after it, and so on, all runs at once."""
    found: list[IntArray] = [np.empty((0, 2), np.int64)]
    is_small = (sizes > 1) & (sizes <= _SMALL)
    ends = np.repeat((starts + sizes)[is_small], sizes[is_small])
    offsets = np.cumsum(sizes[is_small]) - sizes[is_small]
    first = np.arange(len(ends)) - np.repeat(offsets - starts[is_small], sizes[is_small])
    for shift in range(1, _SMALL):
        has_next = first + shift < ends
        first, ends = first[has_next], ends[has_next]
        if not len(first):
            break
        one, other = order[first], order[first + shift]
        near = _bit_counts(hashes[one] ^ hashes[other]) <= distance
        found.append(np.stack((one[near], other[near]), axis=1))
    return np.concatenate(found)


def _links_of_large(
    hashes: UInt64Array, groups: IntArray, members: IntArray, distance: int
) -> list[IntArray]:
    """Return (links, 2) arrays that connect the members of a run: a group grows by all that is near
    it, and what it has taken in is not compared any more."""
    found: list[IntArray] = []
    own, rest = groups[members], np.arange(len(members))
    while len(rest) > 1:
        is_seed = own[rest] == own[rest[0]]
        seed, rest = rest[is_seed], rest[~is_seed]
        edge = seed
        while len(edge) and len(rest):
            near = _is_near_any(hashes[members[edge]], hashes[members[rest]], distance)
            taken = np.unique(own[rest[near]])
            found.append(np.stack((np.full(len(taken), own[seed[0]]), taken), axis=1))
            is_taken = np.isin(own[rest], taken)
            edge, rest = rest[is_taken], rest[~is_taken]
    return found


def _is_near_any(some: UInt64Array, others: UInt64Array, distance: int) -> BoolArray:
    """Return for each of the others whether it is within the distance of any of some."""
    is_near = np.zeros(len(others), np.bool_)
    left: IntArray = np.arange(len(others))
    start, size = 0, 1  # the first few are often near all others
    while start < len(some) and len(left):
        differing = some[start : start + size, None] ^ others[left]
        hit = (_bit_counts(differing) <= distance).any(axis=0)
        is_near[left[hit]] = True
        left = left[~hit]
        start, size = start + size, max(1, min(4 * size, _MOST_COMPARED // max(1, len(left))))
    return is_near


def _connected(groups: IntArray, pairs: IntArray) -> IntArray:
    """Return the groups with those of each pair connected."""
    groups = np.array(groups, np.int64)
    while len(pairs := pairs[groups[pairs[:, 0]] != groups[pairs[:, 1]]]):
        ends = groups[pairs]
        np.minimum.at(groups, ends.max(axis=1), ends.min(axis=1))
        smaller: IntArray = groups[groups]
        while not np.array_equal(smaller, groups):
            groups, smaller = smaller, smaller[smaller]
    return groups


def _bit_counts(values: UInt64Array) -> Array:
    """Return the number of set bits of each value.

    `bitwise_count` needs NumPy 2. Source of the substitute: H. S. Warren, Hacker's Delight,
    figure 5-2.
    """
    if hasattr(np, "bitwise_count"):
        counted: UInt8Array = np.bitwise_count(values)
        return counted
    fives, threes, nibbles = (
        np.uint64(0x5555555555555555),
        np.uint64(0x3333333333333333),
        np.uint64(0x0F0F0F0F0F0F0F0F),
    )
    counts = values - ((values >> np.uint64(1)) & fives)
    counts = (counts & threes) + ((counts >> np.uint64(2)) & threes)
    counts = (counts + (counts >> np.uint64(4))) & nibbles
    product: UInt64Array = (counts * np.uint64(0x0101010101010101)) >> np.uint64(56)
    return product


NEAR_BITS = 4
"""Of 64. Measured on 900 photographs: 99.7 % of the resized and recompressed copies differ in at
most this many; of the 404,550 pairs of different photographs all but 7 differ in 12 or more."""

Located = tuple[Subset, int]
"""An image: its subset and its index there."""


@dataclass(frozen=True)
class Duplicates:
    """Groups of images that are equal, and of those that look the same."""

    equal: Sequence[Sequence[Located]]
    near: Sequence[Sequence[Located]]


def find_duplicates(
    subsets: Sequence[Subset], measured: Sequence[Sequence[Measurement]]
) -> Duplicates:
    """Return the groups of equal images, and of similar ones that are not all equal."""
    images = [(subset, index) for subset in subsets for index in range(len(subset.keys))]
    found = [measurement for measurements in measured for measurement in measurements]
    equal = equal_groups([measurement.digest for measurement in found])
    near = [group for group in _near_groups(found) if len({found[i].digest for i in group}) > 1]
    return Duplicates(
        [[images[i] for i in group] for group in equal],
        [[images[i] for i in group] for group in near],
    )


def duplicate_problems(duplicates: Duplicates) -> Iterator[Problem]:
    """Yield problems of equal images (across subsets, of several classes, within a subset), then of
    similar ones."""
    yield from _equal_problems(duplicates.equal)
    near = duplicates.near
    crossing = [group for group in near if crosses(group)]
    if crossing:
        yield Problem(
            "warning",
            "near-duplicates-across-parts",
            "similar images, perhaps mirrored or cropped, are in several subsets: training may "
            "see validation images",
            _names(crossing),
        )
    within = [group for group in near if not crosses(group)]
    if within:
        message = "images within a subset look the same, perhaps mirrored or cropped"
        yield Problem("note", "near-duplicates", message, _names(within))


def _equal_problems(groups: Sequence[Sequence[Located]]) -> Iterator[Problem]:
    crossing = [group for group in groups if crosses(group)]
    if crossing:
        yield Problem(
            "error",
            "duplicates-across-parts",
            "identical images are in several subsets, so training sees validation images; keep "
            "each image in one subset",
            _names(crossing),
        )
    several = [group for group in groups if contradicts(group)]
    if several:
        message = "identical images have different classes"
        yield Problem("error", "contradicting-duplicates", message, _names(several))
    taken = {id(group) for group in (*crossing, *several)}
    within = [group for group in groups if id(group) not in taken]
    if within:
        message = "identical images occur several times"
        yield Problem("warning", "duplicates", message, _names(within))


def _near_groups(images: Sequence[Measurement]) -> list[list[int]]:
    """Return the groups of images that look the same, also mirrored or cropped, as indices."""
    hashed = [i for i, image in enumerate(images) if image.perceptual_hash is not None]
    hashes = [images[i].perceptual_hash for i in hashed]
    mirrored = [images[i].mirrored_hash for i in hashed]
    unique, inverse = np.unique(np.array(hashes + mirrored, np.uint64), return_inverse=True)
    own = inverse[: len(hashed)]
    sides = np.stack((own, inverse[len(hashed) :]), axis=1)
    groups = _connected(near_groups(unique, NEAR_BITS), sides)
    ones = np.unique(groups[own], return_index=True)[1]  # of copies, one is compared with crops
    ones = np.array([i for i in ones.tolist() if images[hashed[i]].thumbnail], np.int64)
    crops = crop_pairs([images[hashed[i]] for i in ones.tolist()])
    groups = _connected(groups, own[ones[crops]])[own]
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order])) + 1
    indices = np.array(hashed, np.int64)[order]
    found = [group.tolist() for group in np.split(indices, starts) if len(group) > 1]
    return sorted(found)


_CROPS = tuple(  # the part of a side that a crop keeps, and where it starts
    [(part, place * (1 - part)) for place in (0, 0.5, 1)] for part in (0.9, 0.8, 0.7)
)
_SAME = 0.9
"""Correlation of the gray levels of a crop and a copy. Measured on 900 photographs: all copies of
80 and 90 % of both sides from the middle, and 20 % of crops of 70 to 95 % at any place, are found;
of the pairs of other photographs, one of almost the same view."""
_CHUNK = 128
_MOST_EQUAL, _MOST_VERIFIED = 2000, 4  # crops in a band that an image is compared with, closely


def crop_pairs(images: Sequence[Measurement]) -> IntArray:
    """Return (pairs, 2), the images that look like one of 27 crops of another image.

    A crop has the perceptual hash of its copy to `NEAR_BITS` bits, so the two agree in one of
    `NEAR_BITS` + 1 bands; what the thumbnails show must be the same as well. Where all images are
    alike, of the crops that agree in a band only some are compared: the time stays bounded.
    """
    found: list[IntArray] = [np.empty((0, 2), np.int64)]
    if not images:
        return found[0]
    hashes = np.array([image.perceptual_hash for image in images], np.uint64)
    crops = np.concatenate(
        [_crop_hashes(_grays(images[i : i + _CHUNK])) for i in range(0, len(images), _CHUNK)]
    ).ravel()
    number = len(crops) // len(images)
    seen: set[tuple[int, int]] = set()
    bounds = np.linspace(0, _HASH_BITS, NEAR_BITS + 2).astype(int).tolist()
    for low, high in pairwise(bounds):
        mask = np.uint64((1 << high) - (1 << low))
        keys = ((crops & mask) >> np.uint64(low)).astype(np.uint16)  # sorted fast, in little memory
        wanted = ((hashes & mask) >> np.uint64(low)).astype(np.uint16)
        order = np.argsort(keys, kind="stable").astype(np.int32)
        keys = keys[order]
        starts = np.searchsorted(keys, wanted)
        ends = np.searchsorted(keys, wanted, side="right")
        for image, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            some = order[start : min(end, start + _MOST_EQUAL)]
            differing = _bit_counts(crops[some] ^ hashes[image])
            is_near = (differing <= NEAR_BITS) & (some // number != image)
            if not is_near.any():
                continue
            nearest = np.argsort(differing[is_near], kind="stable")[:_MOST_VERIFIED]
            for crop in some[is_near][nearest].tolist():
                if (crop, image) in seen:
                    continue
                seen.add((crop, image))
                if _is_crop(images[crop // number], crop % number, images[image]):
                    found.append(np.array([[crop // number, image]]))
    return np.concatenate(found)


def _grays(images: Sequence[Measurement]) -> Array:
    joined = b"".join(image.thumbnail for image in images)
    return np.frombuffer(joined, np.uint8).reshape(-1, HASHED_SIDE, HASHED_SIDE).astype(np.float64)


def _crop_hashes(grays: Array) -> UInt64Array:
    """Return uint64 (images, crops), the perceptual hashes of the crops."""
    found = []
    for crops in _CROPS:
        rows = np.concatenate([COSINES @ _resampling(HASHED_SIDE, *crop) for crop in crops])
        shape = (-1, len(crops), len(COSINES), len(crops), len(COSINES))
        low = (rows @ grays @ rows.T).reshape(shape).transpose(0, 1, 3, 2, 4)
        low = low.reshape(len(grays), len(crops) ** 2, _HASH_BITS)
        medians = np.sort(low, axis=2)[:, :, 31:33].mean(axis=2, keepdims=True)
        bits = np.packbits(low > medians, axis=2, bitorder="little")
        found.append(bits.view("<u8")[:, :, 0].astype(np.uint64))
    return np.concatenate(found, axis=1)


def _is_crop(whole: Measurement, number: int, copy: Measurement) -> bool:
    """Return True if the crop of this number correlates with the whole other image."""
    crops = _CROPS[number // 9]
    down, across = crops[number % 9 // 3], crops[number % 3]
    (first, second), side = _grays((whole, copy)), HASHED_SIDE // 2
    part = _resampling(side, *down) @ first @ _resampling(side, *across).T
    second = _resampling(side, 1, 0) @ second @ _resampling(side, 1, 0).T
    return bool(np.corrcoef(part.ravel(), second.ravel())[0, 1] >= _SAME)


@cache
def _resampling(count: int, part: float, start: float) -> Array:
    """Return (count, 32), the triangle filter that resamples a part of a side to `count` pixels."""
    step = part * HASHED_SIDE / count
    centers = start * HASHED_SIDE + (np.arange(count) + 0.5) * step
    away = np.abs(np.arange(HASHED_SIDE) + 0.5 - centers[:, None]) / max(step, 1.0)
    weights = np.clip(1 - away, 0, None)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def crosses(group: Sequence[Located]) -> bool:
    """Return True if the images are in several subsets."""
    return len({subset.name for subset, _ in group}) > 1


def contradicts(group: Sequence[Located]) -> bool:
    """Return True if the images have different classes."""
    return len({subset.class_of(index) for subset, index in group}) > 1


def is_mirrored(one: Measurement, other: Measurement) -> bool:
    """Return True if an image looks like the mirror image of another one, and not like itself."""
    if one.perceptual_hash is None or other.perceptual_hash is None or other.mirrored_hash is None:
        return False
    distances = [
        (one.perceptual_hash ^ hashed).bit_count()
        for hashed in (other.perceptual_hash, other.mirrored_hash)
    ]
    return distances[1] <= NEAR_BITS < distances[0]


def _names(groups: Sequence[Sequence[Located]]) -> list[str]:
    return [" = ".join(subset.image_name(index) for subset, index in group) for group in groups]
