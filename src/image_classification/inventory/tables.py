"""Tables with the class of each image.

A table is a file of any program: see `inventory.grid` for its forms and `inventory.columns` for
the meaning of its columns.
"""

import logging
import posixpath
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from image_classification.errors import DataError, ListError
from image_classification.inventory.coco import coco_rows, is_coco
from image_classification.inventory.column_kinds import (
    BOXES,
    ColumnOptions,
    is_bits,
    key_of,
    with_header,
)
from image_classification.inventory.columns import ColumnFinder, Columns
from image_classification.inventory.grid import Grid, read_document, read_grid
from image_classification.inventory.matching import FileIndex
from image_classification.inventory.rows import (
    DROPPED,
    UNDECIDED,
    Row,
)
from image_classification.inventory.tags import (
    NO_SEPARATOR,
    class_names,
    is_class_number,
    split_labels,
)
from image_classification.labels.label_map import LabelMap, is_utf8

_YES, _NO, _UNCERTAIN = {"1", "1.0", "true"}, {"0", "0.0", "false"}, {"-1", "-1.0"}
_RANKING_COLUMNS = ("predicted_label", "uncertainty")  # of `rank --csv`
_SHOWN = 20
_UNASSIGNED = ("unassigned", "UNASSIGNED", "Unassigned")
DROP, RELABEL = "drop", "relabel"
REVIEW_COLUMNS = ("problem", "action", "was")
"""Added by `check --csv`: what is wrong with an image, what to do, the label that is to change."""

FORMULAS = tuple("=+-@＝＋－＠")
"""What begins a formula in a spreadsheet; also in the wide forms of East Asian text."""

_log = logging.getLogger(__name__)


class _Place(NamedTuple):
    """A row without its class."""

    where: str
    file: str
    split: str | None
    group: str | None

    def row(
        self, label: str, classes: tuple[str, ...] | None = None, number: int | None = None
    ) -> Row:
        """Return the row with its class, or its classes."""
        return Row(self.where, self.file, label, number, self.split, self.group, classes)


def read_table(
    path: Path, files: FileIndex, options: ColumnOptions
) -> tuple[list[Row], LabelMap | None]:
    """Return the rows of a table, and the class names that it puts in an order.

    Args:
        path: the file.
        files: the images of the folder.
        options: what the user says about the columns.

    Raises:
        ListError: the file cannot be read, a column is missing, occurs twice or can be read in
            several ways, a line has no file or no class, or text other than file names is not
            UTF-8.
    """
    if path.suffix.lower() == ".json":
        document = read_document(path)
        if is_coco(document):
            _refuse_options(path, options)
            return coco_rows(path, document)
    grid = with_header(read_grid(path), files)
    if not grid.rows and not grid.header:
        raise ListError(
            f"{path}: expected a first line that names the columns, then one line per image; the "
            "file is empty"
        )
    if not grid.rows:
        raise ListError(f"{path}: expected one line per image, found none")
    columns = ColumnFinder(grid, files, options).find()
    if is_review(grid.header):
        grid = _reviewed(grid, columns, files)
        if columns.labels and grid.name(columns.labels[0]) == "label" and not options.separator:
            options = replace(options, separator=NO_SEPARATOR)  # a name may contain any sign
    if is_review(grid.header) or set(_RANKING_COLUMNS) <= set(grid.header or ()):
        grid = _with_given_labels(grid, columns)
    _log.info("%s: %s", path, _described(grid, columns))
    _warn_of_boxes(grid)
    return _rows(grid, columns, options, files)


def is_review(header: Sequence[str] | None) -> bool:
    """Return True for the header of such a list."""
    return set(REVIEW_COLUMNS) <= set(header or ())


def shown_path(path: str) -> str:
    """Return a path for a list that people open: a spreadsheet would compute `=a.jpg`."""
    return f"./{path}" if path.startswith(FORMULAS) else path


def shown_label(name: str) -> str:
    """Return a class name for such a list: an apostrophe precedes a formula, as OWASP advises."""
    return f"'{name}" if name.lstrip("'").startswith(FORMULAS) else name


def _with_given_labels(grid: Grid, columns: Columns) -> Grid:
    """Return the rows with the class names that `shown_label` has got."""
    if not any(cell.startswith("'") for p in columns.labels for cell in grid.column(p)):
        return grid
    rows = [list(row) for row in grid.rows]
    for row in rows:
        for position in columns.labels:
            if position < len(row) and row[position].lstrip("'").startswith(FORMULAS):
                row[position] = row[position].removeprefix("'")
    return replace(grid, rows=rows)


