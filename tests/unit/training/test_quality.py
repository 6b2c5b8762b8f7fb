"""The scores, curves and intervals of the report are those that scikit-learn and sources give."""

from __future__ import annotations

import numpy as np
import pytest

from image_classification.training import quality
from image_classification.training.evaluation import Outcomes

pytest.importorskip("sklearn", reason="scikit-learn needs Python 3.11")
from sklearn import metrics

SAMPLES, CLASSES = 90, 5


@pytest.fixture(scope="module")
def single() -> Outcomes:
    """Some answers are wrong, some probabilities equal, and class 4 has no sample."""
    generator = np.random.default_rng(3)
    targets = generator.integers(0, CLASSES - 1, SAMPLES)
    logits = generator.normal(size=(SAMPLES, CLASSES)) + 1.5 * np.eye(CLASSES)[targets]
    odds = np.exp(logits)
    rounded = np.round(odds / odds.sum(axis=1, keepdims=True), 1).astype(np.float32)
    return Outcomes(tuple(f"{i}.jpg" for i in range(SAMPLES)), targets, rounded)


@pytest.fixture(scope="module")
def multiple() -> Outcomes:
    generator = np.random.default_rng(4)
    targets = (generator.random((SAMPLES, CLASSES)) < 0.3).astype(np.uint8)
    scores = np.clip(0.4 * targets + 0.6 * generator.random((SAMPLES, CLASSES)), 0, 1)
    return Outcomes(tuple(map(str, range(SAMPLES))), targets, scores.astype(np.float32))


def predicted(outcomes: Outcomes) -> np.ndarray:
    if outcomes.targets.ndim == 2:
        return (outcomes.probabilities >= 0.5).astype(int)
    return outcomes.probabilities.argmax(axis=1)


@pytest.mark.parametrize("kind", ["single", "multiple"])
def test_precision_recall_and_f1_of_each_class_are_those_of_scikit_learn(
    kind: str, request: pytest.FixtureRequest
) -> None:
    outcomes = request.getfixturevalue(kind)
    expected = metrics.precision_recall_fscore_support(
        outcomes.targets, predicted(outcomes), labels=range(CLASSES), zero_division=0
    )
    scores = quality.class_scores(outcomes, CLASSES)
    found = [(s.precision or 0.0, s.recall or 0.0, s.f1 or 0.0, s.samples) for s in scores]
    np.testing.assert_allclose(np.array(found).T, expected)


@pytest.mark.parametrize("kind", ["single", "multiple"])
def test_macro_and_weighted_f1_are_those_of_scikit_learn_and_lie_in_their_intervals(
    kind: str, request: pytest.FixtureRequest
) -> None:
    outcomes = request.getfixturevalue(kind)
    found = quality.mean_f1(outcomes, CLASSES)
    for mean, interval in (("macro", found.macro_interval), ("weighted", found.weighted_interval)):
        expected = metrics.f1_score(outcomes.targets, predicted(outcomes), average=mean)
        assert getattr(found, mean) == pytest.approx(expected)
        assert interval is not None and interval[0] < expected < interval[1]
        assert 0.05 < interval[1] - interval[0] < 0.3
    assert found == quality.mean_f1(outcomes, CLASSES), "the seed is fixed"


def test_the_bootstrap_of_pairs_gives_the_interval_of_drawing_samples(single: Outcomes) -> None:
    generator = np.random.default_rng(0)
    answers, values = predicted(single), []
    for _ in range(400):
        drawn = generator.integers(0, SAMPLES, SAMPLES)
        values.append(metrics.f1_score(single.targets[drawn], answers[drawn], average="macro"))
    found = quality.mean_f1(single, CLASSES).macro_interval
    half = 1.96 * np.std(values)
    mean = metrics.f1_score(single.targets, answers, average="macro")
    assert found == pytest.approx((mean - half, mean + half), abs=0.015)


def test_the_interval_of_f1_holds_the_true_value_in_about_95_of_100_cases() -> None:
    generator = np.random.default_rng(5)
    # of the samples that count: hits, misses and false alarms; F1 = 2·0.7 / (2·0.7 + 0.3)
    share, held = 0.7, 0
    for _ in range(400):
        hits, misses, alarms = generator.multinomial(40, (share, 0.2, 0.1)).tolist()
        interval = quality.ClassScore(0, hits + misses, hits + alarms, hits).f1_interval
        assert interval is not None
        held += interval[0] <= 2 * share / (1 + share) <= interval[1]
    assert 0.92 <= held / 400 <= 0.98


def test_a_class_without_a_mistake_has_an_interval_of_some_width() -> None:
    score = quality.ClassScore(0, 10, 10, 10)
    assert score.f1 == 1.0
    assert score.f1_interval == pytest.approx((0.839, 1.0), abs=0.001)
    assert score.recall_interval == pytest.approx((0.722, 1.0), abs=0.001)
    empty = quality.ClassScore(0, 0, 0, 0)
    assert (empty.f1, empty.recall, empty.f1_interval) == (None, None, None)


