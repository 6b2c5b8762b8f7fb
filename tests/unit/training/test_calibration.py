"""Calibration makes probabilities match the accuracy, or changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from image_classification.samples import FloatArray
from image_classification.training.calibration import (
    LARGEST,
    SMALLEST,
    at_temperature,
    calibrate,
    calibration_error,
    fit_temperature,
    reliability,
)
from image_classification.training.evaluation import Outcomes, cross_entropy, softmax


def outcomes_of(true_temperature: float, samples: int = 4000, classes: int = 5) -> Outcomes:
    """Return targets drawn from softmax(logits); the model gives softmax(logits × temperature)."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (samples, classes)).astype(np.float32)
    thresholds = softmax(logits).cumsum(axis=1)
    draws = generator.random((samples, 1))
    targets = np.minimum((draws > thresholds).sum(axis=1), classes - 1)
    keys = tuple(str(index) for index in range(samples))
    return Outcomes(keys, targets, softmax(logits * np.float32(true_temperature)))


@pytest.mark.parametrize("temperature", [0.5, 1.7, 3.0])
def test_the_fit_finds_the_temperature_that_distorted_the_probabilities(temperature: float) -> None:
    outcomes = outcomes_of(temperature)
    found = calibrate(outcomes)
    assert found.reason == ""
    assert found.temperature == pytest.approx(temperature, rel=0.05)
    assert found.error_after < 0.3 * found.error_before
    assert found.loss_after < found.loss_before


def test_the_fit_is_the_minimum_that_scipy_finds() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    outcomes = outcomes_of(2.0, samples=500)

    def loss(temperature: float) -> float:
        scaled = np.log(outcomes.probabilities.astype(np.float64)) / temperature
        scaled -= np.log(np.exp(scaled).sum(axis=1, keepdims=True))
        return float(-scaled[np.arange(500), outcomes.targets].mean())

    best = optimize.minimize_scalar(loss, bounds=(SMALLEST, LARGEST), method="bounded")
    found = fit_temperature(outcomes.targets, outcomes.probabilities)
    assert found == pytest.approx(best.x, rel=1e-3)


def test_the_order_of_the_classes_does_not_change() -> None:
    outcomes = outcomes_of(2.5)
    after = at_temperature(outcomes, calibrate(outcomes).temperature)
    before, now = outcomes.probabilities.argmax(axis=1), after.probabilities.argmax(axis=1)
    assert (before == now).all()


def test_at_temperature_equals_dividing_the_logits_even_for_a_probability_of_0() -> None:
    logits: FloatArray = np.array([[300.0, 0.0, -5.0], [2.0, 1.0, 0.0], [50, 49, -50]], np.float32)
    outcomes = Outcomes(("a", "b", "c"), np.array([0, 1, 2]), softmax(logits))
    for temperature in (SMALLEST, 1.0, 1.5, LARGEST):
        expected = softmax(logits / np.float32(temperature))
        found = at_temperature(outcomes, temperature).probabilities
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("outcomes", "reason"),
    [
        (outcomes_of(1.0), "more than chance"),
        (outcomes_of(1.5, samples=12), "more than chance"),
        (
            Outcomes(("a", "b"), np.array([0, 1]), np.array([[0.6, 0.4], [0.3, 0.7]], np.float32)),
            "every validation image is correct",
        ),
    ],
    ids=["already right", "tiny", "perfect"],
)
def test_calibration_that_cannot_help_changes_nothing_and_gives_the_reason(
    outcomes: Outcomes, reason: str
) -> None:
    found = calibrate(outcomes)
    assert found.temperature == 1 and reason in found.reason and reason in found.line()
    assert found.error_after == found.error_before and found.loss_after == found.loss_before
    assert at_temperature(outcomes, found.temperature) is outcomes


def test_a_lower_loss_with_a_higher_calibration_error_is_refused() -> None:
    """A few confident mistakes dominate the loss: the best temperature hurts all other samples."""
    sure, doubtful = [0.999, 0.0005, 0.0005], [0.52, 0.24, 0.24]
    probabilities = np.array([sure] * 200 + [doubtful] * 1000, np.float32)
    targets = np.array([0] * 194 + [1] * 6 + [0] * 520 + [1] * 480)
    outcomes = Outcomes(("k",) * 1200, targets, probabilities)
    temperature = fit_temperature(targets, probabilities)
    after = at_temperature(outcomes, temperature)
    lost = cross_entropy(targets, probabilities) - cross_entropy(targets, after.probabilities)
    assert lost > 1 / 1200, "the loss alone would take it"
    assert calibration_error(after) > calibration_error(outcomes)
    found = calibrate(outcomes)
    assert found.temperature == 1 and "would raise the calibration error" in found.reason


def test_a_model_that_is_confident_and_always_wrong_gets_the_largest_temperature() -> None:
    probabilities = np.tile(np.array([[0.999, 0.001]], np.float32), (50, 1))
    found = calibrate(Outcomes(("k",) * 50, np.ones(50, np.int64), probabilities))
    assert found.temperature == pytest.approx(LARGEST, rel=1e-3)


def test_calibration_can_be_switched_off() -> None:
    found = calibrate(outcomes_of(3.0), is_wanted=False)
    assert found.temperature == 1 and "calibrate_probabilities" in found.reason


def test_the_calibration_error_of_a_small_example_is_as_computed_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]], np.float32)
    outcomes = Outcomes(("a", "b", "c", "d"), np.array([0, 1, 0, 0]), probabilities)
    assert calibration_error(outcomes) == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)
    assert reliability(outcomes).samples.sum() == 4


def test_multiple_labels_are_separate_decisions_and_are_not_calibrated() -> None:
    targets = np.array([[1, 0], [1, 1]], np.uint8)
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1]], np.float32)  # three of four are right
    outcomes = Outcomes(("a", "b"), targets, probabilities)
    assert int(reliability(outcomes).samples.sum()) == 4
    found = calibrate(outcomes)
    assert found.temperature == 1 and "several independent labels" in found.reason
    assert found.error_before == found.error_after == pytest.approx(0.15)
    assert found.loss_before == pytest.approx(-(3 * np.log(0.9) + np.log(0.1)) / 4, rel=1e-5)
