"""`rank`: which unlabeled images to label next, for a model that is there already."""

import argparse
import csv
import json
import logging
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from image_classification.artifact import Artifact, open_artifact
from image_classification.cli import command_line
from image_classification.contract import environment
from image_classification.curation.selection import Candidates, uncertainty
from image_classification.errors import ArtifactError, DataError, ImageError, UsageError, counted
from image_classification.files import check_target, written_beside
from image_classification.images.preprocessing import preprocess
from image_classification.inventory.tables import shown_label, shown_path
from image_classification.labels.tree import LeftOut, class_name, find_images
from image_classification.logs import Progress
from image_classification.prepare.contact_sheet import ContactSheet, thumbnail_of
from image_classification.samples import FloatArray
from image_classification.work import in_order

_DEFAULT_COUNT, _MOST_COUNT = 100, 5_000  # 8 times as many features are in memory: 200 MB
_MOST_SHEET = 400  # pictures: 8 × 50 cells are 1,224 × 8,408 pixels
_MOST_LINE = 65_536  # characters of a line of an older ranking that are read at once
_SHOWN = 20
_NAMED = 5
COLUMNS = ("path", "label", "predicted_label", "probability", "uncertainty")
"""Of the CSV; `label` is empty: a person fills it in, then it is a list for `preprocess`."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Seen:
    """An image that the model has predicted.

    Attributes:
        path: below the folder.
        label: the most probable class.
        probability, doubt: 0–1, of that class; how unsure the model is.
    """

    path: str
    label: str
    probability: float
    doubt: float


def add_commands(subparsers: command_line.Commands) -> None:
    """Add the command."""
    command = command_line.add_command(
        subparsers,
        "rank",
        "choose the unlabeled images to label next",
        "image-classification rank photos --model model --csv label-next.csv\n"
        "  image-classification rank photos --model model --count 50 --contact-sheet next.png",
        "Choose the images to label next: those that the model is unsure about, and that differ\n"
        "from one another. Fill in the column label of the CSV, then give it to preprocess --list.",
    )
    command.add_argument(
        "folder", type=Path, metavar="FOLDER", help="images in it and its subfolders"
    )
    command_line.add_model(command)
    command.add_argument(
        "--count",
        type=int,
        default=_DEFAULT_COUNT,
        metavar="N",
        help=f"images to choose, 1 to {_MOST_COUNT} (default: {_DEFAULT_COUNT})",
    )
    command.add_argument("--csv", type=Path, metavar="FILE", help="write the ranking as a list")
    command.add_argument(
        "--contact-sheet",
        type=Path,
        metavar="PNG",
        help=f"draw the first {_MOST_SHEET} of them with their predicted classes",
    )
    command.add_argument("--json", action="store_true", help="print the ranking as JSON")
    command_line.add_workers(command)
    command.set_defaults(run=rank)


def rank(args: argparse.Namespace) -> int:
    """Choose the images and write them; return 0, also if some images could not be used."""
    workers = command_line.workers_of(args.workers)
    if not 1 <= args.count <= _MOST_COUNT:
        raise UsageError(f"--count {args.count}: expected 1 to {_MOST_COUNT}")
    paths = _find(args.folder)
    _check_outputs(args, paths)
    with open_artifact(args.model) as artifact, command_line.memory_of_the_model():
        chosen, unusable = _choose(artifact, args.folder, paths, args.count, workers)
    if args.csv is not None:
        _write_csv(args.csv, chosen)
        _logger.info(
            "%s: %s; fill in the column label, then: image-classification preprocess "
            "--input %s --list %s --output channels",
            *(args.csv, counted(len(chosen), "images")),
            *(shlex.quote(str(args.folder)), shlex.quote(str(args.csv))),
        )
    if args.contact_sheet is not None:
        _draw(args.contact_sheet, args.folder, chosen)
    command_line.say(*_lines(args, chosen, unusable, len(paths)))
    return 0


def _find(folder: Path) -> list[str]:
    if not folder.is_dir():
        found = "no such folder" if not folder.exists() else "a file"
        raise DataError(f"{folder}: expected a folder of images, found {found}")
    left_out = LeftOut()
    paths = find_images(folder, left_out)
    left_out.warn(folder, "if such a file is an image, give it the name of one")
    if not paths:
        seen = f"; left out: {left_out}" if str(left_out) else ""
        raise DataError(f"{folder}: expected images in this folder, found none{seen}")
    return paths


def _check_outputs(args: argparse.Namespace, paths: Sequence[str]) -> None:
    if args.csv and args.contact_sheet and args.csv.resolve() == args.contact_sheet.resolve():
        raise UsageError(f"--csv and --contact-sheet are both {args.csv}: name two files")
    files = [args.folder / path for path in paths]
    if args.csv is not None:
        for file in (args.model, *files):
            check_target(args.csv, file)
        if args.csv.exists():
            _check_ranking(args.csv)
    if args.contact_sheet is not None:
        command_line.check_sheet(args.contact_sheet, files)


def _check_ranking(path: Path) -> None:
    """Raise an error if a file is no ranking, or one into which a person has filled labels."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        lines = iter(partial(file.readline, _MOST_LINE), "")
        try:
            if next(lines, "").strip() not in ("", ",".join(COLUMNS)):
                raise csv.Error
            labeled = next((row for row in csv.reader(lines) if any(row[1:2])), None)
        except csv.Error:
            raise UsageError(f"{path} exists and is not a ranking: name another file") from None
    if labeled is not None:
        raise UsageError(
            f"{path} is a ranking in which {labeled[0]} has the label {labeled[1][:80]!r}: name "
            "another file, so that no label is lost"
        )


