"""How far a job is: its running time, the epoch under way, and the metrics of that epoch so far."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from image_classification.backends.base import StepResult
from image_classification.samples import FloatArray, IntArray
from image_classification.training import evaluation
from image_classification.training.checkpoint import EpochRecord, PartialEpoch
from image_classification.training.group import ProcessGroup


@dataclass
class JobClock:
    """The running time of a job over all its starts, and the distance to its last checkpoint.

    Attributes:
        seconds_before: running time before this start.
    """

    seconds_before: float = 0.0
    _began: float = field(default_factory=time.monotonic)
    _saved: float = field(default_factory=time.monotonic)
    _steps_since_save: int = 0

    @property
    def seconds(self) -> float:
        """Running time in seconds, excluding interruptions."""
        return self.seconds_before + time.monotonic() - self._began

    def count_step(self) -> None:
        """Count a step since the last checkpoint."""
        self._steps_since_save += 1

    def is_save_due(self, steps: int | None, minutes: float | None) -> bool:
        """Return whether this many steps or minutes have passed since the last checkpoint."""
        by_steps = steps is not None and self._steps_since_save >= steps
        by_time = minutes is not None and time.monotonic() - self._saved >= 60 * minutes
        return by_steps or by_time

    def restart_save_interval(self) -> None:
        """Measure the distance to the next checkpoint from here."""
        self._steps_since_save, self._saved = 0, time.monotonic()


_MOST_PENDING = 20  # steps: between two lines of the leader; 21,841 classes take 450 MB


@dataclass
class RunningMetrics:
    """Metrics of an epoch under way, as sums over its samples.

    Results stay on the device until a log line is due, because fetching them waits for the device;
    at most those of the last steps, because ranks that do not lead log nothing for an epoch.

    Attributes:
        top_k: k of the second accuracy, or None.
        is_binary: whether it has the BINARY_METRICS. They are not means over samples. Each rank
            computes them exactly over its own samples; the values are then averaged by the number
            of samples. So are those of the two parts of an interrupted epoch, because a checkpoint
            does not hold the scores.
        samples: number of samples fetched on this rank.
        fetch_seconds: time spent waiting for results since this process began the epoch.
    """

    top_k: int | None
    is_binary: bool = False
    samples: int = 0
    fetch_seconds: float = 0.0
    _sums: dict[str, float] = field(default_factory=dict)
    _pending: list[tuple[StepResult, IntArray]] = field(default_factory=list)
    _scores: list[FloatArray] = field(default_factory=list)
    _targets: list[IntArray] = field(default_factory=list)
    _unmeasured: set[str] = field(default_factory=set)

    def restore(self, totals: Mapping[str, float]) -> None:
        """Continue from `totals`; call it before the first sample."""
        self._sums = {name: totals[name] for name in self._names if name in totals}
        self.samples = round(totals["samples"])
        # A checkpoint of 0.1.0 has only one of the binary metrics.
        self._unmeasured = {name for name in self._names if name not in totals}

    def add(self, result: StepResult, class_indices: IntArray) -> None:
        """Add a step's result; its classes are int64 (N,), or multi-hot (N, classes)."""
        self._pending.append((result, class_indices))
        if len(self._pending) > _MOST_PENDING:
            self._fetch(1)  # the oldest one, which the device has computed long ago

    def totals(self, group: ProcessGroup | None = None) -> dict[str, float]:
        """Return each metric's sum over the samples, and `samples`: of this rank, or of `group`.

        A synchronization point with the device.
        """
        self._fetch()
        totals = {name: self._sums.get(name, 0.0) for name in self._names}
        if self._scores:
            targets, scores = np.concatenate(self._targets), np.concatenate(self._scores)
            for name, measure in evaluation.BINARY_METRICS.items():
                count = self.samples if name in self._unmeasured else len(targets)
                totals[name] += measure(targets, scores) * count
        totals["samples"] = float(self.samples)
        return totals if group is None else group.sum(totals)

    def values(self) -> dict[str, float]:
        """Return this rank's metrics so far. A synchronization point with the device."""
        return means(self.totals())

    @property
    def _names(self) -> tuple[str, ...]:
        return evaluation.metric_names(self.top_k, is_binary=self.is_binary)

    def _fetch(self, most: int | None = None) -> None:
        fetched = self._pending[:most]
        for result, class_indices in fetched:
            before = time.perf_counter()
            loss, logits = result.fetch()
            self.fetch_seconds += time.perf_counter() - before  # the device was still at the step
            count = len(class_indices)
            values = {"loss": loss}
            if class_indices.ndim == 2:
                probabilities = evaluation.sigmoid(logits)
                values["accuracy"] = evaluation.label_accuracy(class_indices, probabilities)
            else:
                values["accuracy"] = evaluation.top_k_accuracy(class_indices, logits)
            if self.top_k:
                accuracy = evaluation.top_k_accuracy(class_indices, logits, self.top_k)
                values[f"top_k_accuracy_{self.top_k}"] = accuracy
            if self.is_binary:
                self._scores.append(evaluation.softmax(logits)[:, evaluation.POSITIVE_CLASS])
                self._targets.append(class_indices)
            for name, value in values.items():
                self._sums[name] = self._sums.get(name, 0.0) + value * count
            self.samples += count
        del self._pending[: len(fetched)]


