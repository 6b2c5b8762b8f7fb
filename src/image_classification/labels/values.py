"""Labels of augmented manifests: the forms in which one class, or several, are written.

In: a JSON value, or its text as a stream delivers it. Out: a class index, or a multi-hot vector.
Source: Amazon SageMaker developer guide, "augmented manifest" and Ground Truth's "output data".
"""

import json
from typing import Any

import numpy as np

from image_classification.errors import LabelError
from image_classification.labels.label_map import MAX_CLASSES
from image_classification.samples import UInt8Array


def parse_label(text: str) -> object:
    """Parse a label's text: `0`, `"0"`, `[1, 0]` and `"[1, 0]"` lose their quotes.

    Text that is not JSON, such as a class name, is its own value.
    """
    value: object = text.strip()
    for _ in range(2):  # a string may hold an array
        if not isinstance(value, str):
            break
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            break
    return value


def parse_class_index(value: object) -> int:
    """Parse the class in 3, 3.0, "3", or a vector with a single 1.

    Raises:
        LabelError: anything else.
    """
    value = parse_label(value) if isinstance(value, str) else value
    if isinstance(value, list):
        if value.count(1) == 1 and value.count(0) == len(value) - 1:
            return value.index(1)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if 0 <= value < MAX_CLASSES and value == int(value):
            return int(value)
    raise LabelError(
        f"expected one class (a number from 0, or a vector with a single 1), got {value!r:.100}"
    )


def parse_multi_hot(value: object, classes: int, label_format: str = "") -> UInt8Array:
    """Parse the classes that `value` names: uint8 (classes,), 1 for each of them.

    Args:
        value: a vector of 0 and 1 for multi-hot (`[1, 0, 1]`), a list of class numbers or a single
            one for class-id (`[0, 2]`); a string may contain either.
        classes: how many there are.
        label_format: class-id or multi-hot; "" is multi-hot, as in the built-in.

    Raises:
        LabelError: neither, or a class number of `classes` or more.
    """
    value = parse_label(value) if isinstance(value, str) else value
    if label_format == "class-id":
        numbers: list[Any] = value if isinstance(value, list) else [value]
        if all(_is_number_below(number, classes) for number in numbers):
            row = np.zeros(classes, np.uint8)
            row[[int(number) for number in numbers]] = 1
            return row
        expected = f"class numbers from 0 to {classes - 1}"
    else:
        if isinstance(value, list) and len(value) == classes:
            if all(number in (0, 1) for number in value):
                return np.array([int(number) for number in value], np.uint8)
        expected = f"{classes} values 0 or 1"
    raise LabelError(
        f"expected {expected} as a label in the format {label_format or 'multi-hot'}, got "
        f"{value!r:.100}"
    )


def _is_number_below(number: object, limit: int) -> bool:
    if not isinstance(number, (int, float)) or isinstance(number, bool):
        return False
    return 0 <= number < limit and float(number).is_integer()
