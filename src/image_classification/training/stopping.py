"""When training ends before its last epoch: by each built-in's early stopping, or by SIGTERM."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

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
        best, waited = float("-inf"), 0
        for accuracy in accuracies:
            margin = self.absolute_tolerance
            if best > 0:
                margin = max(margin, self.relative_tolerance * best)
            if accuracy > best + (margin if best > float("-inf") else 0.0):
                best, waited = accuracy, 0
            else:
                waited += 1
        return len(accuracies) >= self.min_epochs and waited >= self.patience


@contextmanager
def stop_on_sigterm() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether SIGTERM has come; the process lives on meanwhile.

    The platform stops a job with SIGTERM and kills it 120 s later. Process 1 of a container has no
    default action for it, so without a handler it would not even end. Only the main thread of a
    process can install one; elsewhere the function always says no.
    """
    received = threading.Event()

    def receive(_: int, __: FrameType | None) -> None:
        _logger.warning("SIGTERM: stopping after this step; the best epoch so far is kept")
        received.set()

    if threading.current_thread() is not threading.main_thread():
        yield received.is_set
        return
    previous = signal.signal(signal.SIGTERM, receive)
    try:
        yield received.is_set
    finally:
        signal.signal(signal.SIGTERM, previous)
