"""A job's events on terminals of any width, with and without color, Unicode and rich."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Mapping

import pytest

from image_classification import events, logs, terminal
from image_classification.contract.presets import added_by

LOGGER = logging.getLogger("image_classification.test")
STEP = events.Stepped(3, 10, 24, 96, False, 212.4, 95.0, {"loss": 0.4123, "accuracy": 0.861})
EPOCH = events.EpochEnded(
    *(3, 10, {"loss": 0.4123, "accuracy": 0.861}, {"loss": 0.3, "accuracy": 0.915}),
    *(12.0, 212.4, 0.01, 95.0),
)
FINISHED = events.Finished(
    *(3, 10, "accuracy", {"loss": 0.3, "accuracy": 0.915, "top_k_accuracy_5": 1.0}),
    *({"loss": 0.4, "accuracy": 0.9}, 20, [("daisy" * 20, 10, 0.9, "[red]tulips")], "runs/a"),
)


class Screen(io.StringIO):
    """A stream that says that it is a terminal."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


def shown(
    monkeypatch: pytest.MonkeyPatch,
    *drawn: events.Event,
    columns: int = 80,
    screen: io.StringIO | None = None,
    **environment: str,
) -> str:
    """Return what is written for some events on a terminal of some columns."""
    settings: Mapping[str, str] = {"LC_ALL": "C.UTF-8", "TERM": "xterm", "COLUMNS": str(columns)}
    for name, value in (settings | environment).items():
        monkeypatch.setenv(name, value)
    screen = screen or Screen()
    with terminal.job_view(screen):
        for event in drawn:
            LOGGER.log(events.PROGRESS, "", extra=event.extra)
    return screen.getvalue()


def uncolored(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_a_step_shows_loss_accuracy_speed_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    text = uncolored(shown(monkeypatch, STEP, columns=100))
    assert "Epoch  3/10 ━" in text
    assert re.search(r"─  0\.412     86\.1% +212  1:35 left", text)
    assert re.search(r"^ +loss  accuracy  validation  images/s +time$", text, re.M)


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_the_usual_job_has_at_most_eight_lines_before_the_bar(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    values = added_by("transfer", "tensorflow", {})
    names = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
    data = (names, len(names), 520, 130)
    weights = "ImageNet weights of efficientnet_lite0 (Apache-2.0) with a new head"
    text = shown(
        monkeypatch,
        events.Configured(
            "tensorflow", "torch", "efficientnet_lite0", "transfer", {}, values, *data
        ),
        events.Built("efficientnet_lite0", "cpu", 2, 3_377_413, 6_405, weights),
        EPOCH,
        columns=columns,
        TERM="dumb" if columns == 80 else "xterm",
    )
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("Epoch"))
    # A warning of four lines, as for files that are not images, still fits in twelve.
    assert 5 <= first <= 8, text


@pytest.mark.parametrize("columns", [200, 80, 60, 40, 25, 10])
def test_no_row_is_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    text = uncolored(shown(monkeypatch, EPOCH, FINISHED, columns=columns))
    assert "\x1b" not in text
    assert all(len(line) <= columns for line in text.splitlines()), text
    if columns >= 40:
        assert " 91.5%" in text  # the last to be left out


def test_where_the_locale_is_not_utf_8_the_bar_is_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = (events.Activity("opening the channels"), STEP, EPOCH, FINISHED)
    text = shown(monkeypatch, *drawn, LC_ALL="", LANG="C")
    assert text.isascii() and "===" in text
    assert not shown(monkeypatch, *drawn, LANG="de_DE.UTF-8").isascii()


def test_no_color_and_a_dumb_terminal_are_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[36m" in shown(monkeypatch, EPOCH)
    assert "\x1b[36m" not in shown(monkeypatch, EPOCH, NO_COLOR="1")
    assert "\x1b" not in shown(monkeypatch, STEP, EPOCH, TERM="dumb")


def test_a_stream_that_cannot_write_a_name_gets_it_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    screen.encoding = "latin-1"  # type: ignore[misc]
    event = events.Finished(1, 1, "accuracy", {"accuracy": 1.0}, {}, 1, [("薔薇", 1, 1.0, "")], "a")
    assert r"\u8594\u8587" in shown(monkeypatch, event, screen=screen)


def test_what_is_not_a_terminal_gets_rows_without_escape_sequences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = shown(monkeypatch, STEP, EPOCH, FINISHED, screen=io.StringIO())
    assert "\x1b" not in text and text.count("Epoch  3/10") == 1


def test_warnings_are_kept_and_other_lines_are_left_to_the_plain_log() -> None:
    screen = io.StringIO()
    with terminal.job_view(screen):
        LOGGER.info("a detail")
        LOGGER.info("Resumed after epoch 3", extra=events.Note().extra)
        LOGGER.warning("[bold]\x1b[2J of %s", "name")
        LOGGER.error("Traceback:\n  line 2")
    assert screen.getvalue().splitlines() == [
        "Resumed after epoch 3",
        r"warning: [bold]\x1b[2J of name",
        "error: Traceback:",
        "  line 2",
    ]


def test_the_log_is_as_before_after_the_view() -> None:
    package = logging.getLogger("image_classification")
    before = package.handlers[:], package.level, package.propagate
    with pytest.raises(KeyboardInterrupt), terminal.job_view(Screen()):
        events.draw(LOGGER, STEP)
        raise KeyboardInterrupt
    assert (package.handlers, package.level, package.propagate) == before
    assert not events.is_drawn(LOGGER)


def test_events_without_text_are_in_no_other_log() -> None:
    for form in logs.FORMS:
        stream = io.StringIO()
        with logs.handled_by(logs.handler_of(stream, form), level=1):
            events.draw(LOGGER, STEP)
        assert stream.getvalue() == ""


def test_a_line_of_json_has_the_fields_of_its_event_and_any_name() -> None:
    stream = io.StringIO()
    with logs.handled_by(logs.handler_of(stream, logs.JSON)):
        LOGGER.warning("a\nb \udcff %s", "\x1b", extra=STEP.extra)
    (line,) = stream.getvalue().splitlines()
    assert line.isascii()
    found = json.loads(line)
    assert found.pop("time").endswith("Z")
    assert found["level"] == "WARNING" and found["message"] == "a\nb \udcff \x1b"
    assert (found["event"], found["epoch"], found["train"]["loss"]) == ("step", 3, 0.4123)


def test_without_rich_there_is_no_view(monkeypatch: pytest.MonkeyPatch) -> None:
    assert terminal.is_installed()
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert not terminal.is_installed()
