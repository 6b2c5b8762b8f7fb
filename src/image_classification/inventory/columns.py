"""Decides what the columns of a table mean: by their names, else by what is in them.

In: a `Grid`, the files of the folder and the user's choice. Out: the positions of the columns. The
file is the column whose cells name files that exist. The class is the column with a usual name,
else the columns of 0 and 1, else the only column whose few values repeat. If two readings are
possible, the table is refused, and the message names the flags that decide.
"""

import logging
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NoReturn

from image_classification.errors import ListError
from image_classification.inventory import column_kinds
from image_classification.inventory.column_kinds import ColumnOptions
from image_classification.inventory.grid import IMAGE_NAME, Grid
from image_classification.inventory.matching import FileIndex

_SMALL = 4  # rows, below which different values in every row say nothing
_SAMPLED = 2000  # rows that are looked up
_SHOWN = 8
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Columns:
    """The positions of the columns.

    Attributes:
        file: of the file.
        labels: of the class; several for one column of 0 and 1 per class; none if the classes are
            the folders of the files.
        name: of the class name, if `labels` is its number.
        split: of the split.
        group: of the group.
        rest_are_labels: whether each row ends with any number of labels, from `labels` on.
    """

    file: int
    labels: Sequence[int]
    name: int | None = None
    split: int | None = None
    group: int | None = None
    rest_are_labels: bool = False


