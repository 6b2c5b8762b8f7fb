"""From the rows of a list to an inventory: files are found, classes are numbered.

In: the rows of a list, a table or a manifest, and the folder of images. Out: an `Inventory` in the
order of the rows.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from image_classification.errors import ListError
from image_classification.inventory.matching import FileIndex
from image_classification.labels.label_map import LabelMap
from image_classification.labels.lists import ListEntry, is_unlistable, label_text
from image_classification.labels.tree import LeftOut
from image_classification.loading.records import first_labels
from image_classification.samples import IntArray, UInt8Array

UNLISTED = "images that the list does not name"
REPEATED = "lines that repeat another"
DROPPED = "images that the list drops"
UNDECIDED = "images to relabel without a new label"
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
        entries: one label each, the class index; or a 0 or 1 for every class, if images have
            several. Ids are unique.
        labels: the class names.
        splits: the split of each entry; empty if the input names none.
        groups: the group of each entry; empty if there are none.
        left_out: (what, how many, one example) of files in the folder that are not in the entries,
            and of folders inside class folders.
        is_multi_label: whether an image may have several classes, or none.
        read: reads the image file of an entry; None if its path is below the root.
    """

    name: str
    root: Path
    entries: Sequence[ListEntry]
    labels: LabelMap
    splits: Sequence[str] = ()
    groups: Sequence[str] = ()
    left_out: Sequence[tuple[str, int, str]] = field(default=())
    is_multi_label: bool = False
    read: Callable[[ListEntry], bytes] | None = None

    @property
    def multi_hot(self) -> UInt8Array | None:
        """uint8 (entries, classes), 1 for every class of an image, if images have several."""
        if not self.is_multi_label:
            return None
        rows = np.empty((len(self.entries), len(self.labels)), np.uint8)
        for number, entry in enumerate(self.entries):
            rows[number] = entry.labels
        return rows

    @property
    def class_indices(self) -> IntArray:
        """int64 (entries,); of several classes the lowest, or the number of classes for none."""
        multi_hot = self.multi_hot
        if multi_hot is not None:
            return first_labels(multi_hot)
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
        classes: every class of the image, as a name or a number, if images have several; None if
            each has one, which `label` names.
    """

    where: str
    file: str
    label: str
    number: int | None = None
    split: str | None = None
    group: str | None = None
    classes: tuple[str | int, ...] | None = None

    def described(self) -> str:
        """Return class and split, for messages."""
        return repr(self.label) + (f" in {self.split!r}" if self.split else "")


def assemble(
    root: Path,
    listing: Path,
    rows: Sequence[Row],
    labels: LabelMap | None = None,
    own_labels: LabelMap | None = None,
    files: FileIndex | None = None,
) -> Inventory:
    """Find the files of `rows` below `root` and number their classes.

    Class names are sorted (numbers by value), unless `labels` or a `labels.json` next to the list
    gives their order, or the list gives each name its number. A missing file keeps its row: it is
    reported with the unreadable images.

    Args:
        root: the folder of images.
        listing: the list, for messages.
        rows: its rows.
        labels: the class names in the order of their numbers, or None.
        own_labels: the class names that the list itself puts in an order, such as its columns.
        files: the images below `root`, if they are known already.

    Raises:
        ListError: no row, none of the files, an ambiguous file, one file with two classes, an
            unknown split.
        DataError: a class that is not in the given label map.
    """
    if not rows:
        raise ListError(f"{listing}: expected one line per image, found none")
    files = files or FileIndex.below(root, listing)
    paths, left_out = find_files(root, listing, rows, files)
    _report_missing(listing, rows, paths, files)
    kept: dict[str, Row] = {}
    for row, path in zip(rows, paths, strict=True):
        earlier = kept.setdefault(path, row)
        if earlier is row:
            continue
        if (earlier.label, earlier.split) != (row.label, row.split):
            raise ListError(
                f"{row.where}: {path} is {row.described()}, but {earlier.described()} in "
                f"{earlier.where}; keep one of the lines, or if an image can have several classes, "
                "write them in one line: cat|dog"
            )
        left_out.add(REPEATED, row.where)
    found = list(kept.values())
    is_multi_label = any(row.classes is not None for row in found)
    labels = labels or LabelMap.beside(listing) or own_labels
    if is_multi_label:
        labels = labels or _labels_of_several(listing, found)
        label_rows = _multi_hot_rows(found, labels)
    else:
        labels = labels or _labels_of(found)
        label_rows = [(float(_class_index(row, labels)),) for row in found]
    entries = [
        ListEntry(i, numbers, path)
        for i, (path, numbers) in enumerate(zip(kept, label_rows, strict=True))
    ]
    left_out.warn(root, f"only the images in {listing.name} are used")
    return Inventory(
        f"{root} by {listing}",
        root,
        entries,
        labels,
        _splits(found),
        _groups(found),
        left_out.reasons(),
        is_multi_label,
    )


def _report_missing(
    listing: Path, rows: Sequence[Row], paths: Sequence[str], files: FileIndex
) -> None:
    """Warn of files that are not there; refuse a list none of whose files is there."""
    missing = [number for number, path in enumerate(paths) if not files.is_there(path)]
    if not missing:
        return
    first, among = rows[missing[0]], sorted(files.paths.difference(paths))
    count = f"{len(missing)} of {len(rows)}" if len(missing) < len(rows) else f"all {len(rows)}"
    sentence = files.missing(f"{listing}: {count} files", first.where, first.file, among)
    if len(missing) == len(rows):
        raise ListError(sentence)
    _log.warning("%s", sentence)


def _labels_of_several(listing: Path, rows: Sequence[Row]) -> LabelMap:
    """Return the names of the classes that occur, sorted; numbers up to the largest one."""
    classes = {name for row in rows for name in _classes_of(row)}
    numbers = [name for name in classes if isinstance(name, int)]
    if numbers:
        return LabelMap.numbered(max(numbers) + 1, listing)
    if not classes:
        raise ListError(f"{listing}: expected images with classes, found none with a class")
    return LabelMap(in_order({str(name) for name in classes}))


def _classes_of(row: Row) -> tuple[str | int, ...]:
    return (row.label,) if row.classes is None else row.classes


def _multi_hot_rows(rows: Sequence[Row], labels: LabelMap) -> list[tuple[float, ...]]:
    """Return a 0 or 1 for every class of each row; equal rows are one tuple."""
    if len(labels) < 2:
        raise ListError(
            f"{rows[0].where}: expected two classes or more, found only {labels.names[0]!r}; with "
            "one class, list the images without it under a second class"
        )
    indices = labels.to_prediction_index()
    known: dict[tuple[str | int, ...], tuple[float, ...]] = {}
    found = []
    for row in rows:
        classes = _classes_of(row)
        if classes not in known:
            numbers = [0.0] * len(labels)
            for name in classes:
                index = name if isinstance(name, int) else indices.get(name)
                if index is None:
                    index = labels.index(str(name))  # raises with the known names
                if not 0 <= index < len(labels):
                    raise ListError(
                        f"{row.where}: class {index}, but there are {len(labels)} class names: "
                        f"{list(labels.names)[:20]}"
                    )
                numbers[index] = 1.0
            known[classes] = tuple(numbers)
        found.append(known[classes])
    return found


def _class_index(row: Row, labels: LabelMap) -> int:
    """Return the row's class: by its number if it has no name of its own, else by its name."""
    if row.number is None or (row.label == str(row.number) and row.label in labels.names):
        return labels.index(row.label)
    index = row.number if row.label == str(row.number) else labels.index(row.label)
    if index != row.number or index >= len(labels):
        theirs = labels.names[row.number] if row.number < len(labels) else "not among the labels"
        raise ListError(
            f"{row.where}: {row.described()}, but class {row.number} is {theirs!r} in the given "
            "labels, or in labels.json next to the list; use the labels that the list was made with"
        )
    return index


