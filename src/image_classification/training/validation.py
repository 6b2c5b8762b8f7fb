"""Passes over data in evaluation mode: every sample once, through the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from image_classification.backends.base import Engine
from image_classification.data.samples import Batch
from image_classification.training.divergence import diverged
from image_classification.training.evaluation import (
    Outcomes,
    collect,
    metric_names,
    metrics_of,
    softmax,
)
from image_classification.training.multi_label import sigmoid
from image_classification.training.process_group import ProcessGroup

if TYPE_CHECKING:
    from image_classification.data.loader import Loader
    from image_classification.training.settings import Settings


class _StoppedError(Exception):
    """The job was asked to stop in the middle of a validation pass."""


@dataclass(frozen=True)
class Validation:
    """The validation of one engine.

    Attributes:
        engine: the model.
        settings: of the job.
        loader: of the validation data.
    """

    engine: Engine
    settings: Settings
    loader: Loader

    @property
    def asked(self) -> tuple[int | None, str | None]:
        """The metrics beside loss and accuracy: k of the top-k accuracy, and a binary one."""
        return self.settings.top_k, self.settings.binary_metric

    def outcomes_of(self, loader: Loader, epoch: int) -> Outcomes:
        """Every sample of a loader once.

        Raises:
            UserError: the network's numbers are no longer finite after `epoch`.
        """
        return self._outcomes(loader.epoch(0), epoch)

    def measure(
        self, epoch: int, group: ProcessGroup, must_stop: Callable[[], bool]
    ) -> tuple[Outcomes | None, dict[str, float]]:
        """The leader's outcomes, and its metrics on all ranks: they must not differ in the best.

        No metrics if `must_stop` says so meanwhile. Every rank must call this.
        """
        values, outcomes = dict.fromkeys(metric_names(*self.asked), 0.0), None
        if group.is_leader:
            batches = _until(must_stop, self.loader.epoch(0))
            try:
                outcomes = self._outcomes(batches, epoch)
                values = metrics_of(outcomes, *self.asked)
            except _StoppedError:
                values["stopped"] = 1.0
        values = group.from_leader({"stopped": 0.0} | values)
        return outcomes, {} if values.pop("stopped") else values

    def _outcomes(self, batches: Iterator[Batch], epoch: int) -> Outcomes:
        predict = self.engine.predict_step
        activation = sigmoid if self.settings.multi_label else softmax
        outcomes = collect(batches, lambda images: activation(predict(images)))
        if not np.isfinite(outcomes.probabilities).all():
            raise diverged(epoch)
        return outcomes


def _until(must_stop: Callable[[], bool], batches: Iterator[Batch]) -> Iterator[Batch]:
    for batch in batches:
        if must_stop():
            raise _StoppedError
        yield batch
