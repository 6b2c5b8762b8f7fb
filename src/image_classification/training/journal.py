"""The log lines of training: those of the interface's built-in, progress lines, and a heartbeat.

`Journal` writes the lines that metrics are scraped from. `Heartbeat` makes sure that a working job
never stays silent for longer than MAX_SILENCE_SECONDS.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from image_classification import events
from image_classification.contract.metrics import LogLines
from image_classification.training.checkpoint import EpochRecord
from image_classification.training.progress import EpochProgress

MAX_SILENCE_SECONDS = 30.0
_PACKAGE = "image_classification"

_logger = logging.getLogger(__name__)


class Heartbeat(logging.Handler):
    """Logs what the job does when the package's log has been silent for too long.

    Args:
        max_silence: seconds without a line before it writes one.
    """

    def __init__(self, max_silence: float = MAX_SILENCE_SECONDS) -> None:
        super().__init__()
        self._max_silence = max_silence
        self._last_line = self._began = time.monotonic()
        self._describe: Callable[[], str] = str

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002
        """Note that a line was written."""
        self._last_line = time.monotonic()

    def now(self, activity: str | Callable[[], str]) -> None:
        """Set what the job does from here on, or a function that returns the whole line."""
        self._began = time.monotonic()
        if isinstance(activity, str):
            events.draw(_logger, events.Activity(activity))
            self._describe = lambda: f"Still {activity}, for {time.monotonic() - self._began:.0f} s"
        else:
            self._describe = activity

    @contextmanager
    def running(self, activity: str) -> Iterator[Heartbeat]:
        """Watch the log while the block runs; the block begins with `activity`."""
        self.now(activity)
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(self._max_silence / 10):
                if time.monotonic() - self._last_line >= 0.9 * self._max_silence:
                    _logger.info("%s", self._describe())

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
"""The interval of the MXNet built-in's Speedometer."""

DUE_SECONDS = 20.0
"""Seconds without a line after which a step writes one. The rest of MAX_SILENCE_SECONDS is for the
next step."""

_DRAW_SECONDS, _DRAW_SHARE = 0.25, 20.0  # between drawings; times as long as its metrics took