@pytest.mark.parametrize("kind", ["single", "multiple"])
def test_roc_and_precision_recall_curves_are_those_of_scikit_learn(
    kind: str, request: pytest.FixtureRequest
) -> None:
    outcomes = request.getfixturevalue(kind)
    found = quality.curves(outcomes, range(CLASSES))
    assert [one.index for one in found] == list(range(4 if kind == "single" else 5))
    for one in found:
        own = outcomes.targets
        truth = own == one.index if own.ndim == 1 else own[:, one.index]
        scores = outcomes.probabilities[:, one.index]
        rate, recall, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
        np.testing.assert_allclose(one.roc, np.stack([rate, recall], axis=1))
        precision, recall, _ = metrics.precision_recall_curve(truth, scores)
        expected = np.stack([recall, precision], axis=1)[-2::-1]
        np.testing.assert_allclose(one.precision_recall, expected)
        assert one.auc == pytest.approx(metrics.roc_auc_score(truth, scores))
        area = metrics.average_precision_score(truth, scores)
        assert one.average_precision == pytest.approx(area)


def test_a_long_curve_is_thinned_and_keeps_both_ends() -> None:
    generator = np.random.default_rng(6)
    targets = generator.integers(0, 2, 5000)
    scores = generator.random((5000, 2)).astype(np.float32)
    (found,) = quality.curves(Outcomes(("",) * 5000, targets, scores), [1])
    assert len(found.roc) == len(found.precision_recall) == quality.MOST_POINTS
    assert found.roc[0] == (0, 0) and found.roc[-1] == (1, 1)
    assert found.precision_recall[-1][0] == 1


def test_coverage_ends_at_the_accuracy_and_thresholds_count_answers(single: Outcomes) -> None:
    _, confidence, is_correct = quality.confidences(single)
    points = quality.coverage(confidence, is_correct)
    assert points[-1] == (1.0, pytest.approx(is_correct.mean()))
    for row in quality.at_thresholds(confidence, is_correct, (0.5, 0.9, 1.5)):
        kept = is_correct[confidence >= np.float32(row.threshold)]
        assert (row.answered, row.correct) == (len(kept), kept.sum())
        share = len(kept) / SAMPLES
        assert not share or (share, pytest.approx(kept.mean())) in points
    assert row.interval == (0.0, 1.0)


def test_decisions_at_a_threshold_are_the_micro_averages_of_scikit_learn(
    multiple: Outcomes,
) -> None:
    for threshold, *found in quality.decisions_at(multiple, (0.2, 0.5, 0.8)):
        answers = multiple.probabilities >= np.float32(threshold)
        expected = metrics.precision_recall_fscore_support(
            multiple.targets, answers, average="micro", zero_division=0
        )
        assert found == pytest.approx(expected[:3])


def test_the_samples_to_show_are_the_closest_and_the_most_confident_ones() -> None:
    targets = np.array([0, 1, 0, 1])
    rows = [[0.52, 0.48, 0.0], [0.95, 0.05, 0.0], [0.8, 0.1, 0.1], [0.6, 0.4, 0.0]]
    outcomes = Outcomes(("a", "b", "c", "d"), targets, np.array(rows, np.float32))
    assert quality.borderline(outcomes, 2) == [(0, 1), (3, 1)]
    assert quality.members(outcomes, [(1, 0), (0, 0)], 2) == {(1, 0): [1, 3], (0, 0): [0, 2]}
    truth = np.array([[1, 0, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]], np.uint8)
    decided = Outcomes(outcomes.keys, truth, outcomes.probabilities)
    # 0.0 for a class that is there and 0.95 for one that is not
    assert quality.wrong_decisions(decided, 2) == [(1, 2), (1, 0)]


def test_a_bootstrap_that_would_take_too_long_is_left_out(
    single: Outcomes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "MOST_DRAWN", 1000)
    found = quality.mean_f1(single, CLASSES)
    assert found.macro > 0 and found.macro_interval is None


def test_with_few_samples_per_class_the_interval_still_encloses_the_mean() -> None:
    generator = np.random.default_rng(7)
    targets = np.repeat(np.arange(200), 5)
    answers = np.where(generator.random(1000) < 0.7, targets, generator.integers(0, 200, 1000))
    rows = np.eye(200, dtype=np.float32)[answers]
    found = quality.mean_f1(Outcomes(("",) * 1000, targets, rows), 200)
    low, high = found.macro_interval or (0.0, 0.0)
    assert found.macro - low == pytest.approx(high - found.macro) and 0.02 < high - low < 0.1
