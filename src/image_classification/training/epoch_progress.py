"""How far the training part of one epoch has come, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from image_classification.training.checkpoint import EpochRecord, PartialEpoch
from image_classification.training.process_group import ProcessGroup
from image_classification.training.running_metrics import RunningMetrics, means


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
