"""The labels of a cell: several, as in `cat|dog` or `['cat', 'dog']`, or the name of a number.

In: the cells of the label column. Out: the labels of each, or None if each cell is one label. A
blank, or a mark such as a comma, separates labels only if the parts occur as labels of their own:
"golden retriever" is one class. If that does not decide, the table is refused.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from image_classification.errors import DataError, ListError
from image_classification.inventory.grid import read_document
from image_classification.labels.label_map import LABELS_FILE, MAX_CLASSES, LabelMap

_TAG_NAMES = {"tag", "tags"}
NO_SEPARATOR = "none"
_NAMES_CLASSES = re.compile("label|class|categ|name|map|id2|idx|ind[ei]", re.IGNORECASE)
_MOST_BYTES = 50_000_000
_MOST_FILES = 20
_log = logging.getLogger(__name__)


def split_labels(
    table: str, column: str, cells: Sequence[str], separator: str | None = None
) -> list[tuple[str, ...]] | None:
    """Return the labels of each cell; None if every cell is one label.

    Args:
        table, column: for messages.
        cells: as text, without blanks around them.
        separator: what separates labels; "none" if every cell is one label; None to decide.

    Raises:
        ListError: cells can be read in two ways.
    """
    if separator == NO_SEPARATOR:
        return None
    if separator == "":
        raise ListError(f"{table}: --label-separator: expected a text or none, got nothing")
    if separator is not None:
        mark = {"tab": "\t", "space": " ", "blank": " "}.get(separator, separator)
        return [_split(cell, mark) for cell in cells]
    if any(_is_list(cell) for cell in cells):
        return _of_lists([_listed(cell) if _is_list(cell) else _one(cell) for cell in cells])
    for mark in "|;":
        if any(mark in cell for cell in cells):
            return [_split(cell, mark) for cell in cells]
    for mark in ",+/& ":
        if _separates(table, column, set(cells), mark):
            return [_split(cell, mark) for cell in cells]
    return None


def _separates(table: str, column: str, values: set[str], mark: str) -> bool:
    """Return whether `mark` separates labels, rather than being part of their names."""
    several = {value: parts for value in values if len(parts := _split(value, mark)) > 1}
    if not several:
        return False
    alone = values - several.keys()
    found = {part for labels in several.values() for part in labels}
    if found <= alone or all(part.isdecimal() for part in found | alone):
        return True
    if mark == " " and set(re.findall(r"[^\W_]+", column.casefold())) & _TAG_NAMES:
        return True
    if not found & alone:
        orders = {frozenset(labels) for labels in several.values()}
        if len(orders) == len(several) and (mark != "," or 2 * len(found) > len(several)):
            return False
    example = min(several)
    shown = "blank" if mark == " " else mark
    raise ListError(
        f"{table}: {example!r} in column {column!r} is one class, or {len(several[example])}: "
        f"{', '.join(map(repr, several[example]))}? Choose with --label-separator none or "
        f"--label-separator {shown!r}"
    )


def _split(cell: str, mark: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in cell.split(mark) if part.strip()))


def _one(cell: str) -> tuple[str, ...]:
    return (cell,) if cell else ()


def _is_list(cell: str) -> bool:
    return cell.startswith("[") and cell.endswith("]")


def _listed(cell: str) -> tuple[str, ...]:
    """Return the items of a list as JSON, Python or NumPy write it."""
    try:
        items = json.loads(cell)
    except (ValueError, RecursionError):
        quoted = re.findall(r"'([^']*)'|\"([^\"]*)\"", cell)
        if quoted:
            return tuple(first or second for first, second in quoted)
        return tuple(part for part in re.split(r"[,\s]+", cell[1:-1].strip()) if part)
    return tuple(item if isinstance(item, str) else json.dumps(item) for item in items)


def _of_lists(lists: list[tuple[str, ...]]) -> list[tuple[str, ...]] | None:
    """Return the labels; a vector of 0 and 1 for all classes gives the numbers of its ones."""
    widths = {len(items) for items in lists}
    numbers = {item for items in lists for item in items}
    is_vector = len(widths) == 1 and numbers <= {"0", "1", "0.0", "1.0"}
    if is_vector and any(len(set(items)) < len(items) for items in lists):
        return [
            tuple(str(number) for number, item in enumerate(items) if float(item))
            for items in lists
        ]
    return [tuple(dict.fromkeys(items)) for items in lists]


def is_class_number(text: str) -> bool:
    """Return True for a whole number that can be a class."""
    return text.isdecimal() and len(text) < len(str(MAX_CLASSES))


def class_names(path: Path, root: Path, labels: set[str]) -> Mapping[str, str] | None:
    """Return number → name from the only JSON file here that names all numbers in `labels`.

    It is an object {"0": "name"} or {"name": 0}, next to the table or in the folder of images.
    """
    if not all(is_class_number(label) and str(int(label)) == label for label in labels):
        return None
    found: dict[Path, dict[str, str]] = {}
    folders = dict.fromkeys((path.parent.resolve(), root.resolve()))
    for file in (file for folder in folders for file in _json_files(folder)):
        names = _names_by_number(read_document(file), _NAMES_CLASSES.search(file.stem) is not None)
        if names is not None and labels <= names.keys():
            found[file] = names
    if len({tuple(sorted(names.items())) for names in found.values()}) > 1:
        raise ListError(
            f"{path}: {', '.join(str(file) for file in found)} name the classes differently; keep "
            "one of them, or name the classes with --labels"
        )
    for file, names in found.items():
        _log.info("%s: the classes are named by %s", path, file)
        return names
    return None


def _json_files(folder: Path) -> list[Path]:
    """Return the few JSON files of a folder; many are one per image."""
    files = [file for file in folder.glob("*.json") if file.name != LABELS_FILE]
    files = [file for file in files if file.is_file() and file.stat().st_size <= _MOST_BYTES]
    return sorted(files) if len(files) <= _MOST_FILES else []


def _names_by_number(document: object, may_be_inverse: bool) -> dict[str, str] | None:
    """Return {"0": "name"}; {"name": 0} too, unless it may be settings.

    None if two names have one number: which of them an image has is not known.
    """
    if not isinstance(document, dict) or not document:
        return None
    pairs = [(str(number), name) for number, name in document.items()]
    if may_be_inverse and all(
        isinstance(value, int) and not isinstance(value, bool) for value in document.values()
    ):
        pairs = [(str(number), name) for name, number in document.items()]
    if not all(is_class_number(number) for number, _ in pairs):
        return None
    if not all(isinstance(name, str) and name for _, name in pairs):
        return None
    names = {str(int(number)): name for number, name in pairs}  # "00" is 0
    return names if len(names) == len(pairs) == len(set(names.values())) else None


def read_class_names(path: Path) -> LabelMap:
    """Return the class names in a `labels.json`, or in a JSON file {"0": "name"} or {"name": 0}.

    Raises:
        DataError: neither, or numbers that are not 0, 1, 2, ….
    """
    names = _names_by_number(read_document(path), may_be_inverse=True) if path.is_file() else None
    if names is None:
        return LabelMap.read(path)
    numbers = sorted(map(int, names))
    if numbers != list(range(len(numbers))):
        raise DataError(
            f"{path}: expected names for the numbers 0 to {len(numbers) - 1}, got {numbers[:20]}"
        )
    return LabelMap(tuple(names[str(number)] for number in numbers))
