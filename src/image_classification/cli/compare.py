"""`compare`: how runs differ, as text, as JSON, and as a page; see `api.comparison`."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_classification.cli import command_line
from image_classification.curation import wilson_interval
from image_classification.errors import DataError, UsageError, counted
from image_classification.files import check_writable, write_text
from image_classification.images.encode import thumbnail
from image_classification.logs import late_progress, printable
from image_classification.pages import render
from image_classification.pages.charts import overlaid_chart

if TYPE_CHECKING:
    from image_classification.api.comparison import Comparison, Duel
    from image_classification.api.recorded_run import Run

_MOST_CELL = 32  # characters of a cell in a terminal
_logger = logging.getLogger(__name__)


def add_commands(subparsers: command_line.Commands) -> None:
    """Add the command."""
    command = command_line.add_command(
        subparsers,
        "compare",
        "compare runs: settings, curves, and predictions on the same images",
        "image-classification compare runs/flowers-1 runs/flowers-2\n"
        "  image-classification compare runs/flowers-* --data flowers-test --output compare.html",
        "Compare each of 2 to 8 runs with the first. Without --data, compare the predictions for\n"
        "the validation images, which a job writes next to its model.",
    )
    command.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="output of train, base folder of a job, or an artifact (folder or model.tar.gz)",
    )
    command.add_argument(
        "--data",
        type=Path,
        metavar="DATA",
        help="labeled images to predict now with each run, as evaluate reads them",
    )
    command.add_argument(
        "--output", type=Path, metavar="FILE.html", help="write a page with curves and pictures"
    )
    command.add_argument(
        "--overwrite", action="store_true", help="replace the page of an earlier comparison"
    )
    command.add_argument(
        "--json", action="store_true", help="print one JSON object instead of text"
    )
    command.set_defaults(run=compare)


def compare(namespace: argparse.Namespace) -> int:
    """Print the comparison, and write the page."""
    from image_classification import api

    output: Path | None = namespace.output
    if output is not None:
        _check_page(output, overwrites=namespace.overwrite)
    elif namespace.overwrite:
        raise UsageError("--overwrite has no effect without --output: give both, or neither")
    with command_line.memory_of_the_model(), late_progress("compare", "predictions") as show:
        found = api.compare(namespace.runs, data=namespace.data, on_progress=show)
    if namespace.json:
        command_line.say(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        command_line.say(*map(printable, lines(found, has_page=output is not None)))
    if output is not None:
        write_text(output, page(found))
        _logger.info("%s: open it in a browser", output)
    return 0


def _check_page(path: Path, *, overwrites: bool) -> None:
    check_writable(path)
    if not path.exists():
        return
    if not overwrites:
        raise UsageError(f"{path} exists: name another file, or replace it with --overwrite")
    with path.open("rb") as existing:
        if existing.read(15).lower() not in (b"<!doctype html>", b""):
            raise UsageError(f"{path} exists and is not a page: name another file")


def lines(found: Comparison, *, has_page: bool = False) -> Iterator[str]:
    """Yield the comparison as text."""
    names = [run.name for run in found.runs]
    yield from _table(["", *names], figures(found.runs))
    yield ""
    if not (found.given or found.effective):
        yield "no setting differs"
    for title, settings in (
        ("given settings", found.given),
        ("settings in effect", found.effective),
    ):
        if settings:
            rows = [[one.name, *map(_value, one.values)] for one in settings]
            yield from _table([f"{title} that differ", *names], rows)
            yield ""
    if found.images:
        yield f"{counted(len(found.images), 'images')} ({found.basis}):"
        yield from verdicts(found)
        hint = "" if has_page else "; --output FILE.html shows them, --json lists them"
        yield f"{counted(len(found.changed()), 'images')} with different predictions{hint}"
    yield from found.remarks


def verdicts(found: Comparison) -> Iterator[str]:
    """Yield a sentence about the accuracy of each run, and about each run against the first."""
    for index, run in enumerate(found.runs):
        share = found.correct(index) / len(found.images)
        low, high = wilson_interval(share, len(found.images))
        yield f"{run.name}: accuracy {share:.4f} (95% interval {low:.4f} to {high:.4f})"
    for duel in found.duels:
        yield _verdict(found, duel)


def _verdict(found: Comparison, duel: Duel) -> str:
    first, other = found.runs[0].name, found.runs[duel.other].name
    low, high = duel.interval
    text = (
        f"{other} against {first}: {duel.difference:+.4f} "
        f"(95% interval {low:+.4f} to {high:+.4f}); only {other} is right on {duel.only_other}, "
        f"only {first} on {duel.only_first}; p = {duel.p_value:.2g} (McNemar): "
    )
    if not duel.is_clear:
        return f"{text}these images do not show which is better"
    return f"{text}{other if duel.difference > 0 else first} is better on images like these"


def figures(runs: Sequence[Run]) -> list[list[str]]:
    """Return rows of a name and the text of each run, without rows that no run has."""
    columns = [list(_figures(run)) for run in runs]
    rows = [[name, *(column[i][1] for column in columns)] for i, (name, _) in enumerate(columns[0])]
    return [row for row in rows if set(row[1:]) != {"–"}]


def _figures(run: Run) -> Iterator[tuple[str, str]]:
    def number(*path: str, form: str = ".4f", scale: float = 1.0) -> str:
        value = run.number(*path)
        return "–" if value is None else format(value * scale, form)

    yield "backbone", str(run.manifest.get("backbone", "–"))
    yield "classes", str(len(run.model.labels))
    yield "training images", number("metrics", "training_samples", form=".0f")
    yield "validation images", number("metrics", "validation_samples", form=".0f")
    yield "epochs", number("metrics", "epochs", form=".0f")
    yield "best epoch", number("metrics", "best_epoch", form=".0f")
    yield "validation accuracy", number("metrics", "validation", "accuracy")
    yield "validation loss", number("metrics", "validation", "loss")
    yield "test accuracy", number("metrics", "test", "accuracy")
    error = ("calibration", "expected_calibration_error", "after")
    yield "calibration error", number(*error)
    seconds = run.seconds()
    yield "minutes of all epochs", "–" if seconds is None else f"{seconds / 60:.1f}"
    yield "graph in MB", number("files", "model.onnx", "bytes", form=".1f", scale=1e-6)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    cells = [[_short(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for first, *others in cells:
        texts = (f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join((f"{first:<{widths[0]}}", *texts))


def _value(value: object) -> str:
    """Return a setting as text; "–" where it is not set."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _short(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _MOST_CELL else text[: _MOST_CELL - 1] + "…"


