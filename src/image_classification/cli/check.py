"""`image-classification check`: find the problems of a data set before training."""

import argparse
import json
import logging
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from image_classification.cli import command_line
from image_classification.contract import environment
from image_classification.errors import DataError, ListError, RecordError, UsageError, counted
from image_classification.files import write_text
from image_classification.labels.kinds import LabelKind
from image_classification.logs import Progress
from image_classification.prepare.check import (
    LabelReview,
    Measurements,
    Problem,
    Subset,
    by_severity,
)
from image_classification.prepare.check.problems import SubsetSummary, Verdict, check
from image_classification.prepare.check.review import Review, check_output, page, write_review
from image_classification.prepare.check.subsets import find_subsets

_SHOWN = 5  # images of a problem in the table; --json has all
_SHOWN_CLASSES = 20
_log = logging.getLogger(__name__)


def add_commands(commands: command_line.Commands) -> None:
    """Add `check`."""
    command = command_line.add_command(
        commands,
        "check",
        "find the problems of a data set",
        """image-classification check flowers
  image-classification check channels/train channels/validation --json
  image-classification check images --list labels.csv
  image-classification check flowers --html check.html --csv review.csv
  image-classification check flowers --label-errors --csv review.csv

exit code: 0 no errors (warnings and notes do not count), 1 errors, 2 nothing could be checked""",
        "Look at every image and label: unreadable files, duplicates and near-duplicates (also\n"
        "across splits), classes, sizes, hidden and empty folders.",
    )
    command.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="class folders, a folder with a list, a folder of splits, or a record file; give "
        "several to compare them",
    )
    command.add_argument(
        "--list", type=Path, metavar="FILE", help="list of the images; with a single PATH only"
    )
    command_line.add_columns(command)
    command.add_argument("--json", action="store_true", help="print everything as JSON")
    command.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="write a page with samples of each class, histograms, and the problems as pictures",
    )
    command.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        help="write every image with its label, its problems and what to do (drop or relabel), as "
        "a list for preprocess --list",
    )
    command.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the list of an earlier check in --csv, and all edits in it",
    )
    command.add_argument(
        "--label-errors",
        action="store_true",
        help="also find labels that are perhaps wrong, and images unlike all others, by the "
        "features of a pretrained network (about 15 ms of CPU per image)",
    )
    command.add_argument(
        "--backbone",
        metavar="NAME",
        help="the pretrained network for --label-errors (default: efficientnet_lite0)",
    )
    command_line.add_workers(command)
    command.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check and report; return 1 if there are errors."""
    workers = command_line.workers_of(args.workers)
    if args.list is not None and len(args.paths) > 1:
        raise UsageError(
            f"--list needs exactly one PATH, got {len(args.paths)}; check the others separately"
        )
    if args.backbone is not None and not args.label_errors:
        raise UsageError("--backbone has no effect without --label-errors: give both, or neither")
    if args.overwrite and args.csv is None:
        raise UsageError("--overwrite has no effect without --csv FILE: give both, or neither")
    _check_outputs(args)
    judge = _judge(args, workers) if args.label_errors else None
    subsets: list[Subset] = []
    damaged: list[Problem] = []
    for path in args.paths:
        try:
            subsets += find_subsets(path, args.list, command_line.columns_of(args))
        except (RecordError, ListError) as error:  # a mistake in the data, not in the command
            damaged.append(Problem("error", "damaged", str(error)))
    if judge is not None:
        _check_labeled(subsets)
    max_pixels = environment.max_pixels()
    with Progress("check", sum(len(subset.keys) for subset in subsets), "images") as progress:
        verdict = check(subsets, workers, progress.advance, damaged, max_pixels)
    if judge is not None and (subsets or not damaged):  # else the damage is what to report
        review = judge(subsets, verdict.measured)
        problems = by_severity([*verdict.problems, *review.problems(subsets)])
        verdict = replace(verdict, problems=problems, labels=review)
    command_line.say(*([json.dumps(verdict.to_json(), indent=1)] if args.json else _lines(verdict)))
    if args.csv is not None:
        _log.info("%s", _said(args.csv, write_review(args.csv, subsets, verdict)))
    if args.html is not None:
        write_text(args.html, page(subsets, verdict))
        _log.info("%s: open it in a browser", args.html)
    return int(verdict.has_errors)


def _judge(
    args: argparse.Namespace, workers: int
) -> Callable[[Sequence[Subset], Sequence[Measurements]], LabelReview]:
    """Return what judges the labels of subsets; an error if there is no network to do it."""
    from image_classification.cli.label_errors import (  # a check without it needs no network
        DEFAULT_BACKBONE,
        backbone_features,
        find_label_errors,
    )

    name = args.backbone or DEFAULT_BACKBONE
    features_of = backbone_features(name)

    def judge(subsets: Sequence[Subset], measured: Sequence[Measurements]) -> LabelReview:
        with command_line.memory_of_the_model():
            return find_label_errors(subsets, measured, name, features_of, workers)

    return judge


def _check_labeled(subsets: Sequence[Subset]) -> None:
    for subset in subsets:
        if subset.kind is not LabelKind.CLASS:
            raise DataError(
                f"{subset.name}: --label-errors expects one class for each image, found "
                f"{subset.kind.value} labels; leave it out"
            )


def _check_outputs(args: argparse.Namespace) -> None:
    if args.csv and args.html and args.csv.resolve() == args.html.resolve():
        raise UsageError(f"--csv and --html are both {args.csv}: name two files")
    for path in (args.csv, args.html):
        if path is not None:
            check_output(path, [*args.paths, *([args.list] if args.list else [])])
    if args.csv is not None and args.csv.exists() and args.csv.stat().st_size > 0:
        if not args.overwrite:
            raise UsageError(
                f"{args.csv} is the list of an earlier check, which may have been edited: name "
                "another file, or replace it with --overwrite"
            )


def _said(path: Path, review: Review) -> str:
    """Return what is in the list and how to use it."""
    images = counted(review.images, "images")
    text = f"{path}: {images}, {review.dropped} to drop, {review.relabeled} to relabel"
    if review.has_records:
        return f"{text}; preprocess reads lists of image files, not of records"
    root = shlex.quote(review.root) if review.root else "FOLDER"
    where = "" if review.root else " (FOLDER has the images that were packed)"
    return (
        f"{text}; edit the columns action and label, then{where}: image-classification preprocess "
        f"--input {root} --list {shlex.quote(str(path))} --output channels"
    )


def _lines(verdict: Verdict) -> Iterator[str]:
    for subset in verdict.subsets:
        yield from _subset_lines(subset)
    for problem in verdict.problems:
        count = f" ({len(problem.images)})" if problem.images else ""
        yield f"\n{problem.severity.upper()} {problem.kind}: {problem.message}{count}"
        yield from (f"  {_shortened(image)}" for image in problem.images[:_SHOWN])
        if len(problem.images) > _SHOWN:
            yield f"  … and {len(problem.images) - _SHOWN} more: --json names all"
    found = Counter(problem.severity for problem in verdict.problems)
    yield "\n" + ", ".join(
        counted(found[kind], f"{kind}s") for kind in ("error", "warning", "note")
    )


def _shortened(image: str) -> str:
    """Return the first images of a group of equal or similar ones, and how many more there are."""
    images = image.split(" = ")
    if len(images) <= _SHOWN:
        return image
    return f"{' = '.join(images[:_SHOWN])} = {len(images) - _SHOWN} more: --json names all"


def _subset_lines(subset: SubsetSummary) -> Iterator[str]:
    classes = list(subset.class_counts.items())
    unusable = f", {subset.unusable} unusable" if subset.unusable else ""
    images, found = counted(subset.images, "images"), counted(len(classes), "classes")
    yield f"{subset.name}: {images}{unusable}, {found}"
    width = max((len(name) for name, _ in classes[:_SHOWN_CLASSES]), default=0)
    yield from (f"  {name:{width}}  {count:>7}" for name, count in classes[:_SHOWN_CLASSES])
    if len(classes) > _SHOWN_CLASSES:
        yield f"  … and {len(classes) - _SHOWN_CLASSES} more classes"
