"""Several labels in one cell: `cat|dog`, `cat dog`, `['cat', 'dog']`.

In: the cells of the label column. Out: the labels of each, or None if each cell is one label. A
blank or a comma separates labels only if the parts occur as labels of their own: "golden
retriever" is one class. If that does not decide, the table is refused.
"""

import json
import re
from collections.abc import Sequence

from image_classification.errors import ListError

_TAG_NAMES = {"tag", "tags"}
NO_SEPARATOR = "none"


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
    for mark in ", ":
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
        if len(orders) == len(several) and (mark == " " or 2 * len(found) > len(several)):
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