def _reviewed(grid: Grid, columns: Columns, files: FileIndex) -> Grid:
    """Return the rows that a list of `check --csv` keeps; the files of the others are left out."""
    places = {name: grid.column((grid.header or ()).index(name)) for name in REVIEW_COLUMNS}
    kept = []
    for number, row in enumerate(grid.rows):
        action = places["action"][number].strip().casefold()
        label = " ".join(row[position].strip() for position in columns.labels)
        if action not in ("", DROP, RELABEL):
            raise ListError(
                f"{grid.where(number)}: expected {DROP}, {RELABEL} or nothing in the column "
                f"action, got {action!r}"
            )
        if action == DROP:
            reason = DROPPED
        elif action == RELABEL and label in ("", places["was"][number].strip()):
            reason = UNDECIDED
        else:
            kept.append(number)
            continue
        path = files.find(grid.where(number), row[columns.file])
        files.paths.discard(path)
        files.left_out.add(reason, path)
    if not kept:
        raise ListError(
            f"{grid.path}: expected images to use, but each line says {DROP}, or {RELABEL} with "
            "the old label; change the column action or label"
        )
    rows, where = [grid.rows[i] for i in kept], [grid.places[i] for i in kept]
    return replace(grid, rows=rows, places=where)


def _refuse_options(path: Path, options: ColumnOptions) -> None:
    given = options.flags() + ([("--group-by", options.group)] if options.group else [])
    if given:
        flag, value = given[0]
        raise ListError(f"{path}: COCO annotations have no columns; leave out {flag} {value}")


def _warn_of_boxes(grid: Grid) -> None:
    """Warn of lists of boxes: the classes of the objects in an image become its classes."""
    for position, name in enumerate(grid.header or ()):
        inner = key_of(name.rpartition(".")[2])
        if inner in BOXES and any(cell.startswith("[") for cell in grid.column(position)):
            _log.warning(
                "%s: column %r has boxes, as for object detection, which are not used: the classes "
                "of the objects in an image are its classes",
                grid.path,
                name,
            )
            return


def _described(grid: Grid, columns: Columns) -> str:
    labels = ", ".join(repr(grid.name(position)) for position in columns.labels[:_SHOWN])
    word = "column" if len(columns.labels) == 1 else "columns"
    text = f"files from column {grid.name(columns.file)!r}, classes from "
    text += f"{word} {labels}" if labels else "their folders"
    if columns.split is not None:
        text += f", splits from {grid.name(columns.split)!r}"
    return text


def _rows(
    grid: Grid, columns: Columns, options: ColumnOptions, index: FileIndex
) -> tuple[list[Row], LabelMap | None]:
    places, root = _places(grid, columns, index), index.root
    if not columns.labels:
        return _rows_by_folder(grid, columns, places), None
    several: list[tuple[str, ...]]
    if len(columns.labels) > 1:
        names = [grid.name(position) for position in columns.labels]
        cells = [grid.column(position) for position in columns.labels]
        if all(is_bits(column) for column in cells):
            return _rows_of_bits(grid, places, names, cells)
        several = [_unique(row) for row in zip(*cells, strict=True)]
    elif columns.rest_are_labels:
        first = columns.labels[0]
        several = [_unique(row[first:]) for row in grid.rows]
        if max(map(len, several)) < 2:  # images without a label, not with none of the labels
            labels = [classes[0] if classes else "" for classes in several]
            return _rows_of_one(grid, columns, places, labels, root)
    else:
        position = columns.labels[0]
        labels = [cell.strip() for cell in grid.column(position)]
        found = split_labels(str(grid.path), grid.name(position), labels, options.separator)
        if found is None:
            return _rows_of_one(grid, columns, places, labels, root)
        several = found
    if all(len(classes) == 1 for classes in several):
        return _rows_of_one(grid, columns, places, [classes[0] for classes in several], root)
    _check_texts(grid, "label", ["|".join(classes) for classes in several])
    return _rows_of_several(grid.path, places, several), None


def _rows_by_folder(grid: Grid, columns: Columns, places: Sequence[_Place]) -> list[Row]:
    """Return rows whose classes are the folders of their files."""
    rows = []
    for number, (place, file) in enumerate(zip(places, grid.column(columns.file), strict=True)):
        label = posixpath.basename(posixpath.dirname(file.strip().replace("\\", "/")))
        if not label:
            raise ListError(
                f"{grid.where(number)}: there is no column for the class, and {file!r} has no "
                "folder that names it; add a column, or write the files as class/file"
            )
        rows.append(place.row(label))
    _check_texts(grid, "label", [row.label for row in rows])
    return rows


def _unique(cells: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(cell.strip() for cell in cells if cell.strip()))


