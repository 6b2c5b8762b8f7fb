"""Stratified splits: every class is divided alike, and the same way for the same seed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from image_classification.data.samples import IntArray
from image_classification.errors import UsageError

_ROUNDING = 1e-9


class Split(NamedTuple):
    """Positions of the samples in each part, int64, ascending; together every sample once."""

    train: IntArray
    validation: IntArray
    test: IntArray


def stratified_split(
    class_indices: IntArray, ratios: tuple[float, float, float], seed: int
) -> Split:
    """Divide samples into train, validation and test, class by class.

    Of a class with n samples, validation gets n times its share, rounded, but at least 1 where n
    is 2 or more; test gets its share likewise, at least 1 where n is 3 or more; the rest, at least
    one sample, is train. What a class contributes depends on the seed and on its own size only.

    Args:
        class_indices: int64 (n,), the class of every sample.
        ratios: shares of train, validation and test, 0 to 1, adding up to 1.
        seed: of the random choice, 0 or more.

    Raises:
        UsageError: the ratios are not shares of a whole, or leave nothing to train on.
    """
    train_ratio, validation_ratio, test_ratio = ratios
    total = train_ratio + validation_ratio + test_ratio
    if min(ratios) < 0 or abs(total - 1) > _ROUNDING or train_ratio <= 0:
        raise UsageError(
            "expected shares of train (above 0), validation and test that add up to 1, got "
            f"{train_ratio}, {validation_ratio} and {test_ratio}"
        )
    class_indices = np.asarray(class_indices, np.int64)
    parts = np.zeros(len(class_indices), np.int8)
    order = np.argsort(class_indices, kind="stable")
    classes, starts, counts = np.unique(class_indices[order], return_index=True, return_counts=True)
    for class_index, start, count in np.stack((classes, starts, counts), axis=1).tolist():
        members = order[start : start + count]
        for_test = int(test_ratio > 0 and count >= 3)
        validation = _part_size(count, validation_ratio, int(count >= 2), count - 1 - for_test)
        test = _part_size(count, test_ratio, for_test, count - 1 - validation)
        # Sorting plain random numbers: the stream of `random` is the same in every numpy.
        generator = np.random.default_rng([seed, class_index])
        drawn = members[np.argsort(generator.random(count), kind="stable")]
        parts[drawn[:validation]] = 1
        parts[drawn[validation : validation + test]] = 2
    train, held, tested = (np.flatnonzero(parts == part) for part in range(3))
    return Split(train, held, tested)


def _part_size(count: int, ratio: float, least: int, most: int) -> int:
    if ratio <= 0:
        return 0
    return min(max(round(count * ratio), least), max(most, 0))
