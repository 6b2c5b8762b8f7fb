"""Augmented manifests: JSON lines with one image each, as labeling jobs write them.

In: lines such as `{"source-ref": "s3://bucket/cat/1.jpg", "class": 3, "class-metadata":
{"class-name": "cat"}}`. Out: rows; a URI becomes a path whose tail is searched below the folder.
Source: Amazon SageMaker developer guide, "augmented manifest" and Ground Truth's "output data".
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from image_classification.errors import DataError, ListError
from image_classification.inventory.matching import path_of_uri
from image_classification.inventory.rows import Row, find_files
from image_classification.inventory.tags import split_labels
from image_classification.labels.label_map import MAX_CLASSES, LabelMap
from image_classification.labels.values import parse_label, parse_multi_hot
from image_classification.samples import UInt8Array

_SOURCE = "source-ref"
_METADATA = "-metadata"
_LABEL_NAMES = ("class-id", "class", "label", "category")
_OTHERS = ("split", "group", "id")


def is_manifest(path: Path) -> bool:
    """Return False for JSON lines whose first object has no `source-ref`: a table."""
    try:
        with path.open("rb") as file:
            first = next((line for line in file if line.strip()), b"{}")
        sample = json.loads(first.decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return True  # it is refused with the line
    return not isinstance(sample, dict) or _SOURCE in sample or len(sample) < 2


def read_manifest(
    path: Path,
    label_attribute: str | None = None,
    group_by: str | None = None,
    split_attribute: str | None = None,
    separator: str | None = None,
) -> tuple[list[Row], LabelMap | None]:
    """Return the rows of a manifest, and the class names if it gives them their order.

    Images have several classes if a label is a list of other than one class (`[0, 2]`, `["cat",
    "dog"]`), a vector of other than one 1 (`[1, 0, 1]`), or text of several (`"cat|dog"`).

    Args:
        path: the file.
        label_attribute: the attribute that holds the class; without it, the one with metadata,
            else one called class-id, class, label or category, else the only one there is.
        group_by: the attribute of the groups; without it, `group`.
        split_attribute: the attribute of the split; without it, `split`.
        separator: what separates several classes in text, see `inventory.tags`.

    Raises:
        ListError: a line is not a JSON object, or has no image or no class.
    """
    samples = [
        (where, sample, _label_attribute(where, sample, label_attribute))
        for where, sample in _samples(path)
    ]
    values = [_value_of(sample[attribute]) for _, sample, attribute in samples]
    several = _several(path, values, samples[0][2] if samples else "", separator)
    if several is not None and all(len(classes) == 1 for classes in several):
        samples = [
            (where, {**sample, attribute: classes[0]}, attribute)
            for (where, sample, attribute), classes in zip(samples, several, strict=True)
        ]
        several = None
    if several is None:
        rows = [
            _row(where, sample, attribute, group_by, split_attribute)
            for where, sample, attribute in samples
        ]
        return rows, None
    names = _class_map(samples)
    rows = []
    for (where, sample, attribute), classes in zip(samples, several, strict=True):
        known = tuple(names.get(item, item) if isinstance(item, int) else item for item in classes)
        label = "|".join(map(str, known))
        rows.append(_row(where, sample, attribute, group_by, split_attribute, (label, known)))
    numbers = [item for classes in several for item in classes if isinstance(item, int)]
    if not numbers:
        return rows, None
    width = max([*numbers, *names]) + 1
    if _is_vectors(values):
        width = len(values[0])
    if width > MAX_CLASSES:
        raise ListError(f"{path}: expected class numbers below {MAX_CLASSES}, got {width - 1}")
    return rows, LabelMap(tuple(names.get(number, str(number)) for number in range(width)))


def _value_of(value: object) -> Any:
    """Return a label as it stands; text of a list as the list."""
    if isinstance(value, str) and value.strip().startswith("["):
        return parse_label(value)
    return value


def _is_vectors(values: Sequence[Any]) -> bool:
    """Return whether all labels are vectors of 0 and 1 of one length."""
    if not all(isinstance(value, list) for value in values):
        return False
    return len({len(value) for value in values}) == 1 and all(
        item in (0, 1) and not isinstance(item, str) for value in values for item in value
    )


def _several(
    path: Path, values: Sequence[Any], attribute: str, separator: str | None
) -> list[tuple[str | int, ...]] | None:
    """Return the classes of each image; None if each has one, or a label that is none."""
    lists = [value for value in values if isinstance(value, list)]
    if not lists:
        texts = [value.strip() for value in values if isinstance(value, str)]
        if len(texts) < len(values):
            return None
        return [*split] if (split := split_labels(str(path), attribute, texts, separator)) else None
    widths = {len(value) for value in lists}
    if all(value.count(1) == 1 and value.count(0) == len(value) - 1 for value in lists):
        if len(widths) == 1 or len(lists) < len(values):
            return None
    if _is_vectors(values) and widths != {1}:
        return [tuple(i for i, item in enumerate(value) if item) for value in values]
    found = []
    for value in values:
        items = value if isinstance(value, list) else [value]
        if not all(_is_class(item) for item in items):
            return None
        found.append(
            tuple(item if isinstance(item, str) else int(item) for item in dict.fromkeys(items))
        )
    return found


def _is_class(item: object) -> bool:
    if isinstance(item, str):
        return bool(item)
    if isinstance(item, bool) or not isinstance(item, (int, float)):
        return False
    return 0 <= item < MAX_CLASSES and item == int(item)


def _class_map(samples: Sequence[tuple[str, Mapping[str, Any], str]]) -> dict[int, str]:
    """Return number → name from the `class-map` in the metadata, as multi-label jobs write it."""
    names: dict[int, str] = {}
    for where, sample, attribute in samples:
        metadata = sample.get(attribute + _METADATA)
        found = metadata.get("class-map") if isinstance(metadata, dict) else None
        for number, name in found.items() if isinstance(found, dict) else ():
            if not (number.isdecimal() and len(number) < 7 and isinstance(name, str) and name):
                continue
            if names.setdefault(int(number), name) != name:
                raise ListError(
                    f"{where}: class {number} is called {name!r} here and {names[int(number)]!r} "
                    "before; a number must have one name"
                )
    return names


def read_multi_hot_manifest(
    root: Path, path: Path, classes: int, label_format: str = ""
) -> tuple[list[str], UInt8Array]:
    """Return paths below `root` and uint8 (lines, classes) of a manifest with multiple labels.

    Args:
        root: folder of the images.
        path: the manifest.
        classes: number of classes.
        label_format: class-id or multi-hot, see `labels.values.multi_hot`.

    Raises:
        ListError: a line is not a JSON object, or has no image or other labels.
    """
    rows, labels = [], []
    for where, sample in _samples(path):
        attribute = _find_label(where, sample)
        try:
            labels.append(parse_multi_hot(sample[attribute], classes, label_format))
        except DataError as error:
            raise ListError(f"{where}, {attribute!r}: {error}") from error
        rows.append(Row(where, path_of_uri(sample[_SOURCE]), ""))
    if not rows:
        raise ListError(f"{path}: expected one line per image, found none")
    found, left_out = find_files(root, path, rows)
    left_out.warn(root, f"only the images in {path.name} are used")
    return found, np.stack(labels)


def _samples(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file and line, JSON object) of every line that is not blank."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, ValueError) as error:
        raise ListError(f"{path}: expected a manifest of JSON lines: {error}") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            yield where, _parse(where, line)


def _parse(where: str, line: str) -> dict[str, Any]:
    try:
        sample = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ListError(f"{where}: expected one JSON object per line: {error}") from error
    if not isinstance(sample, dict) or not isinstance(sample.get(_SOURCE), str):
        raise ListError(f'{where}: expected an object with "{_SOURCE}": "…", got {line[:200]!r}')
    return sample


def _row(
    where: str,
    sample: Mapping[str, Any],
    attribute: str,
    group_by: str | None,
    split_attribute: str | None = None,
    several: tuple[str, tuple[str | int, ...]] | None = None,
) -> Row:
    """Return the row of a line; `several` is the text and the classes of an image of several."""
    number, name = None, ""
    if several is None:
        number, name = _class_of(where, attribute, sample[attribute])
    metadata = sample.get(attribute + _METADATA)
    named = metadata.get("class-name") if isinstance(metadata, dict) else None
    group = sample.get(group_by or "group")
    if group_by and group is None:
        raise ListError(
            f"{where}: no attribute {group_by!r} to group by; it has {', '.join(sample)}"
        )
    split = sample.get(split_attribute or "split")
    if split_attribute and split is None:
        raise ListError(f"{where}: no attribute {split_attribute!r}; it has {', '.join(sample)}")
    if several is not None:
        named = several[0]
    return Row(
        where,
        path_of_uri(sample[_SOURCE]),
        str(named) if isinstance(named, str) and named else name,
        number,
        None if split is None else str(split),
        None if group is None else str(group),
        None if several is None else several[1],
    )


def _label_attribute(where: str, sample: Mapping[str, Any], given: str | None) -> str:
    attribute = given or _find_label(where, sample)
    if attribute not in sample:
        raise ListError(f"{where}: no attribute {attribute!r}; it has {', '.join(sample)}")
    return attribute


def _find_label(where: str, sample: Mapping[str, Any]) -> str:
    candidates = [
        name for name in sample if not name.endswith(("-ref", _METADATA)) and name not in _OTHERS
    ]
    named = [name for name in candidates if name + _METADATA in sample]
    known = [name for name in _LABEL_NAMES if name in candidates]
    for names in (named, known[:1], candidates):
        if len(names) == 1:
            return names[0]
    raise ListError(
        f"{where}: expected one attribute with the class, got "
        f"{', '.join(candidates) or 'none'}; name it with --label-attribute "
        "(preprocess), or keep one of them (training)"
    )


def _class_of(where: str, attribute: str, value: object) -> tuple[int | None, str]:
    """Return the class number, or None, and the class as text.

    Values may be 3, 3.0, "3", "cat", and the one-hot vectors [0, 0, 0, 1] and "[0, 0, 0, 1]".
    """
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            try:
                return _class_of(where, attribute, json.loads(text))
            except (ValueError, RecursionError):
                pass
        if text.isdecimal() and len(text) < len(str(MAX_CLASSES)):
            return int(text), text
        if text:
            return None, text
    if isinstance(value, list) and value.count(1) == 1 and value.count(0) == len(value) - 1:
        return value.index(1), str(value.index(1))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if 0 <= value < MAX_CLASSES and value == int(value):
            return int(value), str(int(value))
    raise ListError(
        f"{where}: expected one class in {attribute!r} (a number from 0, a name, or a vector with "
        f"a single 1), got {value!r:.100}"
    )
