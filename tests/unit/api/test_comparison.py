"""The statistics of two runs on the same images."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from image_classification.api.comparison import mcnemar, paired_interval
from image_classification.api.recorded_run import differing


@pytest.mark.parametrize(("first", "other"), [(8, 12), (0, 10), (3, 3), (1, 0), (40, 61), (0, 0)])
def test_the_p_value_is_the_binomial_probability_of_such_a_split_of_the_images(
    first: int, other: int
) -> None:
    total, fewer = first + other, min(first, other)
    expected = min(1.0, 2 * sum(comb(total, i) for i in range(fewer + 1)) / 2**total)
    assert mcnemar(first, other) == mcnemar(other, first) == pytest.approx(expected)


def test_the_p_value_of_many_images_neither_overflows_nor_vanishes() -> None:
    assert 0.2 < mcnemar(100_000, 100_500) < 0.3
    assert mcnemar(0, 300_000) == 0.0


def test_the_interval_of_the_difference_holds_in_95_of_100_repetitions() -> None:
    generator = np.random.default_rng(0)
    shares = (0.75, 0.1, 0.05, 0.1)  # both right, only the other, only the first, neither
    for images in (40, 300):
        held = 0
        for both, other, first, _ in generator.multinomial(images, shares, 2000).tolist():
            low, high = paired_interval(both, other, first, images)
            assert -1 <= low <= (other - first) / images <= high <= 1
            held += low <= shares[1] - shares[2] <= high
        assert 0.93 < held / 2000 < 0.985


def test_the_interval_is_mirrored_for_swapped_runs_and_never_empty() -> None:
    low, high = paired_interval(80, 12, 5, 100)
    assert paired_interval(80, 5, 12, 100) == pytest.approx((-high, -low))
    low, high = paired_interval(10, 0, 0, 10)
    assert low == pytest.approx(-high) and high > 0.1


def test_a_setting_differs_if_a_run_lacks_it_or_has_another_value() -> None:
    found = differing([{"a": 1, "b": [1, 2], "c": 0}, {"a": 1, "b": [1, 3]}])
    assert [(one.name, one.values) for one in found] == [("b", [[1, 2], [1, 3]]), ("c", [0, None])]
    (found,) = differing([None, {"a": 1}, {"a": 2}])
    assert found.values == ["unknown", 1, 2]
