"""Reasons to end training before its last epoch: the early-stopping rule, SIGTERM and Ctrl-C.

Ctrl-C also ends a search for settings.
"""

import logging
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from image_classification.contract import process

SECONDS_TO_VALIDATE = 60.0
"""The time for validation after SIGTERM. The platform kills the job 120 s after it; the artifact
must be written by then."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EarlyStopping:
    """Stops a job whose validation accuracy no longer improves.

    Attributes:
        patience: epochs without improvement to tolerate.
        min_epochs: epochs to complete before the rule applies.
        relative_tolerance: the smallest gain that counts, as a share of the best accuracy (MXNet).
        absolute_tolerance: the smallest gain that counts (Keras' `min_delta`).
    """

    patience: int
    min_epochs: int = 0
    relative_tolerance: float = 0.0
    absolute_tolerance: float = 0.0

    def is_due(self, accuracies: Sequence[float]) -> bool:
        """Return whether to stop after epochs with these validation accuracies, in order."""
        if not accuracies:
            return False
        waited = len(accuracies) - self._last_improvement(accuracies) - 1
        return len(accuracies) >= self.min_epochs and waited >= self.patience

    def reason(self, accuracies: Sequence[float], metric: str, before: int = 0) -> str:
        """Explain in a log line why the job ends after these epochs, and others `before` them."""
        best = self._last_improvement(accuracies)
        gains = [f"{self.absolute_tolerance:g}"] if self.absolute_tolerance else []
        gains += [f"{100 * self.relative_tolerance:g}%"] if self.relative_tolerance else []
        more = f" by more than {' and '.join(gains)}" if gains else ""
        return (
            f"Early stopping after epoch {before + len(accuracies)}: none of the "
            f"{len(accuracies) - best - 1} epochs since epoch {before + best + 1}, with validation "
            f"{metric} {accuracies[best]:.6f}, was better{more} "
            f"(early_stopping_patience={self.patience})"
        )

    def _last_improvement(self, accuracies: Sequence[float]) -> int:
        """Return the last epoch (from 0) that improved enough on those before it, or −1."""
        best, improved = float("-inf"), -1
        for epoch, accuracy in enumerate(accuracies):
            margin = self.absolute_tolerance
            if best > 0:
                margin = max(margin, self.relative_tolerance * best)
            if accuracy > best + (margin if best > float("-inf") else 0.0):
                best, improved = accuracy, epoch
        return improved


class StopRequest(threading.Event):
    """An event that SIGTERM or the first Ctrl-C sets, with the time left after SIGTERM."""

    def __init__(self) -> None:
        super().__init__()
        self._is_training = False
        self._is_interrupted = False
        self._received: float | None = None

    def begin_training(self) -> None:
        """From now on a signal sets the event; before, it ends the job at once."""
        self._is_training = True

    def is_out_of_time(self) -> bool:
        """Return whether only the time to write the artifact is left."""
        return self._received is not None and (
            time.monotonic() - self._received >= SECONDS_TO_VALIDATE
        )

    def receive(self, _: int, __: FrameType | None) -> None:
        """Handle the signal."""
        if not self._is_training:
            _logger.warning("SIGTERM before training has begun: nothing was written")
            raise SystemExit(0)
        _logger.warning("SIGTERM: stopping after this step; the best epoch so far is kept")
        is_first, self._received = self._received is None, self._received or time.monotonic()
        if is_first:  # a second signal could interrupt `set`, which holds a lock
            self.set()

    def end_without_model(self) -> NoReturn:
        """End the process at once, as a signal before training does."""
        if self._is_interrupted:
            raise KeyboardInterrupt
        _logger.warning("Stopping before the first training step: nothing was written")
        raise SystemExit(0)

    def interrupt(self, _: int, __: FrameType | None) -> None:
        """Handle SIGINT: the first one while training sets the event, any other aborts."""
        if not self._is_training or self._is_interrupted or self.is_set():
            raise KeyboardInterrupt
        self._is_interrupted = True  # first, because a second signal can interrupt this method
        _logger.warning(
            "Interrupted: stopping after this step; the best epoch so far is kept. A second "
            "interruption ends the job at once, without a model"
        )
        self.set()


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Yield a request that SIGTERM or the first SIGINT sets; the process survives it in the block.

    Process 1 of a container has no default action for SIGTERM: without a handler it would not end
    before the platform kills it. One of several processes of a job leaves SIGINT as it is: they
    must stop at the same step. Only a process's main thread can install a handler; in another
    thread the request is never set.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    handlers: dict[int, Any] = {signal.SIGTERM: request.receive}
    is_ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # of a job in the background
    if process.local_rank() is None and not is_ignored:
        handlers[signal.SIGINT] = request.interrupt
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Interruption(threading.Event):
    """An event that the first Ctrl-C of a search sets; the second raises KeyboardInterrupt."""

    def receive(self, _: int, __: FrameType | None) -> None:
        """Handle the signal."""
        if self.is_set():
            raise KeyboardInterrupt
        self.set()
        _logger.warning(
            "Interrupted: the search ends, and the best settings so far are used. A second "
            "interruption ends the command at once, without a model"
        )

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle Ctrl-C while the block runs."""
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            yield
            return
        before = signal.signal(signal.SIGINT, self.receive)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
