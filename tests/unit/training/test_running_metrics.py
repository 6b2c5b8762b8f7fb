"""Training metrics of an epoch survive an interruption of the epoch."""

from __future__ import annotations

import numpy as np
import pytest

from image_classification.backends.base import World
from image_classification.samples import FloatArray
from image_classification.training.checkpoint import PartialEpoch
from image_classification.training.evaluation import roc_auc, softmax
from image_classification.training.group import ProcessGroup
from image_classification.training.progress import EpochProgress, RunningMetrics, means

TARGETS = np.array([0, 1, 1, 0, 1, 0])
SCORES = [0.1, 0.3, 0.9, 0.4, 0.2, 0.8]  # logits of the positive class
LOGITS = np.array([[0.0, score] for score in SCORES], np.float32)


class Step:
    def __init__(self, part: slice) -> None:
        self.logits = LOGITS[part]

    def fetch(self) -> tuple[float, FloatArray]:
        return float(len(self.logits)), self.logits


def seen(metrics: RunningMetrics, *parts: slice) -> dict[str, float]:
    for part in parts:
        metrics.add(Step(part), TARGETS[part])
    return metrics.totals()


def area(part: slice) -> float:
    return roc_auc(TARGETS[part], softmax(LOGITS[part])[:, 1])


def test_a_binary_metric_is_that_of_all_samples_not_a_mean_of_batches() -> None:
    totals = seen(RunningMetrics(None, is_binary=True), slice(0, 2), slice(2, 6))
    assert means(totals)["auc"] == pytest.approx(area(slice(0, 6)))
    assert area(slice(0, 6)) != pytest.approx((2 * area(slice(0, 2)) + 4 * area(slice(2, 6))) / 6)


def test_a_resumed_epoch_continues_every_metric() -> None:
    totals = seen(RunningMetrics(None, is_binary=True), slice(0, 2))
    resumed = RunningMetrics(None, is_binary=True)
    resumed.restore(totals)
    assert means(resumed.totals()) == means(totals)  # only the validation may be left
    found = means(seen(resumed, slice(2, 6)))
    whole = means(seen(RunningMetrics(None, is_binary=True), slice(0, 2), slice(2, 6)))
    assert resumed.samples == 6
    assert (found["loss"], found["accuracy"]) == (whole["loss"], whole["accuracy"])
    assert found["auc"] == pytest.approx((2 * area(slice(0, 2)) + 4 * area(slice(2, 6))) / 6)
    del totals["prc"]  # as in a checkpoint of 0.1.0, which has the metric of eval_metric alone
    resumed = RunningMetrics(None, is_binary=True)
    resumed.restore(totals)
    rest = means(seen(RunningMetrics(None, is_binary=True), slice(2, 6)))
    assert means(seen(resumed, slice(2, 6)))["prc"] == pytest.approx(rest["prc"])


def test_the_time_in_steps_survives_an_interruption() -> None:
    totals = {"loss": 0.0, "accuracy": 0.0, "samples": 0.0}
    partial = PartialEpoch(5, totals, 1e6, 0.0, 0.1, step_seconds=7.5e5)
    group = ProcessGroup(None, World())  # type: ignore[arg-type]  # alone: no engine is asked
    progress = EpochProgress.resumed(3, RunningMetrics(None), partial, group)
    assert progress.outside_share == pytest.approx(0.25, abs=1e-3)
    assert progress.partial(totals, 0.0, "1 host").step_seconds == 7.5e5


def test_a_rank_that_logs_nothing_keeps_the_results_of_the_last_steps_only() -> None:
    alive: set[int] = set()

    class Counted(Step):
        def __init__(self, number: int) -> None:
            super().__init__(slice(0, 2))
            self.number = number
            alive.add(number)

        def fetch(self) -> tuple[float, FloatArray]:
            alive.discard(self.number)
            return super().fetch()

    metrics, most = RunningMetrics(None), 0
    for number in range(200):
        metrics.add(Counted(number), TARGETS[:2])
        most = max(most, len(alive))
    assert most <= 21
    assert metrics.totals()["samples"] == 400 and not alive
