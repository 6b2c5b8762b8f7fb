"""No silence: whenever the log has said nothing for half a minute, a line says what is running.

In: what the job is doing, told by its parts. Out: log lines. For what cannot be interrupted to say
it: channels that are opened, the first step, a validation, the export.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
