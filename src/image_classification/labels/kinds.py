"""What the labels of images mean: one class, several classes, boxes, identities or other numbers.

In: the numbers of a list's lines or of records. Out: a `LabelKind`, and what to do about labels
that image classification cannot use. Files do not say which kind they hold; the numbers do.
Sources: lists for detection are those of MXNet's `ImageDetIter`: the width A of a header, the width
B of an object, A − 2 further numbers, then B per object; identity records are those of insightface
(`face2rec2.py`).
"""

from collections.abc import Iterable, Sequence
from enum import Enum

_LEAST_HEADER, _LEAST_OBJECT = 2, 5  # of a box: its class and four corners
_MOST_HEADER = 32  # numbers; more are not a header
_MOST_OBJECT = 64
_BINARY = {0.0, 1.0}


class LabelKind(Enum):
    """What the labels of a list or of a record file mean."""

    CLASS = "class"
    """One class number."""
    MULTI_HOT = "multi-hot"
    """A 0 or 1 for every class."""
    DETECTION = "detection"
    """Boxes and their classes, for object detection."""
    IDENTITY = "identity"
    """An identity per image, and records without an image that index them."""
    NUMBERS = "numbers"
    """Several numbers per image that are none of these."""


def is_class_number(label: float) -> bool:
    """Return whether a label can be that of a class: a whole number from 0."""
    return label >= 0 and float(label).is_integer()


def kind_of(rows: Iterable[Sequence[float]]) -> LabelKind:
    """Return the kind of the labels of images; each row has those of one image."""
    widths: set[int] = set()
    is_binary = are_boxes = True
    for row in rows:
        widths.add(len(row))
        is_binary = is_binary and set(row) <= _BINARY
        are_boxes = are_boxes and is_detection(row)
    if widths <= {1}:
        return LabelKind.CLASS
    if is_binary and len(widths) == 1:
        return LabelKind.MULTI_HOT
    return LabelKind.DETECTION if are_boxes else LabelKind.NUMBERS


def is_detection(row: Sequence[float]) -> bool:
    """Return whether the labels of an image are a header and whole objects."""
    if len(row) < _LEAST_HEADER:
        return False
    if not (_LEAST_HEADER <= row[0] <= min(len(row), _MOST_HEADER)):  # NaN is not
        return False
    if not (_LEAST_OBJECT <= row[1] <= _MOST_OBJECT):
        return False
    header, width = int(row[0]), int(row[1])
    return (header, width) == (row[0], row[1]) and (len(row) - header) % width == 0


def object_classes(row: Sequence[float]) -> list[float]:
    """Return the class of each object in the labels of an image; padding (−1) is none."""
    classes = row[int(row[0]) :: int(row[1])]
    return [number for number in classes if number >= 0]


def classes_of(row: Sequence[float], kind: LabelKind) -> list[float]:
    """Return every class in the labels of an image: of several objects, that of each."""
    if kind is LabelKind.MULTI_HOT:
        return [float(index) for index, value in enumerate(row) if value]
    if kind is LabelKind.DETECTION:
        return object_classes(row)
    return [] if kind is LabelKind.NUMBERS else [row[0]]


def remedy(kind: LabelKind, path: object = "FILE.rec") -> str:
    """Return what labels of a kind are and what to do, for labels that a job cannot use."""
    return {
        LabelKind.CLASS: "each image has one class: leave out multi_label",
        LabelKind.MULTI_HOT: "each image has a 0 or 1 for every class: set multi_label=1",
        LabelKind.DETECTION: (
            "these are labels for object detection (a header, then a class and a box per object), "
            "which image classification does not learn: write a list with one class per image, or "
            "with a 0 or 1 for every class, and pack it"
        ),
        LabelKind.IDENTITY: (
            "these are identity records as insightface packs them, and those that index the "
            f"identities have no image: image-classification inspect {path} --extract DIR writes "
            "one class folder per identity, for training"
        ),
        LabelKind.NUMBERS: (
            "these numbers are neither one class nor a 0 or 1 for every class: write a list with "
            "one of the two and pack it; if the first number is the class, pack without "
            "--pack-label"
        ),
    }[kind]
