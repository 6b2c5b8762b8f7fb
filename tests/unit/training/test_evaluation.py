"""Metrics count every sample once, and ties are resolved the same way everywhere."""

import numpy as np
import pytest

from image_classification.training.evaluation import (
    Outcomes,
    confusions,
    metrics_of,
    per_class,
    softmax,
    top_k_accuracy,
)
from image_classification.training.step import smooth_labels

TARGETS = np.array([0, 1, 2, 2])
SCORES = np.array([[0.8, 0.1, 0.1], [0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.4, 0.5, 0.1]], np.float32)


def test_top_k_accuracy_counts_the_true_class_among_the_k_highest() -> None:
    assert top_k_accuracy(TARGETS, SCORES) == 0.5
    assert top_k_accuracy(TARGETS, SCORES, 2) == 0.75
    assert top_k_accuracy(TARGETS, SCORES, 3) == 1.0


def test_a_tie_goes_to_the_lower_class_index_as_in_argmax() -> None:
    scores = np.zeros((3, 3), np.float32)
    targets = np.array([0, 1, 2])
    assert top_k_accuracy(targets, scores) == pytest.approx(1 / 3)
    assert top_k_accuracy(targets, scores) == (scores.argmax(axis=1) == targets).mean()


def test_softmax_survives_large_logits_and_adds_to_one() -> None:
    probabilities = softmax(np.array([[1000.0, 0.0], [-1000.0, -1000.0]], np.float32))
    np.testing.assert_allclose(probabilities, [[1, 0], [0.5, 0.5]], atol=1e-6)


def test_a_score_of_nan_is_never_correct() -> None:
    scores = np.full((4, 3), np.nan, np.float32)
    assert top_k_accuracy(TARGETS, scores) == 0.0
    assert top_k_accuracy(TARGETS, scores, 2) == 0.0


def test_confusions_are_pairs_of_true_and_predicted_class() -> None:
    outcomes = Outcomes(("a", "b", "c", "d"), TARGETS, SCORES)
    assert confusions(outcomes) == {(0, 0): 1, (1, 0): 1, (2, 2): 1, (2, 1): 1}
    rows = per_class(outcomes, ("x", "y", "z"))
    assert rows[2] == {"label": "z", "samples": 2, "recall": 0.5, "precision": 1.0}
    assert metrics_of(outcomes, 2)["top_k_accuracy_2"] == 0.75


def test_smooth_labels_add_to_one_and_spread_the_smoothing_over_all_classes() -> None:
    targets = smooth_labels(np.array([2, 0]), 4, 0.2)
    np.testing.assert_allclose(targets, [[0.05, 0.05, 0.85, 0.05], [0.85, 0.05, 0.05, 0.05]])