def file_rows(listing: Path, entries: Sequence[ListEntry]) -> list[Row]:
    """Return the entries of a list as rows, to find their files."""
    return [
        Row(f"{listing}, id {entry.id}", entry.path, label_text(entry.labels[0]))
        for entry in entries
    ]


def find_files(
    root: Path, listing: Path, rows: Sequence[Row], files: FileIndex | None = None
) -> tuple[list[str], LeftOut]:
    """Return the path below `root` of each row's file, and the files that are left out.

    A missing file keeps the path of its row. `files` are the images below `root`, if they are
    known already.

    Raises:
        ListError: a name that fits several files, or that a list cannot hold.
    """
    files = files or FileIndex.below(root, listing)
    paths = [files.find(row.where, row.file) for row in rows]
    for row, path in zip(rows, paths, strict=True):
        if is_unlistable(path):
            raise ListError(f"{row.where}: a name must not contain a TAB or line break: {path!r}")
    for path in sorted(files.paths.difference(paths)):
        files.left_out.add(UNLISTED, path)
    return paths, files.left_out


def _labels_of(rows: Sequence[Row]) -> LabelMap:
    numbers: dict[int, str] = {}
    for row in rows:
        if row.number is None:
            names = {row.label for row in rows}
            _warn_of_equal_numbers(row.where, names)
            return LabelMap(in_order(names))
        if numbers.setdefault(row.number, row.label) != row.label:
            raise ListError(
                f"{row.where}: class {row.number} is called {row.label!r} here and "
                f"{numbers[row.number]!r} before; a number must have one name"
            )
    return LabelMap(tuple(numbers.get(i, str(i)) for i in range(max(numbers) + 1)))


def in_order(names: set[str]) -> tuple[str, ...]:
    """Return class names sorted: numbers by value, else by their bytes."""
    are_numbers = all(name.isdecimal() and len(name) < 20 for name in names)
    return tuple(sorted(names, key=int if are_numbers else str.encode))


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
                f"{row.where}: expected one of {', '.join(SPLITS)} as split, got "
                f"{repr(row.split) if row.split else 'nothing, or unassigned'}; fill the column, "
                "remove the line, or draw all splits anew with --split-column none"
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
