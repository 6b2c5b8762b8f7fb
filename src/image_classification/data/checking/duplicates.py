"""Images that are the same: equal bytes, or nearly equal to the eye."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from image_classification.data.samples import IntArray

_HASH_BITS = 64


def equal_groups(values: Sequence[Hashable]) -> list[list[int]]:
    """Positions of values that occur twice or more, a list a value; None and b"" are left out."""
    positions: defaultdict[Hashable, list[int]] = defaultdict(list)
    for position, value in enumerate(values):
        if value is not None and value != b"":
            positions[value].append(position)
    return [group for group in positions.values() if len(group) > 1]


def near_pairs(hashes: npt.NDArray[np.uint64], distance: int) -> IntArray:
    """Pairs of hashes that differ in 1 to `distance` bits.

    The bits are cut in distance + 1 bands: two hashes within the distance agree in at least one
    (the pigeonhole principle), so only hashes with an equal band are compared, all at once: sorted
    by the band, with the next one, the one after, and so on. No pair is missed. 50,000 hashes of
    different photographs take 0.1 s; the worst case, all with an equal band, is quadratic.

    Args:
        hashes: uint64 (n,), all different.
        distance: 1 to 63.

    Returns:
        int64 (pairs, 2), each pair once, the smaller position first, sorted.
    """
    bounds = np.linspace(0, _HASH_BITS, distance + 2).astype(np.uint64)
    found: list[IntArray] = [np.empty((0, 2), np.int64)]
    for low, high in pairwise(bounds):
        mask = np.uint64((1 << int(high - low)) - 1)
        band = (hashes >> low) & mask
        order = np.argsort(band, kind="stable")
        ordered, band = hashes[order], band[order]
        ends = np.searchsorted(band, band, side="right")  # where the run of equal bands ends
        first: IntArray = np.arange(len(order))
        for shift in range(1, len(order)):
            first = first[first + shift < ends[first]]
            if not len(first):
                break
            near = _bit_counts(ordered[first] ^ ordered[first + shift]) <= distance
            pairs = np.stack((order[first[near]], order[first[near] + shift]), axis=1)
            found.append(np.sort(pairs, axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _bit_counts(values: npt.NDArray[np.uint64]) -> npt.NDArray[Any]:
    """Set bits of each value.

    Source of what stands in for `bitwise_count`, which numpy has from version 2 on: H. S. Warren,
    Hacker's Delight, figure 5-2.
    """
    if hasattr(np, "bitwise_count"):
        counted: npt.NDArray[np.uint8] = np.bitwise_count(values)
        return counted
    fives, threes, nibbles = (
        np.uint64(0x5555555555555555),
        np.uint64(0x3333333333333333),
        np.uint64(0x0F0F0F0F0F0F0F0F),
    )
    counts = values - ((values >> np.uint64(1)) & fives)
    counts = (counts & threes) + ((counts >> np.uint64(2)) & threes)
    counts = (counts + (counts >> np.uint64(4))) & nibbles
    product: npt.NDArray[np.uint64] = (counts * np.uint64(0x0101010101010101)) >> np.uint64(56)
    return product


def connected(pairs: Iterable[Sequence[int]]) -> list[list[int]]:
    """Groups of positions that are connected through pairs, each sorted."""
    parents: dict[int, int] = {}

    def root(position: int) -> int:
        parents.setdefault(position, position)
        while parents[position] != position:
            parents[position] = parents[parents[position]]
            position = parents[position]
        return position

    for one, other in pairs:
        parents[root(other)] = root(one)
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for position in sorted(parents):
        groups[root(position)].append(position)
    return list(groups.values())
