"""Tables (`.csv`, `.tsv`): one image a line, a header that names the columns.

In: a file with columns for the file and its class, perhaps a split and a group. Out: rows.
Dialect: RFC 4180 with comma, semicolon or TAB, whichever the header uses; UTF-8 with or without a
byte-order mark.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from image_classification.data.inventory.rows import Row
from image_classification.data.labels import MAX_CLASSES, is_utf8
from image_classification.errors import ListError

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
    """The rows of a table.

    Args:
        path: the file.
        group_by: the column of the groups; without it, one called `group`.

    Raises:
        ListError: it cannot be read, a column is missing, or a line has no file or no class,
            a column that is used is there twice, or text other than file names is not UTF-8.
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
    """Meaning → position of its column."""
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
                f"{path}: the first line names {lowered.count(name)} columns {name!r}; rename all "
                "but the one that is meant"
            )
    missing = [meaning for meaning in ("file", "label") if meaning not in columns]
    if missing:
        expected = "; ".join(f"{m}: one of {', '.join(_NAMES[m][:6])}" for m in missing)
        raise ListError(
            f"{path}: expected a first line that names the columns file and label, got "
            f"{header[:10]}; missing {expected}"
        )
    return columns


def _row(place: str, fields: list[str], columns: Mapping[str, int], width: int) -> Row:
    if len(fields) != width:
        raise ListError(
            f"{place}: expected {width} fields as in the first line, got {len(fields)}: "
            f"{','.join(fields)[:200]!r}; quote a field that holds the separator"
        )
    values = {meaning: fields[position].strip() for meaning, position in columns.items()}
    for meaning, value in values.items():
        if meaning != "file" and not is_utf8(value):  # names of files are bytes to the system
            raise ListError(
                f"{place}: the {meaning} {value!a} is not UTF-8 (Latin-1, perhaps); open the "
                "table in the program it comes from and save it as UTF-8"
            )
    for meaning in ("file", "label"):
        if not values[meaning]:
            raise ListError(f"{place}: the {meaning} is empty; fill it in or remove the line")
    if values.get("group") == "":
        raise ListError(f"{place}: the group is empty; every line needs one, alone or shared")
    label, number = values["label"], None
    if values.get("name") and label.isdecimal() and len(label) < len(str(MAX_CLASSES)):
        label, number = values["name"], int(label)
    return Row(place, values["file"], label, number, values.get("split"), values.get("group"))