def _places(grid: Grid, columns: Columns, index: FileIndex) -> list[_Place]:
    """Return file, split and group of every row."""
    files = [
        file if file in index.paths else file.strip()  # a name may have blanks at its ends
        for file in grid.column(columns.file)
    ]
    if not all(files):
        where = grid.where(files.index(""))
        raise ListError(f"{where}: the file is empty; fill it in or remove the line")
    splits = _cells(grid, "split", columns.split)
    groups = _cells(grid, "group", columns.group)
    if columns.group is not None and not all(groups):
        where = grid.where(groups.index(""))
        raise ListError(f"{where}: the group is empty; every line needs one, alone or shared")
    return [
        _Place(grid.where(number), file, "" if split in _UNASSIGNED else split, group)
        for number, (file, split, group) in enumerate(zip(files, splits, groups, strict=True))
    ]


def _cells(grid: Grid, meaning: str, position: int | None) -> Sequence[str | None]:
    """Return the cells of a column; None for each row if there is no such column."""
    if position is None:
        return [None] * len(grid.rows)
    cells = [cell.strip() for cell in grid.column(position)]
    _check_texts(grid, meaning, cells)
    return cells


def _check_texts(grid: Grid, meaning: str, cells: Sequence[str]) -> None:
    """Refuse text that is not UTF-8; the names of files are bytes to the system."""
    wrong = {cell for cell in set(cells) if not is_utf8(cell)}
    for number, cell in enumerate(cells if wrong else ()):
        if cell in wrong:
            raise ListError(
                f"{grid.where(number)}: the {meaning} {cell!a} is not UTF-8 (possibly Latin-1); "
                "open the table in the program that wrote it and save it as UTF-8"
            )


def _rows_of_one(
    grid: Grid, columns: Columns, places: Sequence[_Place], labels: Sequence[str], root: Path
) -> tuple[list[Row], LabelMap | None]:
    """Return rows with one class each; numbers get their names from a column or a JSON file."""
    for empty in ("", "nan", "NaN"):
        if empty in labels:
            shown = f"{empty!r}, which stands for nothing" if empty else "empty"
            where = grid.where(labels.index(empty))
            raise ListError(f"{where}: the label is {shown}; fill it in or remove the line")
    _check_texts(grid, "label", labels)
    if columns.name is not None:
        names = [cell.strip() for cell in grid.column(columns.name)]
        rows = []
        for place, label, name in zip(places, labels, names, strict=True):
            has_both = bool(name) and is_class_number(label)
            rows.append(place.row(name, number=int(label)) if has_both else place.row(label))
        return rows, None
    by_number = class_names(grid.path, root, set(labels))
    if by_number is None:
        return [place.row(label) for place, label in zip(places, labels, strict=True)], None
    rows = [
        place.row(by_number[label], number=int(label))
        for place, label in zip(places, labels, strict=True)
    ]
    ordered = sorted(by_number, key=int)
    if [int(number) for number in ordered] != list(range(len(ordered))):
        return [
            place.row(by_number[label]) for place, label in zip(places, labels, strict=True)
        ], None
    return rows, LabelMap(tuple(by_number[number] for number in ordered))


def _rows_of_bits(
    grid: Grid, places: Sequence[_Place], names: Sequence[str], columns: Sequence[Sequence[str]]
) -> tuple[list[Row], LabelMap]:
    """Return rows of one column of 0 and 1 per class.

    If every row has a single 1, images have one class. An empty cell counts as 0. So does −1,
    uncertain, unless −1 is the only other value: then it is the 0.
    """
    if not all(names):
        raise ListError(f"{grid.path}: a column of 0 and 1 has no name; name it, or remove it")
    values = [[cell.strip().casefold() for cell in column] for column in columns]
    seen = {cell for column in values for cell in column}
    uncertain = sum(cell in _UNCERTAIN for column in values for cell in column)
    if uncertain and seen & (_NO | {"", "nan"}):
        _log.warning(
            "%s: %d cells are -1 (uncertain) and count as 0; replace them by 1 in the table for "
            "the other reading",
            grid.path,
            uncertain,
        )
    try:
        labels = LabelMap(tuple(names))
    except DataError as error:
        raise ListError(f"{grid.path}: {error}; rename the columns") from error
    present = [
        tuple(name for name, cell in zip(names, row, strict=True) if cell in _YES)
        for row in zip(*values, strict=True)
    ]
    if all(len(classes) == 1 for classes in present):
        return [place.row(found[0]) for place, found in zip(places, present, strict=True)], labels
    return _rows_of_several(grid.path, places, present), labels


def _rows_of_several(
    path: Path, places: Sequence[_Place], classes: Sequence[tuple[str, ...]]
) -> list[Row]:
    without = sum(not found for found in classes)
    _log.info("%s: images can have several classes; %d have none", path, without)
    return [place.row("|".join(found), found) for place, found in zip(places, classes, strict=True)]
