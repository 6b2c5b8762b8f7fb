"""What a job says while it trains: the lines of its interface's built-in, and how fast it is."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from image_classification.contract import metrics
from image_classification.training.checkpoint import EpochRecord
from image_classification.training.epoch_files import EpochObserver

BATCHES_PER_LINE = 20
"""The MXNet built-in's Speedometer interval."""

MAX_SILENCE_SECONDS = 30.0

_logger = logging.getLogger(__name__)


class Journal:
    """Writes the log lines of training.

    Args:
        interface: mxnet or tensorflow; decides the lines that metrics are scraped from.
        epochs: of the whole job.
        steps: of an epoch.
    """

    def __init__(self, interface: str, epochs: int, steps: int) -> None:
        self._is_mxnet = interface == "mxnet"
        self._epochs, self._steps = epochs, steps
        self._last_line = time.monotonic()
        self.observers: Sequence[EpochObserver] = ()

    def is_line_due(self, step: int) -> bool:
        """Whether `step_line` should be called after `step` (1 for the first)."""
        is_silent = time.monotonic() - self._last_line > MAX_SILENCE_SECONDS
        return step % BATCHES_PER_LINE == 0 or is_silent

    def step_line(
        self, epoch: int, step: int, rate: float, wait_share: float, train: Mapping[str, float]
    ) -> None:
        """Within an epoch: speed in images/s, share of time waiting for data, running metrics."""
        if self._is_mxnet:
            values = {name: value for name, value in train.items() if name != "loss"}
            _logger.info("%s", metrics.mxnet_batch_line(epoch, step, rate, values))
        if not self._is_mxnet or time.monotonic() - self._last_line > MAX_SILENCE_SECONDS:
            _logger.info(
                "Epoch %d/%d, step %d/%d, %.1f images/s, %.1f %% of the time waiting for data",
                epoch + 1,
                self._epochs,
                step,
                self._steps,
                rate,
                100 * wait_share,
            )
        self._last_line = time.monotonic()

    def epoch_lines(self, record: EpochRecord, seconds_left: float) -> None:
        """At the end of an epoch: the built-in's lines, then ours with speed and time left."""
        seconds, train, validation = record.seconds, record.train, record.validation
        if self._is_mxnet:
            lines = metrics.mxnet_epoch_lines(record.epoch, seconds, train, validation)
        else:
            lines = [metrics.keras_epoch_line(self._steps, seconds, train, validation)]
        for line in lines:
            _logger.info("%s", line)
        _logger.info(
            "Epoch %d/%d took %.1f s: %.1f images/s, %.1f %% of the time waiting for data, "
            "learning rate %.6f, about %.0f s left",
            record.epoch + 1,
            self._epochs,
            seconds,
            record.images_per_second,
            100 * record.wait_share,
            record.learning_rate,
            seconds_left,
        )
        self._last_line = time.monotonic()
        for observe in self.observers:
            observe(record)

    def test_lines(self, test: Mapping[str, float]) -> None:
        """What the final model reaches on the channel test."""
        for line in metrics.keras_test_lines(test):
            _logger.info("%s", line)

    def best_line(self, accuracy: float) -> None:
        """The MXNet built-in's line about a new best epoch."""
        if self._is_mxnet:
            _logger.info("Storing the best model with validation accuracy: %.6f", accuracy)


class SilentJournal(Journal):
    """Of the hosts that do not lead: metrics are scraped from every host's log, so one speaks."""

    def is_line_due(self, step: int) -> bool:  # noqa: ARG002
        """Never."""
        return False

    def epoch_lines(self, record: EpochRecord, seconds_left: float) -> None:
        """Nothing."""

    def best_line(self, accuracy: float) -> None:
        """Nothing."""
