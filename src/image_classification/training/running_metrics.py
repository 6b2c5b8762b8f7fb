"""Training metrics of the epoch that is running, over the samples seen so far."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from image_classification.backends.base import StepResult
from image_classification.data.samples import FloatArray, IntArray
from image_classification.training.binary_metrics import BINARY_METRICS, POSITIVE_CLASS
from image_classification.training.evaluation import metric_names, softmax, top_k_accuracy
from image_classification.training.multi_label import label_accuracy, sigmoid
from image_classification.training.process_group import ProcessGroup


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

        A synchronisation point with the device.
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
