"""Validation: predict each sample of a split once, measure the result, and detect divergence."""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from image_classification.backends.base import Engine
from image_classification.errors import UserError
from image_classification.loading.loader import Loader
from image_classification.samples import Batch
from image_classification.training import evaluation
from image_classification.training.group import ProcessGroup
from image_classification.training.settings import Settings

_logger = logging.getLogger(__name__)


def check_finite(loss: float, epoch: int) -> None:
    """Raise the error of `diverged` if the loss of `epoch` is not finite."""
    if not math.isfinite(loss):
        raise diverged(epoch)


def diverged(epoch: int) -> UserError:
    """Return the error of training whose numbers are no longer finite in `epoch` (from 0)."""
    return UserError(
        f"training diverged in epoch {epoch + 1}: the loss is no longer a finite number; lower "
        "learning_rate, or set warmup_epochs or clip_gradient_norm"
    )


class _StoppedError(Exception):
    """The job must stop in the middle of a pass."""


@dataclass(frozen=True)
class Measured:
    """The result of a validation pass.

    Attributes:
        outcomes: on the leader, if there are metrics.
        metrics: name → value, the same on every rank; empty if the pass was stopped.
        is_whole: whether the pass saw every sample.
    """

    outcomes: evaluation.Outcomes | None
    metrics: dict[str, float]
    is_whole: bool


@dataclass(frozen=True)
class Validation:
    """The validation of one engine.

    Attributes:
        engine: the model.
        settings: of the job.
        loader: of the validation data.
        is_out_of_time: called during a pass that is needed after a stop; True ends it with the
            images seen so far.
    """

    engine: Engine
    settings: Settings
    loader: Loader
    is_out_of_time: Callable[[], bool]

    def outcomes_of(
        self, loader: Loader, epoch: int, must_stop: Callable[[], bool]
    ) -> evaluation.Outcomes | None:
        """Return the outcomes of all samples of a loader; None if `must_stop` returns True.

        Raises:
            UserError: the network's outputs after `epoch` are not finite.
        """
        try:
            return self._outcomes(_until(must_stop, loader.epoch(0)), epoch)
        except _StoppedError:
            return None

    def outcomes_in_time(self, epoch: int) -> evaluation.Outcomes:
        """Return the outcomes of the validation samples that the time after a stop allows.

        They are a random choice, because the samples of a class may be next to one another.
        """
        batches = _while_in_time(self.is_out_of_time, self.loader.epoch(0, shuffle=True))
        outcomes = self._outcomes(batches, epoch)
        seen, count = len(outcomes.keys), len(self.loader.source)
        _logger.warning("Stopping: validated on %d of %d images, chosen at random", seen, count)
        return outcomes

    def measure(
        self, epoch: int, group: ProcessGroup, must_stop: Callable[[], bool], *, is_needed: bool
    ) -> Measured:
        """Validate on the leader, and give its metrics to all ranks: they must agree on the best.

        If `must_stop` returns True during the pass there are no metrics, unless they are needed:
        then they are those of `outcomes_in_time`. Every rank must call this.
        """
        top_k, is_binary = self.settings.top_k, self.settings.binary_mode
        names = evaluation.metric_names(top_k, is_binary=is_binary)
        values, outcomes = dict.fromkeys(names, 0.0), None
        stopped = 0.0
        if group.is_leader:
            outcomes = self.outcomes_of(self.loader, epoch, must_stop)
            stopped = float(outcomes is None)
            if outcomes is None and is_needed:
                outcomes = self.outcomes_in_time(epoch)
            if outcomes is not None:
                values = evaluation.metrics_of(outcomes, top_k, is_binary=is_binary)
        values = group.from_leader(values | {"stopped": stopped})
        is_whole = not values.pop("stopped")
        return Measured(outcomes, values if is_whole or is_needed else {}, is_whole)

    def _outcomes(self, batches: Iterator[Batch], epoch: int) -> evaluation.Outcomes:
        predict = self.engine.predict_step
        activation = evaluation.sigmoid if self.settings.multi_label else evaluation.softmax
        outcomes = evaluation.collect(batches, lambda images: activation(predict(images)))
        if not all(
            np.isfinite(piece).all() for _, piece in evaluation.pieces(outcomes.probabilities)
        ):
            raise diverged(epoch)
        return outcomes


def _until(must_stop: Callable[[], bool], batches: Iterator[Batch]) -> Iterator[Batch]:
    for batch in batches:
        if must_stop():
            raise _StoppedError
        yield batch


def _while_in_time(is_out_of_time: Callable[[], bool], batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield at least one batch, then more until the time is over."""
    for batch in batches:
        yield batch
        if is_out_of_time():
            return