_CURVES = (
    ("Validation accuracy", "validation", "accuracy"),
    ("Validation loss", "validation", "loss"),
    ("Training accuracy", "train", "accuracy"),
    ("Training loss", "train", "loss"),
    ("Learning rate", "", "learning_rate"),
)
_GROUPS = (
    "{first} is right, another run is wrong",
    "{first} is wrong, another run is right",
    "all are wrong, in different ways",
)
_MOST_SHOWN = 60  # images of a group; a picture has about 5 KB


def page(found: Comparison) -> str:
    """Return the comparison as HTML."""
    names = [run.name for run in found.runs]
    changed = found.changed()
    return render(
        "compare.html",
        names=names,
        figures=figures(found.runs),
        remarks=found.remarks,
        verdicts=list(verdicts(found)) if found.images else [],
        basis=found.basis,
        images=len(found.images),
        charts=[
            overlaid_chart(title, curves, is_share=metric == "accuracy")
            for title, split, metric in _CURVES
            if (curves := {r.name: c for r in found.runs if (c := r.curve(split, metric))})
        ],
        given=[[one.name, *map(_value, one.values)] for one in found.given],
        effective=[[one.name, *map(_value, one.values)] for one in found.effective],
        changed=len(changed),
        shown=_MOST_SHOWN,
        has_pictures=found.picture is not None,
        groups=list(_groups(found, changed)),
    )


def _groups(found: Comparison, changed: Sequence[int]) -> Iterator[tuple[str, int, list[Any]]]:
    """Yield title, number and the first images of each kind of difference."""
    for kind, title in enumerate(_GROUPS):
        own = [index for index in changed if found.kind_of(found.images[index]) == kind]
        if own:
            shown = [_shown(found, index) for index in own[:_MOST_SHOWN]]
            yield title.format(first=found.runs[0].name), len(own), shown


def _shown(found: Comparison, index: int) -> Any:
    image = found.images[index]
    if found.picture is None:
        return [image.key, image.label, *(answer.text or "none" for answer in image.answers)]
    try:
        uri = thumbnail(found.picture(index))
    except DataError:  # the file is gone by now
        uri = None
    return {
        "uri": uri,
        "key": image.key,
        "label": image.label or "none",
        "answers": [
            (run.name, f"{answer.text or 'none'} {answer.probability:.0%}", image.is_correct(place))
            for place, (run, answer) in enumerate(zip(found.runs, image.answers, strict=True))
        ],
    }
