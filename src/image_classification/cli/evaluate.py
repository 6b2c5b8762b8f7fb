"""`evaluate`: the metrics of an artifact on labeled images, as `Model.evaluate` measures them."""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from image_classification.cli import command_line
from image_classification.errors import UsageError, counted
from image_classification.logs import late_progress, printable

if TYPE_CHECKING:
    from image_classification.api.results import ClassScore, Evaluation

_MOST_CLASSES = 20  # lines of the table
_MOST_NAME = 40  # characters of a class name in it
_logger = logging.getLogger(__name__)


def add_commands(subparsers: command_line.Commands) -> None:
    """Add the command."""
    command = command_line.add_command(
        subparsers,
        "evaluate",
        "measure an artifact on labeled images, through the serving path",
        "image-classification evaluate flowers-test --model runs/flowers-1\n"
        "  image-classification evaluate flowers-test --model model --csv predictions.csv --json",
    )
    command.add_argument(
        "labeled",
        type=Path,
        nargs="?",
        metavar="DATA",
        help="class folders, .rec file(s), or a folder with a list of images of several classes",
    )
    command_line.add_model(command)
    command.add_argument("--data", type=Path, metavar="DATA", help="the same as DATA")
    command.add_argument("--top-k", type=int, metavar="K", help="report top-k accuracy too")
    command.add_argument(
        "--csv", type=Path, metavar="FILE", help="write a table with the prediction of each image"
    )
    command.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="write a page with curves and pictures, and the table, to this folder",
    )
    command.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the table or the report of an earlier evaluation",
    )
    command.add_argument(
        "--json", action="store_true", help="print one JSON object instead of text"
    )
    command.set_defaults(run=evaluate)


def evaluate(namespace: argparse.Namespace) -> int:
    """Print the metrics; return 2 if an image could not be used."""
    from image_classification.api import load
    from image_classification.api.predictions_file import (
        check_predictions_file,
        check_report_folder,
    )

    data = _data_of(namespace)
    command_line.check_top_k(namespace.top_k)
    if namespace.csv is not None:
        check_predictions_file(namespace.csv, overwrites=namespace.overwrite)
    if namespace.report is not None:
        check_report_folder(namespace.report, overwrites=namespace.overwrite)
        if namespace.csv and namespace.csv.resolve().parent == namespace.report.resolve():
            raise UsageError(
                f"--csv {namespace.csv} is in the folder of --report, which gets a table of its "
                "own: name another file, or leave out --csv"
            )
    if namespace.overwrite and namespace.csv is None and namespace.report is None:
        raise UsageError("--overwrite has no effect without --csv or --report: give one of them")
    with command_line.memory_of_the_model(), late_progress("evaluate", "images") as show:
        found = load(namespace.model).evaluate(data, top_k=namespace.top_k, on_progress=show)
    if namespace.json:
        command_line.say(json.dumps(_content(found), ensure_ascii=False))
    else:
        command_line.say(*map(printable, _lines(found)))
    if namespace.csv is not None:
        found.write_csv(namespace.csv, overwrite=namespace.overwrite)
        _logger.info("%s: %s", namespace.csv, counted(found.samples, "predictions"))
    if namespace.report is not None:
        page = found.write_report(namespace.report, overwrite=namespace.overwrite)
        _logger.info("%s: open it in a browser", page)
    return 2 if found.skipped else 0


def _data_of(namespace: argparse.Namespace) -> Path:
    given: list[Path] = [path for path in (namespace.labeled, namespace.data) if path is not None]
    if len(given) == 2:
        raise UsageError(
            f"the data are given twice, as {given[0]} and as --data {given[1]}: name them once"
        )
    if not given:
        raise UsageError(
            "expected the labeled images to evaluate on, got none: image-classification evaluate "
            "DATA --model DIR"
        )
    return given[0]


def _content(found: Evaluation) -> dict[str, object]:
    names = found.labels
    wrong = [
        [names[target], names[predicted], count]
        for (target, predicted), count in found.confusions()
        if target != predicted
    ]
    return {
        "samples": found.samples,
        "metrics": dict(found.metrics),
        "skipped": dict(found.skipped),
        "accuracy_interval": found.interval,
        "macro_f1": found.macro_f1,
        "per_class": [
            {
                "label": score.label,
                "samples": score.samples,
                "recall": score.recall,
                "precision": score.precision,
                "f1": score.f1,
            }
            for score in found.per_class
        ],
        "confusions": wrong,
    }


def _lines(found: Evaluation) -> Iterator[str]:
    yield f"{found.samples} images"
    yield from (f"{name}: {value:.4f}" for name, value in found.metrics.items())
    if found.interval is not None:
        low, high = found.interval
        yield f"95% interval of the accuracy: {low:.4f} to {high:.4f}"
    yield f"macro F1: {found.macro_f1:.4f}"
    yield from table_lines(found.per_class)
    yield from (f"skipped {key}: {reason}" for key, reason in found.skipped.items())


def table_lines(scores: Sequence[ClassScore]) -> Iterator[str]:
    """Yield the lines of the classes, the worst first; classes without any answer come last."""
    ranked = sorted(scores, key=lambda score: math.inf if score.f1 is None else score.f1)
    rows: list[tuple[str, ...]] = [("class", "images", "recall", "precision", "F1")]
    for score in ranked[:_MOST_CLASSES]:
        shares = (score.recall, score.precision, score.f1)
        rows.append((_short(score.label), str(score.samples), *map(_share, shares)))
    width = max(len(row[0]) for row in rows)
    yield ""
    for name, images, recall, precision, f1 in rows:
        yield f"{name:<{width}}  {images:>6}  {recall:>6}  {precision:>9}  {f1:>6}"
    if len(ranked) > _MOST_CLASSES:
        yield f"… and {len(ranked) - _MOST_CLASSES} more classes with a higher F1: --json has all"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _short(name: str) -> str:
    """Return a class name for a terminal: on one line, and not too long."""
    text = printable(name)
    return text if len(text) <= _MOST_NAME else text[: _MOST_NAME - 1] + "…"
