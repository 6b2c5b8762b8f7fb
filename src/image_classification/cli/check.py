"""`image-classification check`: what is wrong with a data set, before it is trained on."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from image_classification.cli.command_line import say, workers_of
from image_classification.contract import environment
from image_classification.errors import ListError, RecordError, UsageError
from image_classification.logs import Progress
from image_classification.prepare.check import Part, Problem
from image_classification.prepare.check.parts import parts_of
from image_classification.prepare.check.problems import PartSummary, Verdict, check

if TYPE_CHECKING:
    from argparse import _SubParsersAction


_SHOWN = 5  # images of a problem in the table; --json has all
_SHOWN_CLASSES = 20

_EPILOG = """\
examples:
  image-classification check flowers
  image-classification check channels/train channels/validation --json
  image-classification check images --list labels.csv

exit code: 0 no errors (warnings and notes do not count), 1 errors, 2 nothing could be checked
"""


def add_commands(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `check`."""
    command = subparsers.add_parser(
        "check",
        help="say what is wrong with a data set",
        description="Look at every image and label: unreadable files, duplicates and "
        "near-duplicates (across splits too), classes, sizes, hidden and empty folders.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="class folders, a folder with a list, a folder of splits, a record file; several are "
        "compared with each other",
    )
    command.add_argument(
        "--list", type=Path, metavar="FILE", help="the list of the images in the one PATH"
    )
    command.add_argument("--json", action="store_true", help="print everything as JSON")
    command.add_argument("--workers", type=int, metavar="N", help="threads (default: the cores)")
    command.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> int:
    """Check and report; 1 if there are errors."""
    workers = workers_of(namespace.workers)
    if namespace.list is not None and len(namespace.paths) > 1:
        raise UsageError(f"--list names the images of one PATH, got {len(namespace.paths)}")
    parts: list[Part] = []
    damaged: list[Problem] = []
    for path in namespace.paths:
        try:
            parts += parts_of(path, namespace.list)
        except (RecordError, ListError) as error:  # a mistake in the data, not in the command
            damaged.append(Problem("error", "damaged", str(error)))
    max_pixels = environment.MAX_PIXELS.read_integer(1)
    with Progress("check", sum(len(part.keys) for part in parts), "images") as progress:
        verdict = check(parts, workers, progress.advance, damaged, max_pixels)
    text = json.dumps(verdict.to_json(), indent=1) if namespace.json else _table(verdict)
    say(text)
    return int(verdict.has_errors)


def _table(verdict: Verdict) -> str:
    lines = [line for part in verdict.parts for line in _part_lines(part)]
    for problem in verdict.problems:
        lines += ["", f"{problem.severity.upper()} {problem.kind}: {problem.message}"]
        if problem.images:
            lines[-1] += f" ({len(problem.images)})"
        lines += [f"  {image}" for image in problem.images[:_SHOWN]]
        if len(problem.images) > _SHOWN:
            lines.append(f"  … and {len(problem.images) - _SHOWN} more: --json names all")
    found = Counter(problem.severity for problem in verdict.problems)
    counts = [f"{found['error']} errors", f"{found['warning']} warnings", f"{found['note']} notes"]
    return "\n".join([*lines, "", ", ".join(counts)])


def _part_lines(part: PartSummary) -> list[str]:
    classes = list(part.class_counts.items())
    unusable = f", {part.unusable} unusable" if part.unusable else ""
    lines = [f"{part.name}: {part.images} images{unusable}, {len(classes)} classes"]
    width = max((len(name) for name, _ in classes[:_SHOWN_CLASSES]), default=0)
    lines += [f"  {name:{width}}  {count:>7}" for name, count in classes[:_SHOWN_CLASSES]]
    if len(classes) > _SHOWN_CLASSES:
        lines.append(f"  … and {len(classes) - _SHOWN_CLASSES} more classes")
    return lines
