"""Our metrics equal scikit-learn's."""

from __future__ import annotations

import re

import numpy as np
import pytest

from image_classification.contract.interface import INTERFACES
from image_classification.errors import HyperparameterError
from image_classification.training.checkpoint import EpochRecord, History
from image_classification.training.evaluation import (
    BINARY_METRICS,
    Outcomes,
    average_precision,
    metric_names,
    metrics_of,
    precision,
    recall,
    roc_auc,
    top_k_accuracy,
)
from image_classification.training.settings import settings_of

scores_of = pytest.importorskip("sklearn.metrics")


def cases() -> list[tuple[np.ndarray, np.ndarray]]:
    """Random targets and scores: fine, coarse (many ties), few samples, rare positives."""
    generator = np.random.default_rng(5)
    found = []
    for samples, steps, share in ((500, 1 << 20, 0.5), (500, 7, 0.5), (5, 4, 0.5), (300, 50, 0.04)):
        for _ in range(5):
            targets = (generator.random(samples) < share).astype(np.int64)
            targets[:2] = (0, 1)
            noise = generator.random(samples) * 0.8 + targets * 0.2
            found.append((targets, (np.round(noise * steps) / steps).astype(np.float32)))
    return found


@pytest.mark.parametrize(("targets", "scores"), cases())
def test_binary_metrics_equal_those_of_scikit_learn(
    targets: np.ndarray, scores: np.ndarray
) -> None:
    called = (scores > 0.5).astype(int)
    expected = {
        "precision": scores_of.precision_score(targets, called, zero_division=0.0),
        "recall": scores_of.recall_score(targets, called),
        "auc": scores_of.roc_auc_score(targets, scores),
        "prc": scores_of.average_precision_score(targets, scores),
    }
    found = {name: measure(targets, scores) for name, measure in BINARY_METRICS.items()}
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_accuracy_equals_that_of_scikit_learn(k: int) -> None:
    generator = np.random.default_rng(1)
    scores = generator.random((400, 8)).astype(np.float32)
    targets = generator.integers(0, 8, 400)
    expected = scores_of.top_k_accuracy_score(targets, scores, k=k)
    assert top_k_accuracy(targets, scores, k) == pytest.approx(expected)


def test_a_metric_is_a_number_even_if_a_class_is_absent() -> None:
    scores = np.array([0.2, 0.7, 0.9], np.float32)
    for targets in (np.zeros(3, np.int64), np.ones(3, np.int64)):
        assert all(np.isfinite(measure(targets, scores)) for measure in BINARY_METRICS.values())
    nothing = np.zeros(3, np.float32)
    assert precision(np.array([0, 1, 1]), nothing) == 0 and recall(np.zeros(3, int), scores) == 0
    assert roc_auc(np.zeros(3, np.int64), scores) == 0
    assert average_precision(np.ones(3, np.int64), scores) == 1


def test_all_binary_metrics_are_reported_with_accuracy_and_one_decides_the_best_epoch() -> None:
    probabilities = np.array([[0.1, 0.9], [0.4, 0.6], [0.8, 0.2]], np.float32)
    outcomes = Outcomes(("a", "b", "c"), np.array([1, 0, 0]), probabilities)
    found = metrics_of(outcomes, is_binary=True)
    names = ("loss", "accuracy", "precision", "recall", "auc", "prc")
    assert tuple(found) == metric_names(is_binary=True) == names
    assert found["precision"] == 0.5
    rows = [{"accuracy": 0.9, "auc": 0.6, "loss": 1.0}, {"accuracy": 0.8, "auc": 0.7, "loss": 1.0}]
    epochs = [EpochRecord(i, row, row, 1.0, 1.0, 0.0, 0.1) for i, row in enumerate(rows)]
    assert History(epochs).best_epoch == 0
    assert History(epochs, metric="auc").best_epoch == 1


def test_eval_metric_needs_binary_mode() -> None:
    values = INTERFACES["tensorflow"].parse({"eval_metric": "auc"})
    with pytest.raises(HyperparameterError, match="eval_metric=auc needs binary_mode=True"):
        settings_of(values)
    values = INTERFACES["tensorflow"].parse({"eval_metric": '"prc"', "binary_mode": '"True"'})
    settings = settings_of(values)
    assert (settings.binary_metric, settings.top_k) == ("prc", None)


def test_a_binary_job_logs_the_metrics_of_the_published_script_whatever_decides() -> None:
    row = dict.fromkeys(metric_names(is_binary=True), 0.5)
    (line,) = INTERFACES["tensorflow"].lines.of_epoch(0, 12, 9.2, row, row)
    assert line == (
        "12/12 - 9s - loss: 0.5000 - accuracy: 0.5000 - precision: 0.5000 - recall: 0.5000"
        " - auc: 0.5000 - prc: 0.5000 - val_loss: 0.5000 - val_accuracy: 0.5000"
        " - val_precision: 0.5000 - val_recall: 0.5000 - val_auc: 0.5000 - val_prc: 0.5000"
    )
    logged = "\n".join([line, *INTERFACES["tensorflow"].lines.of_test(row, 10, 1.0)])
    for name in ("precision", "recall", "auc", "prc"):  # of the published benchmark notebook
        for pattern in (f"- {name}: ", f"- val_{name}: ", f"- Test {name}: "):
            assert re.findall(pattern + r"([0-9\.]+)", logged) == ["0.5000"]


def test_a_single_sigmoid_needs_binary_mode() -> None:
    values = INTERFACES["tensorflow"].parse({"binary_answer": "sigmoid"})
    with pytest.raises(HyperparameterError, match="binary_answer=sigmoid needs binary_mode=True"):
        settings_of(values)
    with pytest.raises(HyperparameterError, match="belongs to the tensorflow interface"):
        INTERFACES["mxnet"].parse({"binary_answer": "sigmoid"})
