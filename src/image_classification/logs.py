"""The forms of the log, one line per record, and progress for terminals and logs.

A plain line is `[MM/DD/YYYY HH:MM:SS INFO <thread id>] message`, with the prefix of the MXNet
built-in, so that programs that parse its lines can parse ours. A terminal gets the message alone. A
line of JSON is an object with `time`, `level`, `message` and the fields of the record's event.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from types import TracebackType
from typing import TextIO

from image_classification.events import PROGRESS, Event

PLAIN, TERMINAL, JSON = FORMS = ("plain", "terminal", "json")
"""The forms of a log: lines for programs that parse those of the built-ins; for people; for
programs that read JSON."""

_PACKAGE = "image_classification"

LINE_FORMAT = "[%(asctime)s %(levelname)s %(thread)d] %(message)s"
DATE_FORMAT = "%m/%d/%Y %H:%M:%S"

_BAR_WIDTH = 30
_BAR_INTERVAL_SECONDS = 0.1
_LINE_INTERVAL_SECONDS = 10.0


def printable(text: str) -> str:
    """Return a text as one line in which control characters are escaped, except for tabs.

    A text may repeat a file's name or what a client sent, and a terminal that shows it must not
    obey it.
    """
    text = text.replace("\r", "").replace("\n", " | ")
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or character == "\t"
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


class _PlainFormatter(logging.Formatter):
    """Puts every record on one line, because CloudWatch makes an event of each line."""

    def __init__(self) -> None:
        super().__init__(LINE_FORMAT, DATE_FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _TerminalFormatter(logging.Formatter):
    """Writes the message, after its level if that is not INFO."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        return level + printable(super().format(record))


class _JsonFormatter(logging.Formatter):
    """Writes an object, with the fields of the record's event."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": json_time(record.created),
            "level": record.levelname,
            "message": super().format(record),
        }
        event = getattr(record, "event", None)
        if isinstance(event, Event):
            line |= {"event": event.name} | asdict(event)
        return json.dumps(line)  # in ASCII, which any stream can write


def json_time(seconds: float) -> str:
    """Return seconds since 1970 as the JSON log has them: UTC, in milliseconds."""
    second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{second}.{int(seconds * 1000) % 1000:03d}Z"


_FORMATTERS = {PLAIN: _PlainFormatter, TERMINAL: _TerminalFormatter, JSON: _JsonFormatter}


def handler_of(stream: TextIO, form: str) -> logging.Handler:
    """Return what writes records to a stream in one of FORMS."""
    return _in_form(logging.StreamHandler(stream), form)


def _in_form(handler: logging.Handler, form: str) -> logging.Handler:
    handler.setFormatter(_FORMATTERS[form]())
    handler.addFilter(_has_text)
    return handler


def configure(
    level: int = logging.INFO,
    stream: TextIO | None = None,
    handler: logging.Handler | None = None,
    form: str = PLAIN,
) -> None:
    """Send the package's records to `stream` (standard output by default), one line each.

    Args:
        level: of the records to write.
        stream: where to write them.
        handler: takes the place of the stream.
        form: of the lines, one of FORMS.
    """
    handler = handler or logging.StreamHandler(stream or sys.stdout)
    package = logging.getLogger(_PACKAGE)
    package.handlers[:] = [_in_form(handler, form)]
    package.setLevel(level)
    package.propagate = False


@contextmanager
def handled_by(handler: logging.Handler, level: int = logging.INFO) -> Iterator[None]:
    """Send the package's records to `handler` alone while the block runs."""
    package = logging.getLogger(_PACKAGE)
    before = package.handlers[:], package.level, package.propagate
    package.handlers[:], package.propagate = [handler], False
    package.setLevel(level)
    try:
        yield
    finally:
        package.handlers[:], level, package.propagate = before
        package.setLevel(level)


def is_handled() -> bool:
    """Return whether the program has said where the package's records go."""
    return logging.getLogger(_PACKAGE).hasHandlers()


def _has_text(record: logging.LogRecord) -> bool:
    return record.levelno != PROGRESS


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

    def hide(self) -> None:
        """Remove the bar until it is shown again, so that a result can be printed in its place."""
        if self._is_terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

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
