"""Stratified splits: every class is divided alike, and in the same way for the same seed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from image_classification.errors import UsageError
from image_classification.labels.lists import ROUNDING
from image_classification.samples import Array, BoolArray, Float64Array, IntArray, UInt8Array

_AT_ONCE = 1 << 18  # labels that are in memory as numbers of 8 bytes at the same time


class Split(NamedTuple):
    """int64 positions of the samples in each subset, ascending; together every sample once."""

    train: IntArray
    validation: IntArray
    test: IntArray


def stratified_split(
    class_indices: IntArray, ratios: tuple[float, float, float], seed: int
) -> Split:
    """Divide samples into train, validation and test, class by class.

    Of a class with n samples, validation gets n times its share, rounded, but at least 1 if n is 2
    or more; test gets its share in the same way, at least 1 if n is 3 or more; train gets the rest,
    at least one sample. How a class is divided depends only on the seed and its own size.

    Args:
        class_indices: int64 (n,), the class of every sample.
        ratios: shares of train, validation and test, 0 to 1, adding up to 1.
        seed: of the random choice, 0 or more.

    Raises:
        UsageError: the ratios are not shares of a whole, or leave nothing to train on.
    """
    _check_ratios(ratios)
    _, validation_ratio, test_ratio = ratios
    class_indices = np.asarray(class_indices, np.int64)
    subsets = np.zeros(len(class_indices), np.int8)
    order = np.argsort(class_indices, kind="stable")
    classes, starts, counts = np.unique(class_indices[order], return_index=True, return_counts=True)
    for class_index, start, count in np.stack((classes, starts, counts), axis=1).tolist():
        members = order[start : start + count]
        for_test = int(test_ratio > 0 and count >= 3)
        validation = _subset_size(count, validation_ratio, int(count >= 2), count - 1 - for_test)
        test = _subset_size(count, test_ratio, for_test, count - 1 - validation)
        # Sorting plain random numbers: the stream of `random` is the same in every numpy.
        generator = np.random.default_rng([seed, class_index])
        drawn = members[np.argsort(generator.random(count), kind="stable")]
        subsets[drawn[:validation]] = 1
        subsets[drawn[validation : validation + test]] = 2
    return _to_split(subsets)


def stratified_group_split(
    class_indices: IntArray, groups: Sequence[str], ratios: tuple[float, float, float], seed: int
) -> Split:
    """Divide samples so that no group is in two subsets and all classes are divided about alike.

    Groups are assigned from the largest to the smallest, each to the subset that is furthest from
    its share of the group's classes; the seed decides among groups of equal size. (The greedy rule
    of scikit-learn's StratifiedGroupKFold, with shares instead of equal folds.)

    Args:
        class_indices: int64 (n,), the class of every sample.
        groups: n names; samples with the same name stay together.
        ratios: shares of train, validation and test, 0 to 1, adding up to 1.
        seed: 0 or more.

    Raises:
        UsageError: the ratios are not shares of a whole, or there are too few groups to fill the
            subsets that have a share.
    """
    _check_ratios(ratios)
    names, membership = np.unique(np.asarray(groups, np.str_), return_inverse=True)
    sizes = np.bincount(membership)
    members = np.split(np.argsort(membership, kind="stable"), np.cumsum(sizes)[:-1])
    totals = np.bincount(class_indices).astype(np.float64)
    # What each subset still lacks of each class: (3, classes).
    lacking = np.outer(ratios, totals)
    subsets = np.zeros(len(class_indices), np.int8)
    is_open = np.flatnonzero(ratios)
    tie_breakers = np.random.default_rng(seed).random(len(names))
    for group in np.lexsort((tie_breakers, -sizes)).tolist():
        classes, counts = np.unique(class_indices[members[group]], return_counts=True)
        need = (lacking[:, classes] * (counts / totals[classes] ** 2)).sum(axis=1)
        subset = int(is_open[np.argmax(need[is_open])])
        lacking[subset, classes] -= counts
        subsets[members[group]] = subset
    for subset in is_open.tolist():
        if not (subsets == subset).any():
            _fill_subset(subset, subsets, members, class_indices)
    if len(np.unique(subsets)) < len(is_open):
        raise UsageError(
            f"{len(names)} groups are too few for the ratios {_shown(ratios)}: one subset "
            "would be empty; use other ratios or smaller groups"
        )
    return _to_split(subsets)


def _fill_subset(
    subset: int, subsets: Array, members: Sequence[IntArray], class_indices: IntArray
) -> None:
    """Give an empty subset the smallest group of train, if others remain there.

    It is one that takes no class away from train, if there is such a group.
    """
    groups = [group for group in members if subsets[group[0]] == 0]
    if len(groups) < 2:
        return
    left = np.bincount(class_indices[subsets == 0])

    def loss(group: IntArray) -> tuple[int, int]:
        found, counts = np.unique(class_indices[group], return_counts=True)
        return int((left[found] == counts).sum()), len(group)

    subsets[min(groups, key=loss)] = subset


def stratified_multi_label_split(
    multi_hot: UInt8Array,
    groups: Sequence[str],
    ratios: tuple[float, float, float],
    seed: int,
) -> Split:
    """Divide samples of several classes each so that every class is divided about alike.

    Samples (or groups) are assigned from that with the rarest class to that with the most frequent
    ones, each to the subset that lacks most of its rarest class, and if several do, of its other
    classes; the seed decides among equals. Of a class with 2 or more samples, validation wants at
    least 1, and of one with 3 or more, test does. Samples of no class count as a class. (Iterative
    stratification, K. Sechidis and others, 2011, in one pass.)

    Args:
        multi_hot: uint8 (n, classes), 1 for every class of a sample.
        groups: n names, samples with the same name stay together; empty if there are none.
        ratios: shares of train, validation and test, 0 to 1, adding up to 1.
        seed: 0 or more.

    Raises:
        UsageError: the ratios are not shares of a whole, or a subset that has a share is empty.
    """
    _check_ratios(ratios)
    has_none: BoolArray = np.logical_not(multi_hot.any(axis=1))
    totals = _class_totals(multi_hot, has_none).astype(np.float64)
    lacking = np.outer(ratios, totals)
    for subset, least in ((1, 2), (2, 3)):
        if ratios[subset] > 0:
            lacking[subset] = np.maximum(lacking[subset], totals >= least)
    lacking[0] = totals - lacking[1] - lacking[2]
    members: Sequence[IntArray] = list(np.arange(len(multi_hot))[:, None])
    rarest = _rarest_totals(multi_hot, totals)
    if groups:
        names, membership = np.unique(np.asarray(groups, np.str_), return_inverse=True)
        order = np.argsort(membership, kind="stable")
        members = np.split(order, np.cumsum(np.bincount(membership, minlength=len(names)))[:-1])
        rarest = np.array([rarest[indices].min() for indices in members])
    sizes = np.array([len(indices) for indices in members])
    tie_breakers = np.random.default_rng(seed).random(len(members))
    subsets = np.zeros(len(multi_hot), np.int8)
    is_open = np.flatnonzero(ratios)
    for unit in np.lexsort((tie_breakers, -sizes, rarest)).tolist():
        own = _class_totals(multi_hot[members[unit]], has_none[members[unit]])
        classes = np.flatnonzero(own)
        counts = own[classes]
        need = (lacking[:, classes] * (counts / totals[classes] ** 2)).sum(axis=1)
        first = lacking[:, classes[np.argmin(totals[classes])]]  # of the rarest class
        subset = max(is_open.tolist(), key=lambda i: (first[i], need[i]))
        lacking[subset, classes] -= counts
        subsets[members[unit]] = subset
    if len(np.unique(subsets)) < len(is_open):
        raise UsageError(
            f"{len(members)} {'groups' if groups else 'images'} are too few for the ratios "
            f"{_shown(ratios)}: one subset would be empty; use other ratios"
        )
    return _to_split(subsets)


def _class_totals(multi_hot: UInt8Array, has_none: BoolArray) -> IntArray:
    """int64 (classes + 1,): samples of each class, and at last of no class."""
    return np.append(multi_hot.sum(axis=0, dtype=np.int64), np.count_nonzero(has_none))


def _rarest_totals(multi_hot: UInt8Array, totals: Float64Array) -> Float64Array:
    """float64 (n,): of each sample, how many samples its rarest class has.

    Some rows at a time: all of them would take eight times the memory of `multi_hot`.
    """
    rarest = np.full(len(multi_hot), totals[-1])
    count = max(1, _AT_ONCE // max(1, multi_hot.shape[1]))
    for begin in range(0, len(multi_hot), count):
        rows = multi_hot[begin : begin + count]
        found = np.where(rows, totals[:-1], np.inf).min(axis=1, initial=np.inf)
        some = rarest[begin : begin + count]
        np.copyto(some, found, where=np.isfinite(found))
    return rarest


def _shown(ratios: Sequence[float]) -> str:
    return ", ".join(f"{ratio:g}" for ratio in ratios)


def _check_ratios(ratios: tuple[float, float, float]) -> None:
    train_ratio, validation_ratio, test_ratio = ratios
    total = train_ratio + validation_ratio + test_ratio
    if min(ratios) < 0 or not abs(total - 1) <= ROUNDING or train_ratio <= 0:
        raise UsageError(
            "expected shares of train (above 0), validation and test that add up to 1, got "
            f"{train_ratio}, {validation_ratio} and {test_ratio}"
        )


def _to_split(subsets: Array) -> Split:
    return Split(*(np.flatnonzero(subsets == subset) for subset in range(3)))


def _subset_size(count: int, ratio: float, least: int, most: int) -> int:
    if ratio <= 0:
        return 0
    return min(max(round(count * ratio), least), max(most, 0))