class ColumnFinder:
    """Finds the columns of one table.

    Args:
        grid: the table, with its header if it has one.
        files: the images of the folder.
        options: what the user says.
    """

    def __init__(self, grid: Grid, files: FileIndex, options: ColumnOptions) -> None:
        self._grid, self._files, self._options = grid, files, options
        self._keys = [column_kinds.key_of(name) for name in grid.header or [""] * grid.width]
        self._cells: dict[int, list[str]] = {}
        self._divisions: dict[int, bytes] = {}

    def find(self) -> Columns:
        """Return the columns.

        Raises:
            ListError: a column is missing or occurs twice, or several readings are possible.
        """
        options = self._options
        if not self._grid.header and len({len(row) for row in self._grid.rows}) > 1:
            return self._ragged()
        group = self._named(options.group, "--group-by") if options.group else None
        if group is None:
            group = self._first(column_kinds.GROUPS)
        labels = self._chosen_labels()
        file = self._file({*labels, group})
        split = self._split({file, *labels, group})
        if not labels:
            labels = self._labels(file, {file, split, group})
        name = self._name_column(labels)
        for position in (file, *labels, name, split, group):
            self._refuse_repeated(position)
        return Columns(file, labels, name, split, group)

    # ---- what the user says

    def _named(self, name: str, flag: str) -> int:
        for position, key in enumerate(self._keys):
            if self._grid.header and (
                self._grid.header[position] == name or key == column_kinds.key_of(name)
            ):
                return position
        if name.strip().isdecimal() and 1 <= int(name) <= self._grid.width:
            return int(name) - 1
        if flag == "--group-by":
            raise ListError(
                f"{self._grid.path}: no column {name!r} to group by; it has {self._shown_names()}"
            )
        raise ListError(
            f"{self._grid.path}: no column {name!r}, as {flag} says; it has {self._shown_names()}"
        )

    def _chosen_labels(self) -> tuple[int, ...]:
        text = self._options.label
        if text is None:
            return ()
        header = [name.casefold() for name in self._grid.header or ()]
        if text.casefold() in header or "," not in text:
            return (self._named(text, "--label-column"),)
        return tuple(self._named(part.strip(), "--label-column") for part in text.split(","))

    # ---- the file

    def _file(self, taken: set[int | None]) -> int:
        if self._options.file is not None:
            return self._named(self._options.file, "--file-column")
        usual = [p for name in column_kinds.FILES for p in self._positions(name) if p not in taken]
        found = {p: self._files_named(p) for p in range(self._grid.width) if p not in taken}
        most = max(found.values(), default=0)
        if most:
            best = [p for p in found if 2 * found[p] > most]
            if len({tuple(column_kinds.stems(self._column(p))) for p in best}) == 1:
                paths = [p for p in best if column_kinds.has_paths(self._column(p))]
                best = (paths or best)[:1]
            for position in [p for p in usual if p in best] or best[: len(best) == 1]:
                return position
            self._refuse_several("hold names of files in " + str(self._files.root), best, "file")
        if usual:
            return usual[0]
        paths = [p for p in found if column_kinds.has_paths(self._column(p))]
        if len(paths) == 1:
            return paths[0]
        missing = "missing file: one of " + ", ".join(column_kinds.FILES[:6])
        raise ListError(
            f"{self._grid.path}: expected a first line that names the columns file and label, or a "
            f"column that names files in {self._files.root}; got {self._shown_names()} and, for "
            f"example, {self._example()}; {missing}; choose with --file-column and --label-column"
        )

    def _files_named(self, position: int) -> int:
        """Return how many different files a sample of the column names."""
        cells = self._column(position)
        step = max(1, len(cells) // _SAMPLED)
        return sum(map(self._files.holds, {cell for cell in cells[::step] if cell}))

    # ---- the split

    def _split(self, taken: set[int | None]) -> int | None:
        text = self._options.split
        if text is not None:
            return (
                None
                if text.casefold() == column_kinds.NONE
                else self._named(text, "--split-column")
            )
        usual = self._first(column_kinds.SPLITS)
        if usual is not None and usual not in taken:
            return usual
        for position in range(self._grid.width):
            cells = {cell.casefold() for cell in self._column(position)}
            is_usual = self._keys[position].endswith(column_kinds.MORE_SPLITS)
            if (
                position not in taken
                and cells <= column_kinds.SPLIT_CELLS
                and (is_usual or len(cells) > 1)
            ):
                return position
        return None

    # ---- the class

    def _labels(self, file: int, taken: set[int | None]) -> tuple[int, ...]:
        free = [p for p in range(self._grid.width) if p not in taken]
        if not free and any("/" in cell.strip("/") for cell in self._column(file)):
            return ()
        usual = self._usual_label(free)
        if usual is not None:
            return (usual,)
        bits = [p for p in free if self._keys[p] != "" or not self._grid.header]
        bits = [p for p in bits if column_kinds.is_bits(self._column(p))]
        columns = [p for p in bits if not self._is_flag(p)]
        one = [p for p in free if p not in bits and self._may_be_class(p)]
        telling = [p for p in one if not self._is_description(p)]
        if len(bits) > 1:
            if telling:
                self._refuse_two_readings(bits, telling)
            if columns and len(columns) < len(bits):
                self._refuse_two_readings(bits, columns)
            return tuple(bits)
        telling += columns
        if len(telling) == 1:
            return (telling[0],)
        if len(telling) > 1:
            telling = self._without_synonyms(telling)
            if len(telling) == 1:
                return (telling[0],)
            self._refuse_several("could be the class", telling, "label")
        if len(free) == 1 and self._is_class_by_exclusion(free[0]):
            return (free[0],)
        seen = self._shown(one or free) if one or free else "no other column"
        expected = ", ".join((*column_kinds.LABELS[0][:4], *column_kinds.LABELS[1][:2]))
        raise ListError(
            f"{self._grid.path}: expected a first line that names the columns file and label, got "
            f"{self._shown_names()}; missing label: one of {expected}, …, or columns of 0 and 1, "
            f"or one column whose few values repeat; there is {seen}; name the class with "
            "--label-column"
        )

    def _usual_label(self, free: Sequence[int]) -> int | None:
        """Return the column with a usual name of the class; the others are reported."""
        rows = [
            [p for name in names for p in self._positions(name)] for names in column_kinds.LABELS
        ]
        words = [
            p
            for p, name in enumerate(self._grid.header or ())
            if column_kinds.LABEL_WORDS & set(column_kinds.words_of(name))
            and not self._is_description(p)
        ]
        others = [p for row in (*rows, words) for p in row if p in free]
        for number, row in enumerate((*rows, words)):
            found = list(dict.fromkeys(p for p in row if p in free))
            if number and len(found) > 1:
                found = self._without_synonyms([p for p in found if self._is_telling(p)] or found)
                if len(found) > 1:
                    self._refuse_several("could be the class", found, "label")
            if found:
                bits = [
                    p for p in free if p not in others and column_kinds.is_bits(self._column(p))
                ]
                if number and column_kinds.is_bits(self._column(found[0])) and len(bits) > 1:
                    self._refuse_two_readings([found[0], *bits], [found[0]])
                chosen = self._better_synonym(found[0], others)
                telling = [p for p in free if self._may_be_class(p) and not self._is_description(p)]
                rest = [
                    p
                    for p in dict.fromkeys([*others, *telling])
                    if p != chosen and self._is_telling(p) and not self._same_classes(chosen, p)
                ]
                if rest and self._keys[chosen] not in column_kinds.CLASS_NAMES:
                    _log.warning(
                        "%s: the classes are those of column %r, not of %s; --label-column decides",
                        self._grid.path,
                        self._grid.name(chosen),
                        self._shown(rest),
                    )
                return chosen
        return None

    def _better_synonym(self, chosen: int, others: Sequence[int]) -> int:
        """Return names in place of a vector or list that says the same."""
        if not any(cell.startswith("[") for cell in self._column(chosen)[:1]):
            return chosen
        for other in others:
            if other != chosen and self._same_classes(chosen, other):
                return other
        return chosen

    def _without_synonyms(self, found: list[int]) -> list[int]:
        """Keep one of columns with the same classes: names rather than numbers."""
        kept: dict[bytes, int] = {}
        for position in sorted(found, key=lambda p: column_kinds.is_number(self._column(p))):
            kept.setdefault(self._division(position), position)
        return list(kept.values())

    def _same_classes(self, one: int, other: int) -> bool:
        """Return True if the columns divide the rows in the same way."""
        return self._division(one) == self._division(other)

    def _division(self, position: int) -> bytes:
        """Return a digest of which rows have equal cells; comparing columns takes no reading."""
        if position not in self._divisions:
            numbers: dict[str, int] = {}
            rows = [numbers.setdefault(cell, len(numbers)) for cell in self._column(position)]
            self._divisions[position] = sha256(array("q", rows)).digest()
        return self._divisions[position]

    def _name_column(self, labels: Sequence[int]) -> int | None:
        if len(labels) != 1 or self._keys[labels[0]] in column_kinds.CLASS_NAMES:
            return None
        position = self._first(column_kinds.CLASS_NAMES)
        return None if position in labels else position

    def _may_be_class(self, position: int) -> bool:
        """Return True if a few values repeat."""
        cells = [cell for cell in self._column(position) if cell]
        if len(cells) < len(self._grid.rows) or column_kinds.is_measure(self._column(position)):
            return False
        return 2 <= len(set(cells)) <= max(len(cells) // 2, len(cells) - 1 if len(cells) < 8 else 0)

    def _is_telling(self, position: int) -> bool:
        """Return True for several values that are no fractions."""
        cells = self._column(position)
        return len(set(cells)) > 1 and not column_kinds.is_measure(cells)

    def _is_class_by_exclusion(self, position: int) -> bool:
        """Return True if the only column besides the file can hold the class."""
        if self._grid.header and self._is_description(position):
            return self._keys[position] == "id" and self._repeats(position)
        cells = self._column(position)
        is_small = len(cells) < _SMALL
        return (is_small or self._repeats(position)) and not column_kinds.is_measure(cells)

    def _repeats(self, position: int) -> bool:
        cells = self._column(position)
        return len(set(cells)) < len(cells)

    def _is_description(self, position: int) -> bool:
        if not self._grid.header:
            return False
        return column_kinds.is_description(self._grid.header[position])

    def _is_flag(self, position: int) -> bool:
        return bool(self._grid.header) and column_kinds.is_flag(self._grid.name(position))

    # ---- lines of unequal length

    def _ragged(self) -> Columns:
        """Return the columns of lines `[split,] file, label, …` without a header."""
        grid = self._grid
        first = self._column(0)
        has_split = {cell.casefold() for cell in first} <= column_kinds.SPLIT_CELLS
        file = int(has_split)
        cells = [cell for cell in self._column(file) if cell]
        are_files = all(
            IMAGE_NAME.search(cell) or "://" in cell or self._files.holds(cell) for cell in cells
        )
        if not are_files or len(cells) < len(grid.rows):
            widths = sorted({len(row) for row in grid.rows})
            row = next(i for i, r in enumerate(grid.rows) if len(r) != len(grid.rows[0]))
            raise ListError(
                f"{grid.where(row)}: expected {len(grid.rows[0])} fields as in the first line, got "
                f"{len(grid.rows[row])} (there are lines of {widths[0]} to {widths[-1]}); quote a "
                "field that contains the separator"
            )
        return Columns(file, (file + 1,), None, 0 if has_split else None, None, True)

    # ---- messages

    def _positions(self, key: str) -> list[int]:
        return [p for p, other in enumerate(self._keys) if other == key] if key else []

    def _first(self, names: Sequence[str]) -> int | None:
        return next((p for name in names for p in self._positions(name)), None)

    def _column(self, position: int) -> list[str]:
        if position not in self._cells:
            self._cells[position] = [cell.strip() for cell in self._grid.column(position)]
        return self._cells[position]

    def _refuse_repeated(self, position: int | None) -> None:
        if position is None or not self._grid.header:
            return
        name = self._grid.header[position]
        alike = [other for other in self._grid.header if other.casefold() == name.casefold()]
        if len(alike) > 1:
            raise ListError(
                f"{self._grid.path}: the first line has {len(alike)} columns named "
                f"{name.lower()!r}; rename all but one of them"
            )

    def _refuse_two_readings(self, columns: Sequence[int], others: Sequence[int]) -> NoReturn:
        several = ",".join(self._grid.name(p) for p in columns)
        choice = others if set(others) < set(columns) else others[:1]
        single = ",".join(self._grid.name(p) for p in choice)
        raise ListError(
            f"{self._grid.path}: two readings are possible: one column of 0 and 1 per class "
            f"(--label-column {several!r}), or the class is in {self._shown(others)} "
            f"(--label-column {single!r}); choose one"
        )

    def _refuse_several(self, what: str, positions: Sequence[int], meaning: str) -> NoReturn:
        names = self._shown(positions)
        flag = f"--{meaning}-column"
        raise ListError(
            f"{self._grid.path}: several columns {what}: {names}; choose one, for example with "
            f"{flag} {self._grid.name(positions[0])!r}"
        )

    def _shown(self, positions: Sequence[int]) -> str:
        shown = [
            f"{self._grid.name(p)!r} ({len(set(self._column(p)))} values)"
            for p in positions[:_SHOWN]
        ]
        more = f" and {len(positions) - _SHOWN} more" if len(positions) > _SHOWN else ""
        return ", ".join(shown) + more

    def _shown_names(self) -> str:
        if self._grid.header:
            return str(list(self._grid.header[:10]))
        return f"{self._grid.width} columns without names, such as {list(self._grid.rows[0][:10])}"

    def _example(self) -> str:
        return str([cell[:60] for cell in self._grid.rows[0][:10]]) if self._grid.rows else "no row"
