"""The table of all predictions on labeled images, a CSV that spreadsheets open safely.

In: the outcomes of a model on labeled images. Out: one line for each image, with the class in the
data, the class and the probability of the model, and the probabilities of the classes.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from image_classification.errors import UsageError
from image_classification.files import check_writable, check_writable_folder, written_beside
from image_classification.inventory.tables import FORMULAS
from image_classification.samples import THRESHOLD, Array, FloatArray
from image_classification.training.evaluation import Outcomes, pieces

PREDICTIONS_FILE = "predictions.csv"
"""Its usual name."""

REPORT_FILES = ("report.html", PREDICTIONS_FILE)
"""What the folder of a report holds."""

_COLUMNS = ("file", "label", "predicted", "probability", "correct")
_MARK = b"Evaluation report"  # near the beginning of the page
_ALL_CLASSES, _TOP_CLASSES = 1000, 5


def check_predictions_file(path: Path, *, overwrites: bool) -> None:
    """Raise an error if the table must not be written to `path`.

    Raises:
        DataError: no file can be written there.
        UsageError: it exists and must not be replaced, or it is not a table of predictions.
    """
    check_writable(path)
    if not path.exists():
        return
    if not overwrites:
        raise UsageError(
            f"{path} exists: name another file, or replace it with --overwrite (overwrite=True in "
            "Python)"
        )
    with path.open("rb") as existing:
        first = existing.readline(4096)
    if first and not first.startswith(",".join(_COLUMNS).encode()):
        raise UsageError(f"{path} exists and is not a table of predictions: name another file")


def check_report_folder(folder: Path, *, overwrites: bool) -> None:
    """Raise an error if a report must not be written to `folder`.

    It must be absent or empty, or hold nothing but an earlier report that may be replaced.

    Raises:
        DataError: no file can be written there.
        UsageError: it holds something else, or may not be replaced.
    """
    if folder.is_file():
        raise UsageError(f"{folder}: expected a folder for the report, got a file")
    check_writable_folder(folder)
    if not folder.exists():
        return
    found = sorted(path.name for path in folder.iterdir())
    if not found:
        return
    others = [name for name in found if name not in REPORT_FILES]
    page = folder / REPORT_FILES[0]
    if page.is_file() and not others:
        with page.open("rb") as file:
            others = [] if _MARK in file.read(1 << 16) else [page.name]
    if others:
        raise UsageError(
            f"{folder} holds {others[0]!r}, which is not of an earlier report: name a folder that "
            "is empty or does not exist"
        )
    if not overwrites:
        raise UsageError(
            f"{folder} is not empty: name another folder, or replace the report in it with "
            "--overwrite (overwrite=True in Python)"
        )
    check_predictions_file(folder / PREDICTIONS_FILE, overwrites=True)


def write_predictions(path: Path, outcomes: Outcomes, names: Sequence[str]) -> None:
    """Write the table, whole or not at all.

    Its columns are `file` (the key of the image), `label`, `predicted`, `probability` (of the
    predicted class), `correct` (1 or 0), and one for each class, `p(<name>)`; above 1,000 classes
    `label_1`, `probability_1` to `label_5`, `probability_5` instead. Several classes of an image
    are joined by `|`; then `predicted` has those from a probability of 0.5 on, and the image is
    correct if these are all its classes.

    A text that a spreadsheet would compute as a formula begins with an apostrophe. Bytes that are
    not UTF-8 and control characters are escaped.
    """
    is_whole = len(names) <= _ALL_CLASSES
    columns = [f"p({name})" for name in names]
    if not is_whole:
        ranks = range(1, _TOP_CLASSES + 1)
        columns = [f"{column}_{rank}" for rank in ranks for column in ("label", "probability")]
    with (
        written_beside(path) as partial,
        partial.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([safe_cell(column) for column in (*_COLUMNS, *columns)])
        for key, target, row in _rows(outcomes):
            cells = _numbers(row) if is_whole else _top(row, names)
            writer.writerow([safe_cell(key), *_answer(target, row, names), *cells])


def safe_cell(text: str) -> str:
    """Return a text that a spreadsheet shows and does not compute, on one line, in UTF-8.

    Source: OWASP, CSV Injection: an apostrophe before =, +, -, @, a tab or a line break. Control
    characters are escaped here, so that none of them begins a cell.
    """
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if not text.isprintable():
        text = "".join(
            character
            if character.isprintable()
            else character.encode("unicode_escape").decode("ascii")
            for character in text
        )
    return f"'{text}" if text.startswith(FORMULAS) else text


def _rows(outcomes: Outcomes) -> Iterator[tuple[str, Array, FloatArray]]:
    for which, piece in pieces(outcomes.probabilities):
        yield from zip(outcomes.keys[which], outcomes.targets[which], piece, strict=True)


def _answer(target: Array, row: FloatArray, names: Sequence[str]) -> list[object]:
    best = int(row.argmax())
    probability = _numbers(row[best : best + 1])
    if np.ndim(target):
        own, predicted = np.flatnonzero(target), np.flatnonzero(row >= THRESHOLD)
        texts = ("|".join(names[i] for i in found) for found in (own, predicted))
        return [*map(safe_cell, texts), *probability, int(np.array_equal(own, predicted))]
    label, predicted_label = safe_cell(names[int(target)]), safe_cell(names[best])
    return [label, predicted_label, *probability, int(best == target)]


def _top(row: FloatArray, names: Sequence[str]) -> list[object]:
    order = np.argsort(-row, kind="stable")[:_TOP_CLASSES].tolist()
    return [cell for i in order for cell in (safe_cell(names[i]), *_numbers(row[i : i + 1]))]


def _numbers(row: FloatArray) -> list[object]:
    """Return probabilities with the nine digits that tell any two float32 apart."""
    return [float(f"{value:.9g}") for value in row.tolist()]
