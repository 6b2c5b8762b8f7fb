"""From the rows of a list to an inventory: files are found, classes are numbered.

In: the rows of a list, a table or a manifest, and the folder of images. Out: an `Inventory` in the
order of the rows.
"""

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from image_classification.errors import ListError
from image_classification.labels.label_map import LabelMap
from image_classification.labels.lists import ListEntry, is_unlistable
from image_classification.labels.tree import LeftOut, find_images
from image_classification.samples import IntArray

UNLISTED = "images that the list does not name"
REPEATED = "lines that repeat another"
SPLITS = ("train", "validation", "test")
_log = logging.getLogger(__name__)

_SPLIT_NAMES = {
    "train": ("train", "training", "tr"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class Inventory:
    """Every image of an input, with its class, split and group.

    Attributes:
        name: the input, for messages.
        root: the folder that the entries' paths are relative to.
        entries: one label each, the class index; ids are unique.
        labels: the class names.
        splits: the split of each entry; empty if the input names none.
        groups: the group of each entry; empty if there are none.
        left_out: (what, how many, one example) of files in the folder that are not in the entries.
    """

    name: str
    root: Path
    entries: Sequence[ListEntry]
    labels: LabelMap
    splits: Sequence[str] = ()
    groups: Sequence[str] = ()
    left_out: Sequence[tuple[str, int, str]] = field(default=())

    @property
    def class_indices(self) -> IntArray:
        """int64 (entries,)."""
        return np.array([int(entry.labels[0]) for entry in self.entries], np.int64)


def split_named(name: str) -> str | None:
    """Return the split that a folder or a cell names (`val` is validation), or None."""
    lowered = name.strip().lower()
    return next((split for split, names in _SPLIT_NAMES.items() if lowered in names), None)


@dataclass(frozen=True)
class Row:
    """One image in a list.

    Attributes:
        where: file and line, for messages.
        file: path, or the file name or its stem.
        label: the class name, or the class number as text.
        number: the class number if the list has both.
        split: as it stands in the list; None if the list has no splits.
        group: likewise.
    """

    where: str
    file: str
    label: str
    number: int | None = None
    split: str | None = None
    group: str | None = None

    def described(self) -> str:
        """Return class and split, for messages."""
        return repr(self.label) + (f" in {self.split!r}" if self.split else "")


def assemble(
    root: Path, listing: Path, rows: Sequence[Row], labels: LabelMap | None = None
) -> Inventory:
    """Find the files of `rows` below `root` and number their classes.

    Class names are sorted (numbers by value), unless `labels` or a `labels.json` next to the list
    gives their order, or the list gives each name its number. A missing file keeps its row: it is
    reported with the unreadable images.

    Raises:
        ListError: no row, an ambiguous file, one file with two classes, an unknown split.
        DataError: a class that is not in the given label map.
    """
    if not rows:
        raise ListError(f"{listing}: expected one line per image, found none")
    paths, left_out = find_files(root, listing, rows)
    kept: dict[str, Row] = {}
    for row, path in zip(rows, paths, strict=True):
        earlier = kept.setdefault(path, row)
        if earlier is row:
            continue
        if (earlier.label, earlier.split) != (row.label, row.split):
            raise ListError(
                f"{row.where}: {path} is {row.described()}, but {earlier.described()} in "
                f"{earlier.where}; keep one of the lines"
            )
        left_out.add(REPEATED, row.where)
    labels = labels or LabelMap.beside(listing) or _labels_of(list(kept.values()))
    entries = [
        ListEntry(i, (float(_class_index(row, labels)),), path)
        for i, (path, row) in enumerate(kept.items())
    ]
    left_out.warn(root, f"only the images in {listing.name} are used")
    return Inventory(
        f"{root} by {listing}",
        root,
        entries,
        labels,
        _splits(list(kept.values())),
        _groups(list(kept.values())),
        left_out.reasons(),
    )


def _class_index(row: Row, labels: LabelMap) -> int:
    """Return the row's class: by its number if it has no name of its own, else by its name."""
    if row.number is None or (row.label == str(row.number) and row.label in labels.names):
        return labels.index(row.label)
    index = row.number if row.label == str(row.number) else labels.index(row.label)
    if index != row.number or index >= len(labels):
        theirs = labels.names[row.number] if row.number < len(labels) else "not among the labels"
        raise ListError(
            f"{row.where}: {row.described()}, but class {row.number} is {theirs!r} in the given "
            "labels or in those next to the list; use the labels that the list was made with"
        )
    return index


def find_files(root: Path, listing: Path, rows: Sequence[Row]) -> tuple[list[str], LeftOut]:
    """Return the path below `root` of each row's file, and the files that are left out.

    A missing file keeps the path of its row.

    Raises:
        ListError: a name that fits several files, or that a list cannot hold.
    """
    left_out = LeftOut(listing)
    files = _Files(find_images(root, left_out))
    paths = [files.find(row) for row in rows]
    for row, path in zip(rows, paths, strict=True):
        if is_unlistable(path):
            raise ListError(f"{row.where}: a name must not contain a TAB or line break: {path!r}")
    for path in sorted(files.paths.difference(paths)):
        left_out.add(UNLISTED, path)
    return paths, left_out


class _Files:
    """Finds a list's files: by their path, else by their name or stem anywhere below."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = set(paths)
        self._by_name: dict[str, list[str]] = {}
        for path in paths:
            for name in {os.path.basename(path), os.path.splitext(os.path.basename(path))[0]}:
                self._by_name.setdefault(name, []).append(path)

    def find(self, row: Row) -> str:
        wanted = row.file.strip().replace("\\", "/").removeprefix("./")
        parts = PurePosixPath(wanted).parts
        # A path may begin above the folder, as in a URI or a hand-made list: try the longest tail.
        for start in range(len(parts)):
            tail = "/".join(parts[start:])
            if tail in self.paths:
                return tail
        found = self._by_name.get(parts[-1] if parts else "", [])
        if len(found) > 1:
            raise ListError(
                f"{row.where}: {row.file!r} could be any of {', '.join(sorted(found)[:5])}; give "
                "the path below the folder of images"
            )
        return found[0] if found else wanted


def _labels_of(rows: Sequence[Row]) -> LabelMap:
    numbers: dict[int, str] = {}
    for row in rows:
        if row.number is None:
            names = {row.label for row in rows}
            _warn_of_equal_numbers(row.where, names)
            are_numbers = all(name.isdecimal() and len(name) < 20 for name in names)
            return LabelMap(tuple(sorted(names, key=int if are_numbers else str.encode)))
        if numbers.setdefault(row.number, row.label) != row.label:
            raise ListError(
                f"{row.where}: class {row.number} is called {row.label!r} here and "
                f"{numbers[row.number]!r} before; a number must have one name"
            )
    return LabelMap(tuple(numbers.get(i, str(i)) for i in range(max(numbers) + 1)))


def _warn_of_equal_numbers(where: str, names: set[str]) -> None:
    """Warn of `1`, `01` and `1.0`: three classes to us, possibly one to the list's author."""
    spellings: dict[float, list[str]] = {}
    for name in sorted(names):
        with suppress(ValueError):
            spellings.setdefault(float(name), []).append(name)
    for alike in spellings.values():
        if len(alike) > 1:
            _log.warning(
                "%s: %s are the same number but different classes; spell each class in one way",
                where.partition(", line ")[0],
                " and ".join(map(repr, alike)),
            )


def _splits(rows: Sequence[Row]) -> list[str]:
    if all(not row.split for row in rows):
        return []
    splits = []
    for row in rows:
        split = split_named(row.split or "")
        if split is None:
            raise ListError(
                f"{row.where}: expected one of {', '.join(SPLITS)} as split, got {row.split!r}; "
                "fill the column or remove it"
            )
        splits.append(split)
    return splits


def _groups(rows: Sequence[Row]) -> list[str]:
    groups = [row.group for row in rows if row.group is not None]
    if groups and len(groups) < len(rows):
        where = next(row.where for row in rows if row.group is None)
        raise ListError(
            f"{where}: no group, but other lines have one; every line needs one, alone or shared"
        )
    return groups
