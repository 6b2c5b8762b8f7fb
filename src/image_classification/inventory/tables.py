"""Tables (.csv, .tsv) and lists (.lst) with the class of each image.

A table has a first line that names its columns. A list gives ids and class numbers, which an
inventory keeps; or a column 0 or 1 for every class, where images have multiple labels.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from image_classification.errors import ListError
from image_classification.inventory.rows import Inventory, Row, find_files
from image_classification.labels.label_map import MAX_CLASSES, LabelMap, is_utf8
from image_classification.labels.lists import ListEntry, read_list
from image_classification.samples import UInt8Array

# Header names that published tables use, in the order of preference.
_NAMES = {
    "file": (
        "file", "filename", "file_name", "filepath", "file_path", "path", "image", "image_path",
        "image_name", "img", "image_id", "id",
    ),
    "label": ("label", "class", "class_name", "category", "target", "label_name", "breed"),
    "name": ("class_name", "label_name"),
    "split": ("split", "set", "subset", "partition", "data set"),
    "group": ("group", "group_id"),
}  # fmt: skip


def read_table(path: Path, group_by: str | None = None) -> list[Row]:
    """Return the rows of a table.

    Args:
        path: the file.
        group_by: the column of the groups; without it, one called `group`.

    Raises:
        ListError: the file cannot be read, a column is missing or occurs twice, a line has no file
            or no class, or text other than file names is not UTF-8.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise ListError(f"{path}: the table cannot be read: {error.strerror}") from error
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        columns = _columns(path, header, group_by)
        return [
            _row(f"{path}, line {reader.line_num}", fields, columns, len(header))
            for fields in reader
            if any(field.strip() for field in fields)
        ]
    except csv.Error as error:
        raise ListError(f"{path}, line {reader.line_num}: {error}") from error


def _columns(path: Path, header: list[str], group_by: str | None) -> dict[str, int]:
    """Return meaning → index of its column."""
    lowered = [name.lower() for name in header]
    columns: dict[str, int] = {}
    for meaning, names in _NAMES.items():
        found = [lowered.index(name) for name in names if name in lowered]
        if found:
            columns[meaning] = found[0]
    if group_by is not None:
        if group_by.lower() not in lowered:
            raise ListError(f"{path}: no column {group_by!r} to group by; it has {header}")
        columns["group"] = lowered.index(group_by.lower())
    for name in dict.fromkeys(lowered[position] for position in columns.values()):
        if lowered.count(name) > 1:
            raise ListError(
                f"{path}: the first line has {lowered.count(name)} columns named {name!r}; rename "
                "all but one of them"
            )
    missing = [meaning for meaning in ("file", "label") if meaning not in columns]
    if missing:
        expected = "; ".join(f"{m}: one of {', '.join(_NAMES[m][:6])}" for m in missing)
        raise ListError(
            f"{path}: expected a first line that names the columns file and label, got "
            f"{header[:10]}; missing {expected}"
        )
    return columns


def _row(where: str, fields: list[str], columns: Mapping[str, int], width: int) -> Row:
    if len(fields) != width:
        raise ListError(
            f"{where}: expected {width} fields as in the first line, got {len(fields)}: "
            f"{','.join(fields)[:200]!r}; quote a field that contains the separator"
        )
    values = {meaning: fields[position].strip() for meaning, position in columns.items()}
    for meaning, value in values.items():
        if meaning != "file" and not is_utf8(value):  # names of files are bytes to the system
            raise ListError(
                f"{where}: the {meaning} {value!a} is not UTF-8 (possibly Latin-1); open the "
                "table in the program that wrote it and save it as UTF-8"
            )
    for meaning in ("file", "label"):
        if not values[meaning]:
            raise ListError(f"{where}: the {meaning} is empty; fill it in or remove the line")
    if values.get("group") == "":
        raise ListError(f"{where}: the group is empty; every line needs one, alone or shared")
    label, number = values["label"], None
    if values.get("name") and label.isdecimal() and len(label) < len(str(MAX_CLASSES)):
        label, number = values["name"], int(label)
    return Row(where, values["file"], label, number, values.get("split"), values.get("group"))


def read_list_inventory(root: Path, listing: Path, labels: LabelMap | None) -> Inventory:
    """Return the images of a list.

    The names are `labels`, else those of a `labels.json` next to the list, else the folders of the
    images if every class has one of its own, else the numbers.

    Raises:
        ListError: a malformed list, no image in it, or a label that is not a class number.
    """
    entries = _read_entries(listing)
    for entry in entries:
        if len(entry.labels) > 1 or not entry.labels[0].is_integer() or entry.labels[0] < 0:
            raise ListError(
                f"{listing}, id {entry.id}: expected one class number from 0 as label, got "
                f"{', '.join(f'{label:g}' for label in entry.labels)}"
            )
    classes = int(max(entry.labels[0] for entry in entries)) + 1
    labels = labels or LabelMap.beside(listing) or LabelMap.from_folders(entries)
    labels = labels or LabelMap.numbered(classes)
    if classes > len(labels):
        raise ListError(
            f"{listing} has a label {classes - 1}, but there are {len(labels)} class names: "
            f"{list(labels.names)[:20]}"
        )
    found, left_out = find_files(root, listing, file_rows(listing, entries))
    left_out.warn(root, f"only the images in {listing.name} are used")
    entries = [entry._replace(path=path) for entry, path in zip(entries, found, strict=True)]
    name = f"{root} by {listing}"
    return Inventory(name, root, entries, labels, left_out=left_out.reasons())


def read_multi_hot_list(root: Path, listing: Path) -> tuple[list[str], UInt8Array]:
    """Return paths below `root` and uint8 (len, classes) of a list with a column per class.

    Raises:
        ListError: a malformed list, no image in it, or lines of another width or other values than
            0 and 1.
    """
    entries = _read_entries(listing)
    width = len(entries[0].labels)
    for entry in entries:
        if len(entry.labels) != width or not set(entry.labels) <= {0.0, 1.0}:
            raise ListError(
                f"{listing}, id {entry.id}: expected {width} columns 0 or 1, one for every class, "
                f"got {', '.join(f'{label:g}' for label in entry.labels)}"
            )
    found, left_out = find_files(root, listing, file_rows(listing, entries))
    left_out.warn(root, f"only the images in {listing.name} are used")
    return found, np.array([entry.labels for entry in entries], np.uint8)


def _read_entries(listing: Path) -> list[ListEntry]:
    entries = read_list(listing)
    if not entries:
        raise ListError(f"{listing}: expected a list of images, got an empty file")
    return entries


def file_rows(listing: Path, entries: Sequence[ListEntry]) -> list[Row]:
    """Return the entries of a list as rows, to find their files."""
    return [
        Row(f"{listing}, id {entry.id}", entry.path, f"{entry.labels[0]:g}") for entry in entries
    ]
