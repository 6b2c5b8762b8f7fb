"""A job on a terminal: what differs from the defaults, a bar for each epoch, a table at the end.

`JobView` draws the events of a job with rich, which is imported with the first job that is drawn.
Warnings and errors appear above the bar. Other lines of the log are not shown: the plain log has
them. Where text cannot be redrawn, as in a notebook, there are no moving bars.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from image_classification import events, logs
from image_classification.contract import environment

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.live import Live
    from rich.text import Text

_REDRAWS = 5  # per second
_LEAST_BAR, _MOST_BAR = 8, 30  # columns
_WEIGHT_OF_BAR = 3  # fields that weigh more take its place
_MARGIN = 4  # columns: a terminal writes ^C behind the row
_MOST_NAME = 40  # characters of a class name
_LINES_OF_SETTINGS, _RAGGED = 3, 12  # of a preset; columns that words leave empty in a line
_TAKEN_FOR = "most often taken for"
_MOST_GIVEN = 400  # characters of the user's own settings
_LEVELS = {logging.WARNING: ("warning", "yellow"), logging.ERROR: ("error", "red")}


@contextmanager
def job_view(stream: TextIO, *, is_live: bool = True) -> Iterator[None]:
    """Draw the package's records on a stream while the block runs.

    Args:
        stream: a terminal; anything else gets the same text without moving bars and colors.
        is_live: whether bars may move.

    Raises:
        ModuleNotFoundError: rich is not installed.
    """
    view = JobView(_console(stream), is_live=is_live)
    try:
        with logs.handled_by(view, events.PROGRESS):
            yield
    finally:
        view.close()


def is_installed() -> bool:
    """Return whether a job can be drawn."""
    from importlib.util import find_spec

    return find_spec("rich") is not None


class JobView(logging.Handler):
    """Draws the events of a job.

    Args:
        console: where to draw.
        is_live: whether bars may move.
    """

    def __init__(self, console: Console, *, is_live: bool) -> None:
        super().__init__()
        self._console = console
        self._can_move = is_live and console.is_terminal and not console.is_dumb_terminal
        self._live: Live | None = None
        self._row: Callable[[float], RenderableType] | None = None
        self._since = 0.0
        self._has_header = False
        self._draw: Mapping[type, Callable[[Any], None]] = {
            events.Activity: self._begin_activity,
            events.Featured: self._draw_features,
            events.Stepped: self._draw_step,
            events.Configured: self._show_settings,
            events.Built: self._show_network,
            events.EpochEnded: self._show_epoch,
            events.Tested: lambda _: None,  # `Finished` has the same metrics
            events.Finished: self._show_results,
        }

    def emit(self, record: logging.LogRecord) -> None:
        """Draw a record."""
        try:
            event = getattr(record, "event", None)
            if type(event) in self._draw:
                self._draw[type(event)](event)
            elif record.levelno >= logging.WARNING:
                self._show_message(record)
            elif isinstance(event, events.Note):
                self._say(record.getMessage())
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Remove the moving bar; what was drawn above it stays."""
        live, self._live, self._row = self._live, None, None
        if live is not None:
            live.stop()
        super().close()

    def _text(self, text: str, style: str = "") -> Text:
        """Return a text of the log or of the data, which a terminal cannot obey."""
        from rich.text import Text

        encoding = getattr(self._console.file, "encoding", None) or "utf-8"
        shown = logs.printable(text).encode(encoding, "backslashreplace").decode(encoding)
        return Text(shown, style, overflow="fold")

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(self._text(text, style))

    def _show_message(self, record: logging.LogRecord) -> None:
        level = min(record.levelno, logging.ERROR) // 10 * 10
        word, style = _LEVELS[level]
        for line in record.getMessage().splitlines():
            text = self._text(f"{word}: " if word else "", style)
            self._console.print(text.append_text(self._text(line)))
            word = ""

    def _show_settings(self, event: events.Configured) -> None:
        names = ", ".join(_short(name) for name in event.classes)
        more = ", ..." if event.class_count > len(event.classes) else ""
        self._say(
            f"{event.training_images:,} training and {event.validation_images:,} validation "
            f"images, {event.class_count} classes: {names}{more}"
        )
        if event.preset:
            head = f"preset={event.preset}: "
            room = _LINES_OF_SETTINGS * (self._console.width - _RAGGED) - len(head)
            self._say(head + _listed(event.by_preset, room), "dim")
        if event.given:
            self._say(f"set: {_listed(event.given, _MOST_GIVEN)}")

    def _show_network(self, event: events.Built) -> None:
        threads = f"{event.threads} thread{'' if event.threads == 1 else 's'}"
        part = f"{event.trainable_parameters:,} of "
        shown = part * (event.trainable_parameters < event.parameters) + f"{event.parameters:,}"
        where = f"{event.backbone} on {event.device} ({threads})"
        self._say(f"{where}, {shown} parameters trained, from {event.started_from}")

    def _begin_activity(self, event: events.Activity) -> None:
        def row(seconds: float) -> RenderableType:
            passed = f" {_clock(seconds)}" if seconds >= 1 else ""
            return self._text(f"{event.text} ...{passed}", "dim")

        self._move(row)

    def _draw_features(self, event: events.Featured) -> None:
        def row(seconds: float) -> RenderableType:
            left = f"{_clock(event.seconds_left - seconds)} left"
            fields = [_Field(f"{event.done}/{event.total} images", 2), _Field(left, 3)]
            done = event.done / max(event.total, 1)
            return _Row(f"Features {event.copy}/{event.copies}", done, fields, self._is_ascii)

        self._move(row)

    def _draw_step(self, event: events.Stepped) -> None:
        label = _epoch(event.epoch, event.epochs)
        done = 1.0 if event.is_validating else event.step / max(event.steps, 1)
        self._show_header(label)

        def row(seconds: float) -> RenderableType:
            cells = dict[str, str]()
            if event.images_per_second:
                cells["images/s"] = f"{event.images_per_second:.0f}"
            if event.is_validating:
                cells["validation"], cells["time"] = "running", _clock(seconds)
            elif event.seconds_left is not None:
                cells["time"] = f"{_clock(event.seconds_left - seconds)} left"
            return _Row(label, done, _cells(_numbers(event.train) | cells), self._is_ascii)

        self._move(row, is_urgent=0 < event.step < event.steps)

    def _show_epoch(self, event: events.EpochEnded) -> None:
        self._row, label = None, _epoch(event.epoch, event.epochs)
        self._show_header(label)
        cells = _numbers(event.train) | {
            "images/s": f"{event.images_per_second:.0f}",
            "time": _clock(event.seconds),
        }
        cells["validation"] = _numbers(event.validation).get("accuracy", "")
        self._console.print(_Row(label, 1.0, _cells(cells, "bold"), self._is_ascii))

    def _show_header(self, label: str) -> None:
        """Show the names of the columns once."""
        if not self._has_header:
            self._has_header = True
            names = {name: name for name, _, _ in _COLUMNS}
            header = _Row(" " * len(label), None, _cells(names, "dim"), self._is_ascii)
            self._console.print(header)

    def _show_results(self, event: events.Finished) -> None:
        self._row = None
        self._say("")
        best = f"The best of {event.epochs} epochs is {event.best_epoch}"
        self._say(f"{best}, by validation {_metric(event.metric)}", "bold")
        rows = [
            [split, *_numbers(metrics).values()]
            for split, metrics in (("validation", event.validation), ("test", event.test))
            if metrics
        ]
        self._table(["", *map(_metric, event.validation)], rows)
        shown = [
            [_short(name), f"{images:,}", f"{right:.1%}", _short(other)]
            for name, images, right, other in event.classes
        ]
        self._table(["class", "images", "right", _TAKEN_FOR], shown)

    def _table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in columns:
            is_text = name in ("", "class", _TAKEN_FOR)
            table.add_column(name, justify="left" if is_text else "right", overflow="fold")
        for row in rows:
            table.add_row(*(self._text(cell) for cell in row))
        self._console.print(table)

    def _move(self, row: Callable[[float], RenderableType], *, is_urgent: bool = True) -> None:
        """Show a row that moves below all other text, from seconds since now to what to draw.

        One that is not urgent is drawn at the next redraw: an epoch can take a millisecond.
        """
        self._row, self._since = row, time.monotonic()
        if not self._can_move:
            return
        if self._live is not None:
            if is_urgent:
                self._live.refresh()
            return
        self._live = _live_type()(
            console=self._console,
            refresh_per_second=_REDRAWS,
            transient=True,
            # Else the lines of other libraries would be drawn over.
            redirect_stdout=self._console.file is sys.stdout,
            redirect_stderr=sys.stderr is not None and sys.stderr.isatty(),
            get_renderable=lambda: (self._row or _nothing)(time.monotonic() - self._since),
        )
        self._live.start(refresh=True)

    @property
    def _is_ascii(self) -> bool:
        return not self._console.encoding.startswith("utf")


