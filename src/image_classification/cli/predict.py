"""`predict`: the classes of image files as lines, from `Model.predict_each` of the interface."""

import argparse
import csv
import io
import json
import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from PIL.Image import Image

from image_classification.api import load
from image_classification.api.model import Model
from image_classification.cli import command_line
from image_classification.contract import environment
from image_classification.errors import UsageError
from image_classification.files import check_target, written_beside
from image_classification.labels.label_map import LabelMap
from image_classification.labels.tree import LeftOut, find_images
from image_classification.logs import Progress
from image_classification.prepare.contact_sheet import ContactSheet, thumbnail_of
from image_classification.samples import THRESHOLD
from image_classification.serving.codec.accept import JSON, Accept
from image_classification.serving.codec.answers import Failure, Prediction, verbose


class JsonLines:
    """`{"image": …, "probabilities": […], "labels": […], "predicted_label": …}`, or an `error`.

    Args:
        labels: of the model.
        top_k, threshold: the classes to write, the most probable first; None for all of them.
    """

    def __init__(self, labels: LabelMap, top_k: int | None, threshold: float | None) -> None:
        self._accept = Accept(JSON, True, top_k or len(labels), threshold)

    def head(self) -> list[str]:
        return []

    def line(self, path: Path, result: Prediction | Failure) -> str:
        if isinstance(result, Failure):
            said: dict[str, object] = {"error": result.reason}
        else:
            said = verbose(result, self._accept)
        return json.dumps({"image": str(path), **said}, ensure_ascii=False)


class CsvRows:
    """A table with the columns image, predicted_label (several joined by `|`), error, and classes.

    All classes have a column of probabilities each. Selected classes are pairs of label and
    probability, the most probable first.

    Args:
        labels: of the model.
        top_k, threshold: the classes to write; None for all of them.
    """

    def __init__(self, labels: LabelMap, top_k: int | None, threshold: float | None) -> None:
        self._labels = labels
        self._is_selection = top_k is not None or threshold is not None
        self._pairs = min(top_k or len(labels), len(labels)) if self._is_selection else 0
        self._threshold = threshold

    def head(self) -> list[str]:
        columns = list(self._labels.names)
        if self._is_selection:
            ranks = range(1, self._pairs + 1)
            columns = [f"{name}_{rank}" for rank in ranks for name in ("label", "probability")]
        return [_row(["image", "predicted_label", "error", *columns])]

    def line(self, path: Path, result: Prediction | Failure) -> str:
        if isinstance(result, Failure):
            cells: list[object] = [""] * (2 * self._pairs or len(self._labels))
            return _row([str(path), "", result.reason, *cells])
        name = result.label
        if result.is_multi_label:
            chosen = THRESHOLD if self._threshold is None else self._threshold
            name = "|".join(result.labels_from(chosen))
        return _row([str(path), name, "", *self._probabilities(result)])

    def _probabilities(self, prediction: Prediction) -> list[object]:
        if not self._is_selection:
            return list(prediction.to_list())
        top = prediction.top(self._pairs, self._threshold or 0.0)
        cells: list[object] = [cell for pair in top for cell in pair]
        return cells + [""] * (2 * self._pairs - len(cells))


FORMATS: dict[str, type[JsonLines] | type[CsvRows]] = {"jsonl": JsonLines, "csv": CsvRows}


def _row(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


_MAX_SHEET = 400  # pictures: 8 × 50 cells are 1,224 × 8,408 pixels
_logger = logging.getLogger(__name__)


class _Predicted(NamedTuple):
    """An image, the model's prediction, and its picture for the contact sheet."""

    path: Path
    result: Prediction | Failure
    thumbnail: Image | None


def add_commands(subparsers: command_line.Commands) -> None:
    """Add the command."""
    command = command_line.add_command(
        subparsers,
        "predict",
        "predict the classes of images, one line per image, through the serving path",
        "image-classification predict --model model --top-k 3 tulip.jpg\n"
        "  image-classification predict --model model --format csv --output tulips.csv "
        "--contact-sheet tulips.png photos/",
    )
    command_line.add_model(command)
    command.add_argument(
        "images",
        type=Path,
        nargs="+",
        metavar="IMAGE",
        help="image file, or a folder with images in it and its subfolders",
    )
    command.add_argument(
        "--format",
        choices=("jsonl", "csv"),
        default="jsonl",
        help="JSON lines, or a table with a header (default: jsonl)",
    )
    command.add_argument(
        "--output", type=Path, metavar="FILE", help="where to write (default: standard output)"
    )
    command.add_argument("--top-k", type=int, metavar="K", help="only the K most probable classes")
    command.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help="only classes with at least this probability, 0 to 1",
    )
    command.add_argument(
        "--contact-sheet",
        type=Path,
        metavar="PNG",
        help=f"draw the first {_MAX_SHEET} images with their classes",
    )
    command.set_defaults(run=predict)


