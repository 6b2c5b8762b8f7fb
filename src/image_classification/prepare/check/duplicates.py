"""Problems with equal and similar images, within a subset or across subsets.

In: the subsets and the measurements of their images. Out: problems that name each group of images.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations, pairwise

import numpy as np

from image_classification.prepare.check import Measurements, Problem, Subset
from image_classification.prepare.check.crops import crop_pairs
from image_classification.prepare.check.phash import HASH_BITS, NEAR_BITS, bit_counts
from image_classification.samples import BoolArray, IntArray, UInt8Array, UInt64Array

_MOST_HASHES = (20_000, 300_000)  # up to which one band, or two, are enough to tell hashes apart
_SMALL = 16  # hashes with equal bands that are compared all with all
_MOST_COMPARED = 1 << 20


def equal_groups(digests: UInt64Array) -> list[list[int]]:
    """Return the indices of each (images, 2) digest that occurs twice or more; 0 does not count."""
    present = np.flatnonzero(digests.any(axis=1))
    order = present[np.lexsort((digests[present, 1], digests[present, 0]))]
    differs = (digests[order[1:]] != digests[order[:-1]]).any(axis=1)
    return _groups(order, np.flatnonzero(differs) + 1)


def _groups(order: IntArray, starts: IntArray) -> list[list[int]]:
    """Return the runs of an order that have several members, by the first of them."""
    bounds = [0, *starts.tolist(), len(order)]
    return sorted(order[i:j].tolist() for i, j in pairwise(bounds) if j - i > 1)


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
    bounds = np.linspace(0, HASH_BITS, distance + shared + 1).astype(int).tolist()
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
        near = bit_counts(hashes[one] ^ hashes[other]) <= distance
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
        hit = (bit_counts(differing) <= distance).any(axis=0)
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


Located = tuple[Subset, int]
"""An image: its subset and its index there."""


@dataclass(frozen=True)
class Duplicates:
    """Groups of images that are equal, and of those that look the same."""

    equal: Sequence[Sequence[Located]]
    near: Sequence[Sequence[Located]]


def find_duplicates(
    subsets: Sequence[Subset], measured: Sequence[Measurements], thumbnails: UInt8Array
) -> Duplicates:
    """Return the groups of equal images, and of similar ones that are not all equal.

    Args:
        subsets: the images.
        measured: the measurements of each subset.
        thumbnails: uint8 (images, 32, 32), of the images of all subsets; of none if cropped copies
            are not searched for.
    """
    starts = [0, *accumulate(len(measurements) for measurements in measured)]

    def located(groups: Iterable[list[int]]) -> list[list[Located]]:
        return [
            [(subsets[part := bisect_right(starts, i) - 1], i - starts[part]) for i in group]
            for group in groups
        ]

    digests = np.concatenate([np.empty((0, 2), np.uint64), *(m.digests for m in measured)])
    near = _near_groups(measured, thumbnails)
    differing = (group for group in near if (digests[group] != digests[group[0]]).any())
    return Duplicates(located(equal_groups(digests)), located(differing))


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


def _near_groups(measured: Sequence[Measurements], thumbnails: UInt8Array) -> list[list[int]]:
    """Return the groups of images that look the same, also mirrored or cropped, as indices."""
    is_hashed = np.concatenate([np.empty(0, np.bool_), *(m.is_hashed for m in measured)])
    hashes = np.concatenate([np.empty((0, 2), np.uint64), *(m.hashes for m in measured)])
    hashed = np.flatnonzero(is_hashed)
    unique, inverse = np.unique(hashes[hashed], return_inverse=True)
    sides = inverse.reshape(-1, 2)
    groups = _connected(near_groups(unique, NEAR_BITS), sides)
    own = sides[:, 0]
    if len(thumbnails):  # of copies, one is compared with crops
        ones = np.unique(groups[own], return_index=True)[1]
        crops = crop_pairs(hashes[hashed[ones], 0], thumbnails, hashed[ones])
        groups = _connected(groups, own[ones[crops]])
    groups = groups[own]
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order])) + 1
    return _groups(hashed[order], starts)


def crosses(group: Sequence[Located]) -> bool:
    """Return True if the images are in several subsets."""
    return len({subset.name for subset, _ in group}) > 1


def contradicts(group: Sequence[Located]) -> bool:
    """Return True if the images have different classes."""
    return len({subset.class_of(index) for subset, index in group}) > 1


def is_mirrored(one: UInt64Array, other: UInt64Array) -> bool:
    """Return True if an image looks like the mirror image of another one, and not like itself.

    Args:
        one, other: the two perceptual hashes of an image.
    """
    same, mirrored = bit_counts(one[0] ^ other).tolist()
    return bool(mirrored <= NEAR_BITS < same)


def _names(groups: Sequence[Sequence[Located]]) -> list[str]:
    return [" = ".join(subset.image_name(index) for subset, index in group) for group in groups]
