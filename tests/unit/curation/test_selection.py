"""Which images to label next: the uncertain ones, and different ones."""

from __future__ import annotations

import numpy as np
import pytest

from image_classification.curation.selection import Candidates, uncertainty
from image_classification.samples import FloatArray


@pytest.mark.parametrize(
    ("probabilities", "is_multi_label", "expected"),
    [
        ([0.5, 0.5, 0.0], False, 1.0),
        ([0.7, 0.2, 0.1], False, 0.5),
        ([1.0, 0.0], False, 0.0),
        ([1.0], False, 0.0),
        ([0.9, 0.5, 0.1], True, 1.0),
        ([0.9, 0.1], True, 0.2),
    ],
)
def test_a_prediction_is_uncertain_if_two_classes_are_near_or_one_is_near_a_half(
    probabilities: list[float], is_multi_label: bool, expected: float
) -> None:
    found = uncertainty(np.array(probabilities, np.float32), is_multi_label)
    assert found == pytest.approx(expected, abs=1e-6)


def directions(*angles: float) -> FloatArray:
    return np.array([[np.cos(a), np.sin(a)] for a in angles], np.float32)


def test_copies_of_a_chosen_image_come_after_different_ones() -> None:
    candidates: Candidates[str] = Candidates(3)
    rows = directions(0.0, 0.001, 0.002, 1.5, 3.0)
    for name, doubt, row in zip("abcde", (0.99, 0.98, 0.97, 0.6, 0.5), rows, strict=True):
        candidates.add(name, doubt, row)
    assert candidates.chosen() == ["a", "e", "d"]


def test_only_the_most_uncertain_images_stay_in_memory() -> None:
    candidates: Candidates[int] = Candidates(2)
    generator = np.random.default_rng(0)
    for number in range(1000):
        candidates.add(number, number / 1000, generator.normal(size=3).astype(np.float32))
        assert len(candidates._rows) < 16
    assert min(candidates.chosen()) >= 992 and candidates.chosen()[0] == 999


def test_fewer_images_than_asked_for_are_all_chosen() -> None:
    candidates: Candidates[str] = Candidates(10)
    assert candidates.chosen() == []
    for name in "ab":
        candidates.add(name, 0.0, np.zeros(2, np.float32))
    assert sorted(candidates.chosen()) == ["a", "b"]
