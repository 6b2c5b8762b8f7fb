"""Training metrics of the epoch that is running, over the samples seen so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from image_classification.backends.base import StepResult
from image_classification.data.samples import IntArray
from image_classification.training.evaluation import metric_names, top_k_accuracy
from image_classification.training.multi_label import label_accuracy, sigmoid
from image_classification.training.process_group import ProcessGroup


@dataclass
class RunningMetrics:
    """Sums over samples; results are kept as they come and fetched when a line is due.

    Each fetch waits for the device.

    Attributes:
        top_k: k of the second accuracy, or None.
        samples: how many were fetched on this rank.
    """

    top_k: int | None
    samples: int = 0
    _sums: dict[str, float] = field(default_factory=dict)
    _pending: list[tuple[StepResult, IntArray]] = field(default_factory=list)

    @classmethod
    def restored(cls, top_k: int | None, totals: Mapping[str, float]) -> RunningMetrics:
        """The inverse of `totals`."""
        sums = {name: totals[name] for name in metric_names(top_k)}
        return cls(top_k, round(totals["samples"]), sums)

    def add(self, result: StepResult, class_indices: IntArray) -> None:
        """One step's result and its samples' classes: int64 (N,), or multi-hot (N, classes)."""
        self._pending.append((result, class_indices))

    def totals(self, group: ProcessGroup | None = None) -> dict[str, float]:
        """Each metric's sum over the samples, and `samples`: of this rank, or of all of `group`.

        A synchronisation point with the device.
        """
        self._fetch()
        totals = {name: self._sums.get(name, 0.0) for name in metric_names(self.top_k)}
        totals["samples"] = float(self.samples)
        return totals if group is None else group.sum(totals)

    def values(self) -> dict[str, float]:
        """Loss, accuracy and top-k accuracy so far, of this rank; waits for the device."""
        return means(self.totals())

    def _fetch(self) -> None:
        for result, class_indices in self._pending:
            loss, logits = result.fetch()
            count = len(class_indices)
            found = {"loss": loss}
            if class_indices.ndim == 2:
                found["accuracy"] = label_accuracy(class_indices, sigmoid(logits))
            else:
                found["accuracy"] = top_k_accuracy(class_indices, logits)
            if self.top_k:
                name = f"top_k_accuracy_{self.top_k}"
                found[name] = top_k_accuracy(class_indices, logits, self.top_k)
            for name, value in found.items():
                self._sums[name] = self._sums.get(name, 0.0) + value * count
            self.samples += count
        self._pending.clear()


def means(totals: Mapping[str, float]) -> dict[str, float]:
    """Metric name → mean over the samples of `RunningMetrics.totals`; 0 without samples."""
    count = max(totals["samples"], 1.0)
    return {name: value / count for name, value in totals.items() if name != "samples"}