class Journal:
    """Writes the log lines of training.

    Args:
        lines: those of the interface's built-in, from which metrics are scraped.
        epochs: of the whole job.
        steps: of an epoch.
        image_epochs: number of first epochs that read images; the others take next to no time.

    Attributes:
        last_line: time of the last progress line, by `time.monotonic`.
    """

    def __init__(
        self, lines: LogLines, epochs: int, steps: int, image_epochs: int | None = None
    ) -> None:
        self._lines = lines
        self._image_epochs = min(image_epochs or epochs, epochs)
        self._epochs, self._steps = epochs, steps
        self._epoch = 0
        self._progress: EpochProgress | None = None
        self._is_validating = False
        self._drawn: events.Stepped | None = None
        self._draw_from = 0.0  # time of the next step to draw, at the earliest
        self._epoch_seconds: float | None = None  # of the last whole epoch, validation included
        self._epoch_start = self.last_line = time.monotonic()

    def begin_epoch(self, progress: EpochProgress) -> None:
        """Note that an epoch begins or continues."""
        self._epoch, self._progress, self._is_validating = progress.epoch, progress, False
        self._draw(events.Stepped(progress.epoch + 1, self._epochs, progress.step, self._steps))

    def begin_validation(self) -> None:
        """Note that the epoch's training is complete, or was stopped, and its validation begins."""
        self._is_validating = True
        if self._drawn is not None:
            self._draw(replace(self._drawn, is_validating=True))

    @property
    def is_drawn(self) -> bool:
        """Whether somebody watches the steps."""
        return events.is_drawn(_logger)

    @property
    def is_drawing_due(self) -> bool:
        """Whether the last step was drawn some time ago."""
        return time.monotonic() >= self._draw_from

    def draw_step(
        self, epoch: int, step: int, rate: float, measure: Callable[[], Mapping[str, float]]
    ) -> None:
        """Draw where the epoch is; see `step_line`.

        Args:
            epoch, step, rate: as there.
            measure: returns the running metrics, which can take a while.
        """
        began = time.monotonic()
        train = measure()
        now = time.monotonic()
        self._draw_from = now + max(_DRAW_SECONDS, _DRAW_SHARE * (now - began))
        left = self._seconds_left(epoch, step)
        where = (epoch + 1, self._epochs, step, self._steps)
        self._draw(events.Stepped(*where, False, rate, left, train))

    def step_line(
        self, epoch: int, step: int, rate: float, wait_share: float, train: Mapping[str, float]
    ) -> None:
        """Write the line within an epoch that is due after `step` (1 for the first).

        Args:
            epoch, step: where the job is.
            rate: images per second.
            wait_share: share (0–1) of the time spent waiting for data.
            train: running metrics.
        """
        left = self._seconds_left(epoch, step)
        where = (epoch + 1, self._epochs, step, self._steps)
        event = events.Stepped(*where, False, rate, left, train)
        if step % BATCHES_PER_LINE == 0:
            self._log(self._lines.of_batch(epoch, step, rate, train), event)
        if time.monotonic() - self.last_line > DUE_SECONDS:
            self._log_progress(
                f"Epoch {epoch + 1}/{self._epochs}, step {step}/{self._steps}, {rate:.1f} "
                f"images/s, {100 * wait_share:.1f}% of the time waiting for data, about "
                f"{left:.0f} s left",
                event,
            )

    def epochs_left(self, epoch: int) -> int:
        """Return how many epochs after `epoch` take about as long as that one."""
        epochs = self._image_epochs if epoch < self._image_epochs else self._epochs
        return epochs - epoch - 1

    def epoch_lines(self, record: EpochRecord, seconds_left: float) -> None:
        """Write the built-in's lines of a complete epoch, then ours with speed and time left."""
        seconds, train, validation = record.seconds, record.train, record.validation
        self._log(self._lines.of_epoch(record.epoch, self._steps, seconds, train, validation))
        self._log_progress(
            f"Epoch {record.epoch + 1}/{self._epochs} took {seconds:.1f} s: "
            f"{record.images_per_second:.1f} images/s, {100 * record.wait_share:.1f}% of the time "
            f"waiting for data, {100 * record.outside_share:.1f}% outside the training step, "
            f"learning rate {record.learning_rate:.6f}, about {seconds_left:.0f} s left",
            events.EpochEnded(
                record.epoch + 1,
                self._epochs,
                train,
                validation,
                seconds,
                record.images_per_second,
                record.learning_rate,
                seconds_left,
            ),
        )
        self._epoch, self._progress, self._is_validating = record.epoch + 1, None, False
        self._epoch_seconds = self.last_line - self._epoch_start
        self._epoch_start = self.last_line

    def model_lines(self, parameters: int, trainable: int) -> None:
        """Write the size of the model, before training."""
        self._log(self._lines.of_model(parameters, trainable))

    def duration_lines(self, records: Sequence[EpochRecord]) -> None:
        """Write the time of each epoch, after training."""
        self._log(self._lines.of_durations([record.seconds for record in records]))

    def test_lines(self, test: Mapping[str, float], samples: int, seconds: float) -> None:
        """Write the metrics and the speed of the final model on the `test` channel."""
        self._log(
            self._lines.of_test(test, samples, seconds), events.Tested(test, samples, seconds)
        )

    def stop_line(self, reason: str) -> None:
        """Write why training ends before its last epoch."""
        self._log_progress(reason, events.Note())

    def best_line(self, accuracy: float) -> None:
        """Write the built-in's line about a new best epoch."""
        self._log(self._lines.of_best(accuracy))

    def _log_progress(self, line: str, event: events.Event) -> None:
        _logger.info("%s", line, extra=event.extra)
        self.last_line = time.monotonic()

    @staticmethod
    def _log(lines: Sequence[str], event: events.Event | None = None) -> None:
        for line in lines:
            _logger.info("%s", line, extra=event.extra if event else None)

    def _draw(self, event: events.Stepped) -> None:
        self._drawn = event
        events.draw(_logger, event)

    def _seconds_left(self, epoch: int, step: int) -> float:
        elapsed = time.monotonic() - self._epoch_start
        whole = self._epoch_seconds or elapsed * self._steps / max(step, 1)
        return max(whole - elapsed, 0.0) + whole * self.epochs_left(epoch)

    def still(self) -> str:
        """Return the heartbeat's line: what is running, and for how long."""
        step = self._progress.step if self._progress else 0
        seconds = time.monotonic() - self._epoch_start
        where = f"Epoch {min(self._epoch + 1, self._epochs)}/{self._epochs}, {seconds:.0f} s: "
        if self._is_validating:
            return where + "validating"
        if self._epoch >= self._epochs or step >= self._steps:
            return where + "saving"
        return f"{where}step {step + 1} of {self._steps} is running"


class SilentJournal(Journal):
    """Writes nothing: metrics are scraped from every host's log, so only the leader writes them."""

    def still(self) -> str:
        return "Still training with the other hosts; the first host logs the progress"

    def epoch_lines(self, record: EpochRecord, seconds_left: float) -> None:
        pass

    def _log_progress(self, line: str, event: events.Event) -> None:
        pass

    @staticmethod
    def _log(lines: Sequence[str], event: events.Event | None = None) -> None:
        pass

    def _draw(self, event: events.Stepped) -> None:
        pass
