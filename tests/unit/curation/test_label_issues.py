"""Out-of-fold heads, the scores of labels, outliers: on features with known errors."""

from __future__ import annotations

import numpy as np
import pytest

from image_classification import curation
from image_classification.curation import label_issues
from image_classification.samples import FloatArray, IntArray

CLASSES, WIDTH = 4, 40


def features_of(labels: IntArray, noise: float, seed: int = 0) -> FloatArray:
    generator = np.random.default_rng(seed)
    centers = np.random.default_rng(99).normal(size=(CLASSES, WIDTH))
    rows = centers[labels] + noise * generator.normal(size=(len(labels), WIDTH))
    return np.asarray(rows, np.float32)


def flipped(labels: IntArray, share: float, seed: int) -> tuple[IntArray, IntArray]:
    """Labels of which a share is wrong, and the places of the wrong ones."""
    generator = np.random.default_rng(seed)
    wrong = generator.choice(len(labels), round(share * len(labels)), replace=False)
    changed = labels.copy()
    changed[wrong] = (changed[wrong] + generator.integers(1, CLASSES, len(wrong))) % CLASSES
    return changed, wrong


def judged(features: FloatArray, labels: IntArray) -> label_issues.LabelScores:
    heads = curation.fit_folds(features, labels, CLASSES)
    return label_issues.score_labels(heads.chunks(), labels, CLASSES)


LABELS: IntArray = np.repeat(np.arange(CLASSES), 60)


def test_most_wrong_labels_are_found_and_get_their_right_class() -> None:
    features = features_of(LABELS, 1.0)
    labels, wrong = flipped(LABELS, 0.05, 1)
    scores = judged(features, labels)
    found = set(scores.ranked())
    assert len(found & set(wrong.tolist())) >= 11, "of 12"
    assert len(found) <= 0.15 * len(labels)
    assert 0.01 < scores.wrong_share < 0.07
    assert (scores.suggested[wrong] == LABELS[wrong]).mean() > 0.9
    values = scores.scores[scores.ranked()]
    assert (np.diff(values) <= 0).all() and values[-1] >= scores.threshold


@pytest.mark.parametrize("noise", [1.0, 3.0, 5.0, 8.0, 20.0])
def test_right_labels_are_not_suspected_however_hard_the_images_are(noise: float) -> None:
    scores = judged(features_of(LABELS, noise), LABELS)
    assert scores.is_suspicious.mean() <= 0.04
    assert scores.wrong_share <= 0.02


def test_many_classes_are_judged_in_smaller_chunks_with_the_same_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels, _ = flipped(LABELS, 0.05, 1)
    features = features_of(LABELS, 1.0)
    whole, sizes = judged(features, labels), list[int]()
    monkeypatch.setattr(curation, "_MOST_VALUES", 7 * CLASSES)
    softmax = curation.softmax
    monkeypatch.setattr(curation, "softmax", lambda z: (sizes.append(len(z)), softmax(z))[1])
    np.testing.assert_allclose(judged(features, labels).scores, whole.scores, atol=1e-3)
    assert max(sizes) == 7


def test_very_many_classes_get_heads_in_closed_form_that_find_as_many_wrong_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels, wrong = flipped(LABELS, 0.05, 1)
    features = features_of(LABELS, 1.0)
    fitted = judged(features, labels)
    monkeypatch.setattr(curation, "_MOST_FITTED_VALUES", 0)
    calls: list[tuple[int, int]] = []
    heads = curation.fit_folds(
        features, labels, CLASSES, on_progress=lambda *call: calls.append(call)
    )
    assert calls == [(number, 5) for number in range(1, 6)]
    scores = label_issues.score_labels(heads.chunks(), labels, CLASSES)
    assert len(set(scores.ranked()) & set(wrong.tolist())) >= 11, "of 12"
    assert len(scores.ranked()) <= 0.15 * len(labels)
    assert scores.accuracy == pytest.approx(fitted.accuracy, abs=0.04)


def test_classes_that_an_image_is_not_like_are_compared_by_their_mean_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels, _ = flipped(LABELS, 0.05, 1)
    features = features_of(LABELS, 3.0)
    whole = judged(features, labels)
    monkeypatch.setattr(label_issues, "_MOST_COMPARED", 2)
    scores = judged(features, labels)
    np.testing.assert_allclose(scores.scores, whole.scores, atol=0.02)
    assert scores.suggested.tolist() == whole.suggested.tolist()