def means(totals: Mapping[str, float]) -> dict[str, float]:
    """Return the mean over the samples of each metric in `RunningMetrics.totals`; 0 without any."""
    count = max(totals["samples"], 1.0)
    return {name: value / count for name, value in totals.items() if name != "samples"}


@dataclass
class EpochProgress:
    """An epoch under way.

    Attributes:
        epoch: 0 for the first.
        metrics: of the samples seen so far.
        step: number of complete steps.
        images: number of samples in these steps, on this rank.
        learning_rate: at the last of these steps.
        step_seconds: time spent in calls of the engine, also before an interruption.
        seconds_before, wait_seconds_before: time spent before an interruption.
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
        """Return the rest of an interrupted epoch; the leader carries the metrics of all ranks."""
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

    def add_result(
        self,
        result: StepResult,
        class_indices: IntArray,
        images: int,
        learning_rate: float,
        seconds: float,
    ) -> None:
        """Add the engine's result of a step.

        Args:
            result: as the engine returned it.
            class_indices: of the batch.
            images: number of samples in the batch; padding does not count.
            learning_rate: of the step.
            seconds: time spent in the call of the engine.
        """
        self.learning_rate = learning_rate
        self.step_seconds += seconds
        self.images += images
        if images:
            self.metrics.add(result, class_indices)

    def end_step(self) -> None:
        """Count a complete step."""
        self.step += 1

    @property
    def seconds(self) -> float:
        """Time spent on the epoch so far."""
        return self.seconds_before + time.monotonic() - self._began

    def wait_share(self, wait_seconds: float) -> float:
        """Return the share (0–1) of the time spent waiting for data.

        Args:
            wait_seconds: the waiting time of this process.
        """
        return (self.wait_seconds_before + wait_seconds) / max(self.seconds, 1e-9)

    @property
    def outside_share(self) -> float:
        """The share (0–1) of the time outside the training step: waiting, metrics, logging.

        Fetching results belongs to the step: the device is still working on it.
        """
        return max(0.0, 1 - self._in_steps / max(self.seconds, 1e-9))

    @property
    def _in_steps(self) -> float:
        return self.step_seconds + self.metrics.fetch_seconds

    def record(self, totals: Mapping[str, float], wait_seconds: float) -> EpochRecord:
        """Return the record of the epoch so far, without its validation."""
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
        """Return what a checkpoint within the epoch stores about it."""
        return PartialEpoch(
            self.step,
            totals,
            self.seconds,
            self.wait_seconds_before + wait_seconds,
            self.learning_rate,
            self._in_steps,
            division,
        )