def predict(namespace: argparse.Namespace) -> int:
    """Write one line per image, in order; return 2 if an image could not be used."""
    paths = _find_images(namespace.images)
    _check(namespace, paths)
    shown = min(len(paths), _MAX_SHEET) if namespace.contact_sheet else 0
    sheet = ContactSheet(shown) if shown else None
    failures = 0
    is_shown = namespace.output is None and sys.stdout is not None and sys.stdout.isatty()
    with command_line.memory_of_the_model():
        model = load(namespace.model)
        labels = LabelMap(model.labels)
        output = FORMATS[namespace.format](labels, namespace.top_k, namespace.threshold)
        with (
            _lines_to(namespace.output) as write,
            Progress("predict", len(paths), "images") as progress,
        ):
            for line in output.head():
                write(line)
            for index, seen in enumerate(_predict_each(model, paths, labels, shown)):
                if is_shown:
                    progress.hide()
                write(output.line(seen.path, seen.result))
                failures += isinstance(seen.result, Failure)
                if sheet is not None and index < shown:
                    _draw(sheet, seen)
                progress.advance()
    if sheet is not None:
        with written_beside(namespace.contact_sheet) as partial:
            sheet.picture.save(partial, "PNG")
        if shown < len(paths):
            _logger.warning("the contact sheet shows the first %d of %d images", shown, len(paths))
    if failures:
        _logger.warning("%d of %d images could not be used", failures, len(paths))
    return 2 if failures else 0


def _predict_each(
    model: Model, paths: Sequence[Path], labels: LabelMap, shown: int
) -> Iterator[_Predicted]:
    """Yield the predictions in order, with one thread per CPU and one image at a time on each.

    Args:
        model: of the Python interface.
        paths: image files.
        labels: of the model.
        shown: number of images, from the first, with a picture for the contact sheet.
    """
    max_pixels = environment.max_pixels()
    thumbnails: dict[int, Image | None] = {}

    def keep_thumbnail(index: int, content: bytes) -> None:
        if index < shown:
            thumbnails[index] = thumbnail_of(content, max_pixels)

    for index, found in enumerate(model.predict_each(paths, on_read=keep_thumbnail)):
        result: Prediction | Failure
        if found.error:
            result = Failure(found.error)
        else:
            result = Prediction(found.probabilities, labels, found.is_multi_label)
        yield _Predicted(paths[index], result, thumbnails.pop(index, None))


def _find_images(arguments: Sequence[Path]) -> list[Path]:
    """Return the named files, and the images in folders in walk order."""
    paths: list[Path] = []
    for argument in arguments:
        address = re.fullmatch(r"(\w{2,10}:)/+(.*)", str(argument))  # a path has lost one slash
        if address and not argument.exists():
            raise UsageError(
                f"{address[1]}//{address[2]} is an address: download the image first, and name its "
                "file"
            )
        if not argument.is_dir():
            paths.append(argument)
            continue
        left_out = LeftOut()
        found = [argument / name for name in find_images(argument, left_out)]
        left_out.warn(argument, "name such a file on the command line if it is an image")
        if not found:
            seen = f"; left out: {left_out}" if str(left_out) else ""
            raise UsageError(f"{argument}: expected images in this folder, found none{seen}")
        paths += found
    return paths


def _check(namespace: argparse.Namespace, paths: Sequence[Path]) -> None:
    command_line.check_top_k(namespace.top_k)
    if namespace.threshold is not None and not 0 <= namespace.threshold <= 1:
        raise UsageError(f"--threshold {namespace.threshold}: expected 0 to 1")
    if namespace.output is not None:
        for path in paths:
            check_target(namespace.output, path)
    if namespace.contact_sheet is not None:
        command_line.check_sheet(namespace.contact_sheet, paths)
    if namespace.output is not None and namespace.output == namespace.contact_sheet:
        raise UsageError(
            f"--output and --contact-sheet are both {namespace.output}: name two files"
        )


@contextmanager
def _lines_to(output: Path | None) -> Iterator[Callable[[str], None]]:
    """Yield what writes a line to standard output, or to a file that appears when it is whole."""
    if output is None:
        yield command_line.say
        command_line.flush()
        return
    with (
        written_beside(output) as partial,
        partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        yield lambda line: file.writelines((line, "\n"))


def _draw(sheet: ContactSheet, seen: _Predicted) -> None:
    if isinstance(seen.result, Failure):
        sheet.add(None, seen.path.name)
        return
    ((label, probability),) = seen.result.top(1)
    sheet.add(seen.thumbnail, f"{probability:.0%}  {label}")
