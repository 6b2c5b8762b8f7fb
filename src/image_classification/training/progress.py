"""The weights that outlive training: which of a state's, and from where in the training."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from image_classification.backends.base import AVERAGE_PREFIX, WEIGHT_PREFIX, State, StepResult
from image_classification.samples import FloatArray, IntArray
from image_classification.training.checkpoint import EpochRecord, History, PartialEpoch
from image_classification.training.evaluation import (
    BINARY_METRICS,
    POSITIVE_CLASS,
    label_accuracy,
    metric_names,
    sigmoid,
    softmax,
    top_k_accuracy,
)
from image_classification.training.group import ProcessGroup


@dataclass
class RunningMetrics:
    """Sums over samples; results are kept as they come and fetched when a line is due.

    Each fetch waits for the device.

    Attributes:
        top_k: k of the second accuracy, or None.
        binary_metric: a key of BINARY_METRICS, or None. It is not a mean over samples, so it is
            computed exactly for each rank and each part of an epoch that was interrupted (the
            scores of the earlier part are not in a checkpoint) and then averaged over these by
            their samples.
        samples: how many were fetched on this rank.
        fetch_seconds: spent waiting for results, since the process began the epoch.
    """

    top_k: int | None
    binary_metric: str | None = None
    samples: int = 0
    fetch_seconds: float = 0.0
    _sums: dict[str, float] = field(default_factory=dict)
    _pending: list[tuple[StepResult, IntArray]] = field(default_factory=list)
    _scores: list[FloatArray] = field(default_factory=list)
    _targets: list[IntArray] = field(default_factory=list)

    def restore(self, totals: Mapping[str, float]) -> None:
        """Go on from `totals`; before the first sample."""
        self._sums = {name: totals[name] for name in self._names}
        self.samples = round(totals["samples"])

    def add(self, result: StepResult, class_indices: IntArray) -> None:
        """One step's result and its samples' classes: int64 (N,), or multi-hot (N, classes)."""
        self._pending.append((result, class_indices))

    def totals(self, group: ProcessGroup | None = None) -> dict[str, float]:
        """Each metric's sum over the samples, and `samples`: of this rank, or of all of `group`.

        A synchronization point with the device.
        """
        self._fetch()
        totals = {name: self._sums.get(name, 0.0) for name in self._names}
        if self.binary_metric and self._scores:
            targets, scores = np.concatenate(self._targets), np.concatenate(self._scores)
            value = BINARY_METRICS[self.binary_metric](targets, scores)
            totals[self.binary_metric] += value * len(targets)
        totals["samples"] = float(self.samples)
        return totals if group is None else group.sum(totals)

    def values(self) -> dict[str, float]:
        """Loss, accuracy and what else is asked for so far, of this rank; waits for the device."""
        return means(self.totals())

    @property
    def _names(self) -> tuple[str, ...]:
        return metric_names(self.top_k, self.binary_metric)

    def _fetch(self) -> None:
        for result, class_indices in self._pending:
            before = time.perf_counter()
            loss, logits = result.fetch()
            self.fetch_seconds += time.perf_counter() - before  # the device was still at the step
            count = len(class_indices)
            found = {"loss": loss}
            if class_indices.ndim == 2:
                found["accuracy"] = label_accuracy(class_indices, sigmoid(logits))
            else:
                found["accuracy"] = top_k_accuracy(class_indices, logits)
            if self.top_k:
                name = f"top_k_accuracy_{self.top_k}"
                found[name] = top_k_accuracy(class_indices, logits, self.top_k)
            if self.binary_metric:
                self._scores.append(softmax(logits)[:, POSITIVE_CLASS])
                self._targets.append(class_indices)
            for name, value in found.items():
                self._sums[name] = self._sums.get(name, 0.0) + value * count
            self.samples += count
        self._pending.clear()


def means(totals: Mapping[str, float]) -> dict[str, float]:
    """Metric name → mean over the samples of `RunningMetrics.totals`; 0 without samples."""
    count = max(totals["samples"], 1.0)
    return {name: value / count for name, value in totals.items() if name != "samples"}


@dataclass
class EpochProgress:
    """An epoch under way.

    Attributes:
        epoch: 0 for the first.
        metrics: over the samples seen so far.
        step: steps that are complete.
        images: samples of these, on this rank.
        learning_rate: at the last of them.
        step_seconds: that the engine was called for them, before an interruption too.
        seconds_before, wait_seconds_before: spent before the process was interrupted.
    """

    epoch: int
    metrics: RunningMetrics
    step: int = 0
    images: int = 0
    learning_rate: float = 0.0
    step_seconds: float = 0.0
    seconds_before: float = 0.0
    wait_seconds_before: float = 0.0
    _began: float = field(default_factory=time.monotonic)

    @classmethod
    def resumed(
        cls, epoch: int, metrics: RunningMetrics, partial: PartialEpoch, group: ProcessGroup
    ) -> EpochProgress:
        """The rest of an interrupted epoch; the leader goes on with the metrics of all ranks."""
        if group.is_leader:
            metrics.restore(partial.totals)
        return cls(
            epoch,
            metrics,
            partial.step,
            metrics.samples,
            partial.learning_rate,
            partial.step_seconds,
            partial.seconds,
            partial.wait_seconds,
        )

    @property
    def seconds(self) -> float:
        """Spent on the epoch so far."""
        return self.seconds_before + time.monotonic() - self._began

    def wait_share(self, wait_seconds: float) -> float:
        """0–1, the share of the time spent waiting for data, `wait_seconds` by this process."""
        return (self.wait_seconds_before + wait_seconds) / max(self.seconds, 1e-9)

    @property
    def outside_share(self) -> float:
        """0–1, the share of the time outside the training step: waiting, metrics, logging.

        Fetching results belongs to the step: the device was still at it.
        """
        return max(0.0, 1 - self._in_steps / max(self.seconds, 1e-9))

    @property
    def _in_steps(self) -> float:
        return self.step_seconds + self.metrics.fetch_seconds

    def record(self, totals: Mapping[str, float], wait_seconds: float) -> EpochRecord:
        """What the epoch brought up to now; the validation is still to come."""
        return EpochRecord(
            epoch=self.epoch,
            train=means(totals),
            validation={},
            seconds=self.seconds,
            images_per_second=totals["samples"] / max(self.seconds, 1e-9),
            wait_share=self.wait_share(wait_seconds),
            learning_rate=self.learning_rate,
            outside_share=self.outside_share,
        )

    def partial(self, totals: dict[str, float], wait_seconds: float, division: str) -> PartialEpoch:
        """What a checkpoint within the epoch says of it."""
        return PartialEpoch(
            self.step,
            totals,
            self.seconds,
            self.wait_seconds_before + wait_seconds,
            self.learning_rate,
            self._in_steps,
            division,
        )


@dataclass(frozen=True)
class LastWeights:
    """The weights that training ended with.

    Attributes:
        weights: `weight/<neutral name>` → array.
        epoch: 0 for the first.
        cut_after: steps of it, where a stop cut it short; 0 for a whole epoch.
    """

    weights: State
    epoch: int
    cut_after: int = 0


def evaluated_weights(state: State) -> State:
    """Those that are evaluated and served: the averaged ones where there are any."""
    averages = {k: v for k, v in state.items() if k.startswith(AVERAGE_PREFIX)}
    if averages:
        return {WEIGHT_PREFIX + k.removeprefix(AVERAGE_PREFIX): v for k, v in averages.items()}
    return {name: value for name, value in state.items() if name.startswith(WEIGHT_PREFIX)}


def last_weights(state: State, history: History, progress: EpochProgress | None) -> LastWeights:
    """Those of an engine's state at the end of training.

    Args:
        state: of the engine.
        history: the epochs that count, one at least.
        progress: of the epoch begun last, which a stop may have kept out of `history`; None where
            this process began none.
    """
    weights = evaluated_weights(state)
    if progress is not None and progress.epoch == len(history.epochs):
        return LastWeights(weights, progress.epoch, progress.step)
    record = history.epochs[-1]
    return LastWeights(weights, record.epoch, record.cut_after)