def test_a_wrong_label_does_not_vouch_for_that_of_a_copy_of_its_image() -> None:
    features = features_of(LABELS, 1.0)
    labels = LABELS.copy()
    labels[3] = 2
    features[7], labels[7] = features[3], 2  # the same image with the same wrong label
    features[200] = features[3] * np.float32(1 + 1e-7)  # computed in another batch
    folds = curation.fit_folds(features, labels, CLASSES).folds
    assert (folds[:, 3] == folds[:, 7]).all() and (folds[:, 3] == folds[:, 200]).all()
    assert {3, 7} <= set(judged(features, labels).ranked()[:4])


def test_a_class_of_copies_of_few_images_is_in_every_fold() -> None:
    features = features_of(LABELS, 1.0)
    own = np.flatnonzero(LABELS == 1)
    features[own] = features[own[0]]
    folds = curation.fit_folds(features, LABELS, CLASSES).folds
    assert all(len(set(row[own].tolist())) == 5 for row in folds)


def test_a_head_never_judges_an_image_that_it_was_fitted_on() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(200, WIDTH)).astype(np.float32)
    labels = generator.integers(0, CLASSES, 200)
    heads = curation.fit_folds(features, labels, CLASSES)
    scores = label_issues.score_labels(heads.chunks(), labels, CLASSES)
    assert scores.accuracy < 0.4, "random labels cannot be predicted"
    for folds in heads.folds:
        counts = [np.bincount(folds[labels == index], minlength=5) for index in range(CLASSES)]
        assert max(int(np.ptp(count)) for count in counts) <= 1


def test_the_same_images_give_the_same_heads() -> None:
    features = features_of(LABELS, 3.0)
    one, two = (curation.fit_folds(features, LABELS, CLASSES) for _ in range(2))
    assert (one.weights == two.weights).all() and (one.folds == two.folds).all()


def test_a_head_is_as_accurate_as_that_of_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    features = features_of(LABELS, 4.0)
    heads = curation.fit_folds(features, LABELS, CLASSES)
    correct = 0
    for folds in heads.folds:
        for fold in range(5):
            chosen = folds != fold
            theirs = linear_model.LogisticRegression(C=1 / (3e-4 * chosen.sum()), max_iter=1000)
            theirs.fit(heads.features[chosen], LABELS[chosen])
            correct += (theirs.predict(heads.features[~chosen]) == LABELS[~chosen]).sum()
    expected = correct / (3 * len(LABELS))
    scores = label_issues.score_labels(heads.chunks(), LABELS, CLASSES)
    assert scores.accuracy == pytest.approx(expected, abs=0.01)


def test_probabilities_of_many_images_are_computed_in_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features = features_of(LABELS, 3.0)
    whole = judged(features, LABELS)
    monkeypatch.setattr(curation, "_CHUNK", 50)
    pieces = judged(features, LABELS)
    assert np.abs(whole.scores - pieces.scores).max() < 1e-3
    heads = curation.fit_folds(features, LABELS, CLASSES)
    assert max(found.shape[1] for _, found in heads.chunks()) <= 50


def test_wilsons_interval_is_that_of_the_literature() -> None:
    # R. G. Newcombe, Two-sided confidence intervals for the single proportion (1998), method 3.
    assert curation.wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert curation.wilson_interval(0.0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert curation.wilson_interval(1 / 29, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_images_unlike_all_others_are_outliers() -> None:
    features = features_of(LABELS, 1.0)
    strange = np.random.default_rng(5).normal(size=(3, WIDTH)).astype(np.float32)
    found = label_issues.outliers(np.vstack([features, strange]))
    assert {index for index, _ in found} >= {240, 241, 242}
    assert len(found) <= 3 + 0.04 * len(features)
    distances = [distance for _, distance in found]
    assert distances == sorted(distances, reverse=True)
    assert label_issues.outliers(features[:20]) == [], "too few neighbors"


def test_neighbors_are_looked_for_among_fewer_images_the_more_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features = features_of(LABELS, 1.0)
    features[5] = np.random.default_rng(4).normal(size=WIDTH) * 9
    monkeypatch.setattr(label_issues, "_MOST_PAIRS", 100 * len(features))
    monkeypatch.setattr(label_issues, "_LEAST_REFERENCES", 50)
    calls: list[tuple[int, int]] = []
    found = label_issues.outliers(features, on_progress=lambda *call: calls.append(call))
    assert found[0][0] == 5 and len(found) < 5
    assert calls[-1] == (240, 240)
