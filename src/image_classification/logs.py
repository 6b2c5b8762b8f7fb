"""Log records of one line in the built-ins' form, and progress for terminals and logs.

Every line is `[MM/DD/YYYY HH:MM:SS INFO <thread id>] message`, with the prefix of the MXNet
built-in, so that programs that parse its lines can parse ours.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TextIO

LINE_FORMAT = "[%(asctime)s %(levelname)s %(thread)d] %(message)s"
DATE_FORMAT = "%m/%d/%Y %H:%M:%S"

_BAR_WIDTH = 30
_BAR_INTERVAL_SECONDS = 0.1
_LINE_INTERVAL_SECONDS = 10.0


class _SingleLineFormatter(logging.Formatter):
    """Puts every record on one line, because CloudWatch makes an event of each line.

    Control characters are escaped: a record may repeat what a client sent, and a terminal that
    shows the log must not obey it.
    """

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record).replace("\r", "").replace("\n", " | ")
        if text.isprintable():
            return text
        return "".join(
            character
            if character.isprintable() or character == "\t"
            else character.encode("unicode_escape").decode("ascii")
            for character in text
        )


def configure(
    level: int = logging.INFO,
    stream: TextIO | None = None,
    handler: logging.Handler | None = None,
) -> None:
    """Send the package's records to `stream` (standard output by default), one line each.

    A `handler` takes the place of the stream.
    """
    handler = handler or logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(_SingleLineFormatter(LINE_FORMAT, DATE_FORMAT))
    logger = logging.getLogger("image_classification")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


class Progress:
    """Shows the progress of long work: a bar on a terminal, plain lines elsewhere.

    Args:
        title: what is being done.
        total: the number of units.
        unit: what is counted, in the plural.
        stream: where to show it; standard error by default, apart from results.
    """

    def __init__(self, title: str, total: int, unit: str, stream: TextIO | None = None) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._interval = _BAR_INTERVAL_SECONDS if self._is_terminal else _LINE_INTERVAL_SECONDS
        self._start = self._shown = time.monotonic()
        self._done = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_terminal or kind is None:
            self._show(is_final=True)

    def advance(self, count: int = 1) -> None:
        """Note that `count` more units are done."""
        self.reach(self._done + count)

    def reach(self, done: int) -> None:
        """Note that `done` units are done in all."""
        self._done = done
        if time.monotonic() - self._shown >= self._interval:
            self._show()

    def _show(self, is_final: bool = False) -> None:
        now = time.monotonic()
        seconds = max(now - self._start, 1e-9)
        rate = self._done / seconds
        left = (self._total - self._done) / rate if rate else 0.0
        text = f"{self._title}: {self._done}/{self._total} {self._unit}, {rate:.0f}/s"
        text += f", {seconds:.1f} s" if is_final else f", {left:.0f} s left"
        if self._is_terminal:
            filled = _BAR_WIDTH * self._done // max(self._total, 1)
            bar = "█" * filled + "·" * (_BAR_WIDTH - filled)
            self._stream.write(f"\r\x1b[K{bar} {text}" + ("\n" if is_final else ""))
        else:
            self._stream.write(text + "\n")
        self._stream.flush()
        self._shown = now


@contextmanager
def late_progress(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show a `Progress` that starts with the first unit, when the total is known.

    Yields a function to call with (done, total) units.
    """
    with ExitStack() as shown:
        progress: Progress | None = None

        def show(done: int, total: int) -> None:
            nonlocal progress
            if progress is None:
                progress = shown.enter_context(Progress(title, total, unit))
            progress.reach(done)

        yield show
