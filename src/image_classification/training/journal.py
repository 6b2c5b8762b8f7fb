"""What a job says while it trains: the lines of its interface's built-in, and how fast it is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from image_classification.contract.metrics import LogLines
from image_classification.training.checkpoint import EpochRecord
from image_classification.training.report.history import EpochObserver

MAX_SILENCE_SECONDS = 30.0
_PACKAGE = "image_classification"

_logger = logging.getLogger(__name__)


class Heartbeat(logging.Handler):
    """Watches the package's log; as its handler it sees every line.

    Args:
        max_silence: seconds without a line after which one is written.
    """

    def __init__(self, max_silence: float = MAX_SILENCE_SECONDS) -> None:
        super().__init__()
        self._max_silence = max_silence
        self._last_line = self._began = time.monotonic()
        self._what: Callable[[], str] = str

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002
        """A line was written."""
        self._last_line = time.monotonic()

    def now(self, what: str | Callable[[], str]) -> None:
        """What the job does from here on, or who can say it in words of its own."""
        self._began = time.monotonic()
        if isinstance(what, str):
            self._what = lambda: f"Still {what}, for {time.monotonic() - self._began:.0f} s"
        else:
            self._what = what

    @contextmanager
    def running(self, what: str) -> Iterator[Heartbeat]:
        """Watch while the block runs, which begins with `what`."""
        self.now(what)
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(self._max_silence / 10):
                if time.monotonic() - self._last_line >= 0.9 * self._max_silence:
                    _logger.info("%s", self._what())

        thread = threading.Thread(target=watch, name="heartbeat", daemon=True)
        package = logging.getLogger(_PACKAGE)
        package.addHandler(self)
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join()
            package.removeHandler(self)


BATCHES_PER_LINE = 20
"""The MXNet built-in's Speedometer interval."""

_DUE_SECONDS = 20.0  # of MAX_SILENCE_SECONDS; a step may take the rest


class Journal:
    """Writes the log lines of training.

    Args:
        lines: those of the interface's built-in, from which metrics are scraped.
        epochs: of the whole job.
        steps: of an epoch.
    """

    def __init__(self, lines: LogLines, epochs: int, steps: int) -> None:
        self._lines = lines
        self._epochs, self._steps = epochs, steps
        self._epoch = self._step = 0
        self._is_validating = False
        self._epoch_seconds: float | None = None  # of the last whole epoch, validation included
        self._epoch_start = self._last_line = time.monotonic()
        self.observers: Sequence[EpochObserver] = ()

    def begin_epoch(self, epoch: int, step: int) -> None:
        """An epoch (0 for the first) begins, or goes on after `step` steps of it."""
        self._epoch, self._step, self._is_validating = epoch, step, False

    def begin_validation(self) -> None:
        """The epoch's training has ended, or was stopped, and its validation begins."""
        self._is_validating = True

    def is_line_due(self, step: int) -> bool:
        """Whether `step_line` should be called after `step` (1 for the first)."""
        self._step = step
        is_silent = time.monotonic() - self._last_line > _DUE_SECONDS
        return step % BATCHES_PER_LINE == 0 or is_silent

    def step_line(
        self, epoch: int, step: int, rate: float, wait_share: float, train: Mapping[str, float]
    ) -> None:
        """Within an epoch: speed in images/s, share of time waiting for data, running metrics."""
        self._epoch = epoch
        if step % BATCHES_PER_LINE == 0:
            self._log(self._lines.of_batch(epoch, step, rate, train))
        if time.monotonic() - self._last_line > _DUE_SECONDS:
            self._say(
                f"Epoch {epoch + 1}/{self._epochs}, step {step}/{self._steps}, {rate:.1f} "
                f"images/s, {100 * wait_share:.1f} % of the time waiting for data, about "
                f"{self._seconds_left(epoch, step):.0f} s left"
            )

    def epoch_lines(self, record: EpochRecord, seconds_left: float) -> None:
        """At the end of an epoch: the built-in's lines, then ours with speed and time left."""
        seconds, train, validation = record.seconds, record.train, record.validation
        self._log(self._lines.of_epoch(record.epoch, self._steps, seconds, train, validation))
        self._say(
            f"Epoch {record.epoch + 1}/{self._epochs} took {seconds:.1f} s: "
            f"{record.images_per_second:.1f} images/s, {100 * record.wait_share:.1f} % of the time "
            f"waiting for data, {100 * record.outside_share:.1f} % outside the training step, "
            f"learning rate {record.learning_rate:.6f}, about {seconds_left:.0f} s left"
        )
        self._epoch, self._step, self._is_validating = record.epoch + 1, 0, False
        self._epoch_seconds = self._last_line - self._epoch_start
        self._epoch_start = self._last_line
        for observe in self.observers:
            observe(record)

    def model_lines(self, parameters: int, trainable: int) -> None:
        """Before training: the size of the model."""
        self._log(self._lines.of_model(parameters, trainable))

    def duration_lines(self, records: Sequence[EpochRecord]) -> None:
        """After training: its time."""
        self._log(self._lines.of_durations([record.seconds for record in records]))

    def test_lines(self, test: Mapping[str, float], samples: int, seconds: float) -> None:
        """What the final model reaches on the channel test, and how fast."""
        self._log(self._lines.of_test(test, samples, seconds))

    def stop_line(self, reason: str) -> None:
        """Training ends before its last epoch."""
        self._say(reason)

    def best_line(self, accuracy: float) -> None:
        """The built-in's line about a new best epoch."""
        self._log(self._lines.of_best(accuracy))

    def _say(self, line: str) -> None:
        _logger.info("%s", line)
        self._last_line = time.monotonic()

    @staticmethod
    def _log(lines: Sequence[str]) -> None:
        for line in lines:
            _logger.info("%s", line)

    def _seconds_left(self, epoch: int, step: int) -> float:
        """From the last whole epoch, or in the first one from its steps so far."""
        elapsed = time.monotonic() - self._epoch_start
        whole = self._epoch_seconds or elapsed * self._steps / max(step, 1)
        return max(whole - elapsed, 0.0) + whole * (self._epochs - epoch - 1)

    def still(self) -> str:
        """What has been running for so long, as far as the steps tell."""
        seconds = time.monotonic() - self._epoch_start
        where = f"Epoch {min(self._epoch + 1, self._epochs)}/{self._epochs}, {seconds:.0f} s: "
        if self._is_validating:
            return where + "validating"
        if self._epoch >= self._epochs or self._step >= self._steps:
            return where + "saving"
        return f"{where}step {self._step + 1} of {self._steps} is running"


class SilentJournal(Journal):
    """Of the hosts that do not lead: metrics are scraped from every host's log, so one speaks."""

    def is_line_due(self, step: int) -> bool:  # noqa: ARG002
        """Never."""
        return False

    def epoch_lines(self, record: EpochRecord, seconds_left: float) -> None:
        """Nothing."""

    def still(self) -> str:
        """Where to look."""
        return "Still training with the other hosts; the first one logs how far the job is"

    def _say(self, line: str) -> None:
        """Nothing."""

    @staticmethod
    def _log(lines: Sequence[str]) -> None:
        """Nothing."""