def _nothing(_: float) -> RenderableType:
    return ""


def _live_type() -> type[Live]:
    from rich.control import Control
    from rich.live import Live
    from rich.segment import ControlType

    class AtTheStart(Live):
        """Keeps the cursor at the start of the row, so that lines of C libraries cover it."""

        def process_renderables(self, renderables: list[Any]) -> list[Any]:
            back = Control((ControlType.CARRIAGE_RETURN,))
            return [*super().process_renderables(renderables), back]

    return AtTheStart


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    is_utf8 = environment.is_utf8_locale()

    class Plain(Console):
        """A console whose cursor stays visible, also if the process is killed."""

        def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002
            return False

        @property
        def encoding(self) -> str:
            return super().encoding if is_utf8 else "ascii"

    is_terminal = stream.isatty()
    return Plain(file=stream, force_terminal=is_terminal, force_jupyter=False, highlight=False)


_COLUMNS = (
    ("loss", 5, 3),
    ("accuracy", 8, 5),
    ("validation", 10, 8),
    ("images/s", 8, 2),
    ("time", 9, 6),
)
"""Name, width and weight of what a row shows of an epoch; accuracies are shares of images."""


@dataclass(frozen=True)
class _Field:
    """A piece of a row; where there is no room, those with the least weight are left out."""

    text: str
    weight: int
    style: str = ""


