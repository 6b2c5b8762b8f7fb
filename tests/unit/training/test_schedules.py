"""Learning rate and early stopping are pure functions of numbers."""

import pytest

from image_classification.training.settings.optimization import Schedule
from image_classification.training.stopping import EarlyStopping


def test_a_step_schedule_multiplies_after_each_listed_epoch() -> None:
    schedule = Schedule("step", 0.1, epochs=30, step_epochs=(10, 20), factor=0.1)
    assert [schedule.rate(e) for e in (0, 9.99, 10, 19.99, 20, 29)] == pytest.approx(
        [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]
    )


def test_a_warm_up_rises_linearly_and_ends_at_the_full_rate() -> None:
    schedule = Schedule("constant", 0.4, epochs=10, warmup_epochs=2)
    assert [schedule.rate(e) for e in (0, 0.5, 1, 2, 9)] == pytest.approx([0, 0.1, 0.2, 0.4, 0.4])


def test_a_cosine_schedule_falls_from_the_full_rate_to_0() -> None:
    schedule = Schedule("cosine", 1.0, epochs=12, warmup_epochs=2)
    assert [schedule.rate(e) for e in (2, 7, 12, 13)] == pytest.approx([1.0, 0.5, 0.0, 0.0])


def test_mxnet_early_stopping_waits_for_min_epochs_and_compares_relatively() -> None:
    rule = EarlyStopping(patience=2, min_epochs=5, relative_tolerance=0.1)
    assert not rule.is_due([0.5, 0.5, 0.5, 0.5])
    assert rule.is_due([0.5, 0.5, 0.5, 0.5, 0.5])
    assert rule.is_due([0.1, 0.2, 0.5, 0.54, 0.54])
    assert not rule.is_due([0.1, 0.2, 0.5, 0.54, 0.56])


def test_keras_early_stopping_compares_absolutely() -> None:
    rule = EarlyStopping(patience=2, absolute_tolerance=0.01)
    assert rule.is_due([0.5, 0.505, 0.51])
    assert not rule.is_due([0.5, 0.505, 0.52])


def test_an_accuracy_of_zero_is_the_first_best() -> None:
    assert not EarlyStopping(patience=1, relative_tolerance=0.5).is_due([0.0])
    assert EarlyStopping(patience=1).is_due([0.0, 0.0])
