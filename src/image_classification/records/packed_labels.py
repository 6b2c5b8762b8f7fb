"""Labels as other programs write them next to an image: one class, or several.

In: text, JSON values, or the numbers of a feature. Out: a `PackedLabel`. Whether several numbers
are classes or a 0 or 1 for every class shows only with all images of a data set, so that they are
kept as written.
"""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

from image_classification.errors import LabelError
from image_classification.records.format import Span

_MOST = 2**31  # a class number is below
_WRAPPED = re.compile(r"(?s)(?:tensor|array)\((.*?)(?:,\s*dtype=[\w.]+)?\)")
_NUMBERS = re.compile(r"\d+(?:[\s,;|]+\d+)+")
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")
_MARKS = re.compile(r"[|;]")


class PackedLabel(NamedTuple):
    """The label of an image in a file of another program.

    Attributes:
        number: its class number, or None.
        name: its class name, or "".
        several: the labels of an image that has two or more, or none: class numbers, names, or a 0
            or 1 for every class; None for one class.
        names: the names of the class numbers in `several`, or ().
    """

    number: int | None = None
    name: str = ""
    several: tuple[int | str, ...] | None = None
    names: tuple[str, ...] = ()

    @property
    def is_missing(self) -> bool:
        """Whether nothing is known; an image that is known to have no class is something else."""
        return self.number is None and not self.name and self.several is None


class PackedImage(NamedTuple):
    """Where an image is in a file of another program, and its label.

    Attributes:
        image: begin and end of the encoded image.
        record: begin and size of the record with a checksum; (0, 0) without one.
        key: its name in the file.
        label: its class, or its classes.
    """

    image: Span
    record: Span
    key: str
    label: PackedLabel


def number_or_name(text: str) -> tuple[int | None, str]:
    """Return a label as the class number that it is, or as a name."""
    text = text.strip()
    return (int(text), "") if text.isdecimal() and len(text) < 10 else (None, text)


def label_of_text(where: str, text: str) -> PackedLabel:
    """Return the label in a text: a number, a name, or several as a list or with `|` or `;`.

    Raises:
        LabelError: a list of something else, or no text.
    """
    text = text.strip()
    if "\0" in text:
        raise LabelError(
            f"{where}: expected the class as text or as a number, got bytes, such as those of a "
            "serialized tensor; write numbers as a list of integers (int64_list)"
        )
    if wrapped := _WRAPPED.fullmatch(text):
        text = wrapped[1].strip()
    if text.startswith("[") and text.endswith("]"):
        items = _listed(text)
        if items is not None:
            return label_of_list(where, items)
    if _NUMBERS.fullmatch(text):
        return label_of_list(where, re.findall(r"\d+", text))
    parts = [part.strip() for part in _MARKS.split(text) if part.strip()]
    return label_of_list(where, parts) if len(parts) > 1 else PackedLabel(*number_or_name(text))


def _listed(text: str) -> list[object] | None:
    """Return the items of a list as JSON, Python or NumPy write it; None if it is a name."""
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        inner = text[1:-1].strip()
        if quoted := _QUOTED.findall(inner):
            return [first or second for first, second in quoted]
        try:
            return [float(part) for part in re.split(r"[,\s]+", inner) if part]
        except ValueError:
            return None
    return list(items)


def label_of_value(where: str, value: object) -> PackedLabel:
    """Return the label in a JSON value: a number, a name, or a list of them.

    Raises:
        LabelError: something else.
    """
    if isinstance(value, str) and value.strip():
        return label_of_text(where, value)
    if isinstance(value, list):
        return label_of_list(where, value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MOST:
        raise LabelError(
            f"{where}: expected one class (a number from 0 or a name) or a list of classes, got "
            f"{value!r:.100}"
        )
    return PackedLabel(value)


def label_of_list(where: str, values: Sequence[object], names: Sequence[str] = ()) -> PackedLabel:
    """Return the label of an image with these class numbers or names; of one value, that class.

    Args:
        where: the image, for messages.
        values: numbers, also as text, or names.
        names: of the class numbers, one for each; or one, of the class of a vector with a single 1.
            Others are not used.

    Raises:
        LabelError: the values are neither all numbers nor all names.
    """
    items = [_item(value) for value in values]
    kinds = {type(item) for item in items}
    if None in items or len(kinds) > 1:
        shown = ", ".join(f"{value!r:.30}" for value in values[:10])
        raise LabelError(
            f"{where}: expected class numbers (whole numbers from 0), a 0 or 1 for every class, or "
            f"class names, got [{shown}{', …' * (len(values) > 10)}]"
        )
    several = tuple(item for item in items if item is not None)
    is_one_hot = kinds == {int} and sorted(several)[-2:] == [0, 1]
    one_hot_name = names[0] if len(names) == 1 and is_one_hot else ""
    names = tuple(names) if len(names) == len(several) and kinds == {int} else ()
    if len(several) != 1:
        return PackedLabel(None, one_hot_name, several, names)
    only = several[0]
    name = names[0] if names else ""
    return PackedLabel(only, name) if isinstance(only, int) else PackedLabel(None, only)


def _item(value: object) -> int | str | None:
    if isinstance(value, str):
        number, name = number_or_name(value)
        return name or None if number is None else number
    if isinstance(value, (bool, int, float)) and 0 <= value < _MOST and value == int(value):
        return int(value)
    return None
