"""When training ends before its last epoch: early stopping, SIGTERM, or its time is over."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

SECONDS_TO_VALIDATE = 60.0
"""After SIGTERM; the platform kills 120 s after it, and the artifact must be written by then."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EarlyStopping:
    """The rule.

    Attributes:
        patience: epochs without improvement that are tolerated.
        min_epochs: epochs that must be complete before it may act.
        relative_tolerance: a gain of at most this share of the best is none (MXNet's rule).
        absolute_tolerance: a gain of at most this is none (Keras' min_delta).
    """

    patience: int
    min_epochs: int = 0
    relative_tolerance: float = 0.0
    absolute_tolerance: float = 0.0

    def is_due(self, accuracies: Sequence[float]) -> bool:
        """Whether to stop after epochs that reached these validation accuracies, in order."""
        waited = len(accuracies) - self.counted_from(accuracies) - 1
        return len(accuracies) >= self.min_epochs and waited >= self.patience

    def reason(self, accuracies: Sequence[float], metric: str) -> str:
        """Why the job ends after these epochs, for the log."""
        best = self.counted_from(accuracies)
        gains = [f"{self.absolute_tolerance:g}"] if self.absolute_tolerance else []
        gains += [f"{100 * self.relative_tolerance:g} %"] if self.relative_tolerance else []
        more = f" by more than {' and '.join(gains)}" if gains else ""
        return (
            f"Early stopping after epoch {len(accuracies)}: none of the "
            f"{len(accuracies) - best - 1} epochs since epoch {best + 1}, with validation {metric} "
            f"{accuracies[best]:.6f}, was better{more} (early_stopping_patience={self.patience})"
        )

    def counted_from(self, accuracies: Sequence[float]) -> int:
        """The last epoch, 0 for the first, that gained enough on those before; −1 without any."""
        best, place = float("-inf"), -1
        for epoch, accuracy in enumerate(accuracies):
            margin = self.absolute_tolerance
            if best > 0:
                margin = max(margin, self.relative_tolerance * best)
            if accuracy > best + (margin if best > float("-inf") else 0.0):
                best, place = accuracy, epoch
        return place


@dataclass
class JobClock:
    """How long a job has run, over all its starts, and how long ago it was saved.

    Attributes:
        seconds_before: that it ran before this start.
        steps_since_save: steps since the last checkpoint, or since this start.
    """

    seconds_before: float = 0.0
    steps_since_save: int = 0
    _began: float = field(default_factory=time.monotonic)
    _saved: float = field(default_factory=time.monotonic)
    _is_over: bool = False

    @property
    def seconds(self) -> float:
        """That the job has run, interruptions left out."""
        return self.seconds_before + time.monotonic() - self._began

    def is_over(self, max_minutes: float | None) -> bool:
        """Whether the job has used up its time; None is never."""
        if max_minutes is not None and not self._is_over and self.seconds >= 60 * max_minutes:
            self._is_over = True
            _logger.warning(
                "max_minutes=%g is over: stopping after this step; the best epoch so far is kept",
                max_minutes,
            )
        return self._is_over

    def is_save_due(self, steps: int | None, minutes: float | None) -> bool:
        """Whether a checkpoint within the epoch is due by steps or by minutes."""
        by_steps = steps is not None and self.steps_since_save >= steps
        by_time = minutes is not None and time.monotonic() - self._saved >= 60 * minutes
        return by_steps or by_time

    def saved(self) -> None:
        """A checkpoint is being written."""
        self.steps_since_save, self._saved = 0, time.monotonic()


def never() -> bool:
    """What is asked of a job that nobody stops."""
    return False


class StopRequest:
    """Whether SIGTERM has come, and how much of the time after it is left.

    Attributes:
        is_training: False until there is something worth saving; SIGTERM then ends the process at
            once, whatever it waits for.
    """

    def __init__(self) -> None:
        self.is_training = False
        self._received: float | None = None

    def __call__(self) -> bool:
        """Whether SIGTERM has come."""
        return self._received is not None

    def is_out_of_time(self) -> bool:
        """Whether it came so long ago that nothing but the artifact can be made any more."""
        return self._received is not None and (
            time.monotonic() - self._received >= SECONDS_TO_VALIDATE
        )

    def receive(self, _: int, __: FrameType | None) -> None:
        """The signal handler."""
        if not self.is_training:
            _logger.warning("SIGTERM before training has begun: nothing was written")
            raise SystemExit(0)
        _logger.warning("SIGTERM: stopping after this step; the best epoch so far is kept")
        self._received = time.monotonic()


@contextmanager
def stop_on_sigterm() -> Iterator[StopRequest]:
    """Yield what says whether SIGTERM has come; the process lives on meanwhile.

    The platform stops a job with SIGTERM and kills it 120 s later. Process 1 of a container has no
    default action for it, so without a handler it would not even end. Only the main thread of a
    process can install one; elsewhere the request never comes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = signal.signal(signal.SIGTERM, request.receive)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, previous)
