"""Predictions and evaluations as values, and as the tables of a notebook."""

from __future__ import annotations

import numpy as np
import pytest

from image_classification.api.results import ClassScore, Prediction, evaluation_of, table
from image_classification.training.evaluation import Outcomes

NAMES = ("a", "b", "c")


def outcomes(targets: object, rows: list[list[float]]) -> Outcomes:
    keys = tuple(f"{n}.jpg" for n in range(len(rows)))
    return Outcomes(keys, np.array(targets), np.array(rows, np.float32))


def test_ties_are_answered_with_the_first_class_as_the_server_does() -> None:
    prediction = Prediction("x.jpg", NAMES, np.array([0.4, 0.4, 0.2], np.float32))
    assert prediction.label == "a" and [name for name, _ in prediction.top(3)] == ["a", "b", "c"]
    assert prediction.top(0) == [] and len(prediction.top(9)) == 3
    assert prediction.labels_from(0.3) == ["a", "b"]


def test_an_evaluation_counts_by_class_and_orders_mistakes_by_confidence() -> None:
    rows = [[0.9, 0.1, 0], [0.2, 0.8, 0], [0.3, 0.7, 0], [0, 0.05, 0.95]]
    found = evaluation_of(outcomes([0, 1, 0, 1], rows), NAMES, None, {"bad.jpg": "cut off"})
    assert found.accuracy == 0.5 and found.samples == 4 and found.skipped == {"bad.jpg": "cut off"}
    assert found.confusion.tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]
    assert [(m.source, m.label, m.predicted) for m in found.errors] == [
        ("3.jpg", "b", "c"),
        ("2.jpg", "a", "b"),
    ]
    a, b, c = found.per_class
    assert (a.precision, a.recall, a.f1) == (1.0, 0.5, pytest.approx(2 / 3))
    assert (b.precision, b.recall) == (0.5, 0.5)
    assert (c.samples, c.precision, c.recall, c.f1) == (0, 0.0, None, 0.0)
    assert found.macro_f1 == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert ClassScore("d", 1, 0.0, 0.0).f1 == ClassScore("d", 1, None, 0.0).f1 == 0.0
    assert ClassScore("d", 0, None, None).f1 is None


def test_the_interval_of_the_accuracy_is_wilsons() -> None:
    rows = [[0.9, 0.1, 0.0]] * 10
    found = evaluation_of(outcomes([0] * 8 + [1] * 2, rows), NAMES, None, {})
    assert found.interval == pytest.approx((0.4902, 0.9433), abs=1e-4)  # 8 of 10
    several = evaluation_of(outcomes([[1, 0, 1]], [[0.9, 0.1, 0.2]]), NAMES, None, {})
    assert several.interval is None and several.confusions() == []


def test_images_without_a_class_that_the_model_gives_none_have_a_mean_f1_of_0() -> None:
    found = evaluation_of(outcomes([[0, 0, 0]], [[0.1, 0.1, 0.2]]), NAMES, None, {})
    assert found.accuracy == 1 and found.macro_f1 == 0


def test_images_with_several_classes_have_no_confusion() -> None:
    found = evaluation_of(outcomes([[1, 0, 1]], [[0.9, 0.1, 0.2]]), NAMES, None, {})
    assert found.confusion.shape == (0, 0) and found.errors == []
    assert found.accuracy == pytest.approx(2 / 3)
    assert [score.recall for score in found.per_class] == [1.0, None, 0.0]


def test_tables_escape_names_and_stay_small() -> None:
    evil = "<script>alert(1)</script>"
    prediction = Prediction(evil, (evil, "b\udcff"), np.array([0.6, 0.4], np.float32))
    html = prediction._repr_html_()
    assert "<script" not in html and html.count("&lt;script&gt;") == 2
    html.encode()  # also with a name that is not UTF-8
    long = table("t" * 10_000, ("class",), [("n" * 10_000,)] * 10_000)
    assert len(long) < 5_000 and "… and 9980 more" in long
    many = evaluation_of(
        outcomes([0], [[1.0] + [0.0] * 999]), [f"class {n}" for n in range(1000)], None, {}
    )
    assert len(many._repr_html_()) < 5_000