@dataclass(frozen=True)
class _Row:
    """A label, a bar and fields in one line of any width.

    Attributes:
        share: 0–1, of the bar; None: the place of the bar is empty.
    """

    label: str
    share: float | None
    fields: Sequence[_Field]
    is_ascii: bool

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[Text]:
        from rich.text import Text

        room = options.max_width - _MARGIN - len(self.label)
        fields = list(self.fields)
        while fields and room - _width(fields) < 1 + _LEAST_BAR:
            lightest = min(field.weight for field in fields)
            if lightest > _WEIGHT_OF_BAR and room >= _width(fields):
                break
            fields.remove(next(field for field in fields if field.weight == lightest))
        bar = min(room - _width(fields) - 1, _MOST_BAR)
        line = Text(self.label, no_wrap=True, overflow="crop")
        if bar >= _LEAST_BAR:
            full, rest = ("=", "-") if self.is_ascii else ("━", "─")
            filled = round(bar * min(max(self.share or 0.0, 0.0), 1.0))
            rest = " " if self.share is None else rest
            line.append(" ").append(full * filled, "cyan").append(rest * (bar - filled), "dim")
        for field in fields:
            line.append("  ").append(field.text, field.style)
        yield line


def _width(fields: Sequence[_Field]) -> int:
    return sum(2 + len(field.text) for field in fields)


def _cells(shown: Mapping[str, str], style: str = "") -> list[_Field]:
    """Return the fields of the columns of an epoch; `style` is that of its validation."""
    return [
        _Field(
            shown.get(name, "").rjust(width),
            weight,
            style if name == "validation" or style == "dim" else "",
        )
        for name, width, weight in _COLUMNS
    ]


def _numbers(metrics: Mapping[str, float]) -> dict[str, str]:
    return {name: f"{x:.3f}" if name == "loss" else f"{x:.1%}" for name, x in metrics.items()}


def _metric(name: str) -> str:
    """Return the name of a metric as people write it: top-5 accuracy."""
    k = name.removeprefix("top_k_accuracy_")
    return name.replace("_", " ") if k == name else f"top-{k} accuracy"


def _epoch(epoch: int, epochs: int) -> str:
    return f"Epoch {epoch:{len(str(epochs))}d}/{epochs}"


def _clock(seconds: float) -> str:
    """Return a duration as 0:07, 12:34 or 1:02:03."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    head = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{head}:{whole % 60:02d}"


def _short(name: str) -> str:
    """Return a class name that is not too long for a line."""
    return name if len(name) <= _MOST_NAME else name[: _MOST_NAME - 3] + "..."


def _listed(values: Mapping[str, str], room: int) -> str:
    """Return settings in about so many characters at most, and the number of the others."""
    shown = list[str]()
    for name, value in values.items():
        if shown and sum(map(len, shown)) + 2 * len(shown) + len(name) + len(value) > room - 16:
            break
        shown.append(f"{name}={_short(value)}")
    more = len(values) - len(shown)
    return ", ".join(shown) + (f", and {more} more" if more else "")