def _choose(
    artifact: Artifact, folder: Path, paths: Sequence[str], count: int, workers: int
) -> tuple[list[_Seen], list[tuple[str, str]]]:
    """Return the chosen images in order, and (path, reason) of the unusable ones."""
    from image_classification.devices import serving_device
    from image_classification.serving.graph_outputs import FEATURES
    from image_classification.serving.runtime import Runtime

    runtime = Runtime(artifact.graph_file, device=serving_device().device, has_features=True)
    images = replace(artifact.preprocessing, max_pixels=environment.max_pixels())
    labels, is_multi_label = artifact.labels, artifact.is_multi_label

    def predict(path: str) -> tuple[_Seen, FloatArray] | str:
        try:
            pixels = preprocess((folder / path).read_bytes(), images)
        except ImageError as error:
            return str(error)
        except OSError as error:
            return f"the file cannot be read: {error.strerror}"
        found = runtime.run_outputs(pixels[None], runtime.outputs & {FEATURES})
        row, features = found.probabilities[0], found.features
        if not np.isfinite(row).all():
            raise ArtifactError(f"{artifact.model_file.name}: gives NaN or infinity for {path}")
        best = int(row.argmax())
        doubt = uncertainty(row, is_multi_label)
        seen = _Seen(path, labels.names[best], float(row[best]), doubt)
        # Roots of probabilities: their distance is Hellinger's.
        return seen, np.sqrt(np.maximum(row, 0)) if features is None else features[0]

    candidates: Candidates[_Seen] = Candidates(count)
    unusable: list[tuple[str, str]] = []
    with Progress("rank", len(paths), "images") as progress:
        for index, found in enumerate(in_order(predict, paths, workers)):
            if isinstance(found, str):
                unusable.append((paths[index], found))
            else:
                candidates.add(found[0], found[0].doubt, found[1])
            progress.advance()
    if len(unusable) == len(paths):
        path, reason = unusable[0]
        raise DataError(
            f"{folder}: expected a usable image, found none among {len(paths)}; {path}: {reason}"
        )
    for path, reason in unusable[:_NAMED]:
        _logger.warning("%s cannot be used: %s", folder / path, reason)
    if len(unusable) > _NAMED:
        _logger.warning("%d images cannot be used; --json names all", len(unusable))
    return candidates.chosen(), unusable


def _write_csv(path: Path, chosen: Sequence[_Seen]) -> None:
    with (
        written_beside(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for seen in chosen:
            numbers = f"{seen.probability:.4f}", f"{seen.doubt:.4f}"
            writer.writerow([shown_path(seen.path), "", shown_label(seen.label), *numbers])


def _draw(path: Path, folder: Path, chosen: Sequence[_Seen]) -> None:
    shown = chosen[:_MOST_SHEET]
    sheet = ContactSheet(len(shown))
    for number, seen in enumerate(shown, 1):
        try:
            thumbnail = thumbnail_of((folder / seen.path).read_bytes(), environment.max_pixels())
        except OSError:  # the file is gone by now
            thumbnail = None
        sheet.add(thumbnail, f"{number}  {seen.probability:.0%} {seen.label}")
    with written_beside(path) as temporary:
        sheet.picture.save(temporary, "PNG")
    if len(shown) < len(chosen):
        _logger.warning("the contact sheet shows the first %d of %d", len(shown), len(chosen))


def _lines(
    args: argparse.Namespace,
    chosen: Sequence[_Seen],
    unusable: Sequence[tuple[str, str]],
    images: int,
) -> Iterator[str]:
    if args.json:
        ranking = [
            {
                "file": str(args.folder / class_name(seen.path)),
                "predicted_label": seen.label,
                "probability": round(seen.probability, 6),
                "uncertainty": round(seen.doubt, 6),
            }
            for seen in chosen
        ]
        named = [
            {"file": str(args.folder / class_name(path)), "reason": reason}
            for path, reason in unusable
        ]
        found = {"images": images, "ranking": ranking, "unusable": named}
        yield json.dumps(found, ensure_ascii=False, indent=1)
        return
    yield f"{len(chosen)} of {images} images to label next, in this order:"
    for number, seen in enumerate(chosen[:_SHOWN], 1):
        guess = f"{seen.probability:4.0%} {seen.label}"
        yield f"{number:4}  uncertainty {seen.doubt:.2f}  {guess}  {class_name(seen.path)}"
    if len(chosen) > _SHOWN:
        yield f"  … and {len(chosen) - _SHOWN} more: --csv and --json have all"
