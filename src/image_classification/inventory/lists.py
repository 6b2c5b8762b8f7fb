"""Lists (.lst) with the class of each image, or a column 0 or 1 for every class.

In: a list and the folder of its images. Out: an inventory that keeps the class numbers of the list,
or paths with a 0 or 1 for every class.
"""

from pathlib import Path

import numpy as np

from image_classification.errors import ListError
from image_classification.inventory.rows import Inventory, file_rows, find_files
from image_classification.labels.kinds import LabelKind, is_class_number, kind_of, remedy
from image_classification.labels.label_map import LabelMap
from image_classification.labels.lists import ListEntry, read_list, warn_of_contradictions
from image_classification.samples import UInt8Array

_SHOWN = 20


def read_list_inventory(
    root: Path, listing: Path, labels: LabelMap | None, *, may_have_several: bool = False
) -> Inventory:
    """Return the images of a list.

    The names are `labels`, else those of a `labels.json` next to the list, else the folders of the
    images if every class has one of its own, else the numbers.

    Args:
        root: folder of the images.
        listing: the list.
        labels: the class names, or None.
        may_have_several: whether a line may have a 0 or 1 for every class.

    Raises:
        ListError: a malformed list, no image in it, or a label that is not a class number.
    """
    entries = _read_entries(listing)
    kind = kind_of(entry.labels for entry in entries)
    is_multi_label = may_have_several and kind is LabelKind.MULTI_HOT
    for entry in entries if not is_multi_label else ():
        if len(entry.labels) > 1 or not is_class_number(entry.labels[0]):
            advice = f"; {remedy(kind)}" if kind is not LabelKind.CLASS else ""
            raise ListError(
                f"{listing}, id {entry.id}: expected one class number from 0 as label, got "
                f"{', '.join(f'{label:g}' for label in entry.labels[:_SHOWN])}{advice}"
            )
    classes = int(max(entry.labels[0] for entry in entries)) + 1
    if is_multi_label:
        classes = len(entries[0].labels)
    labels = labels or LabelMap.beside(listing) or LabelMap.from_folders(entries)
    labels = labels or LabelMap.numbered(classes, listing)
    if is_multi_label and classes != len(labels):
        raise ListError(
            f"{listing} has a column 0 or 1 for each of {classes} classes, but there are "
            f"{len(labels)} class names: {list(labels.names)[:20]}"
        )
    if classes > len(labels):
        raise ListError(
            f"{listing} has a label {classes - 1}, but there are {len(labels)} class names: "
            f"{list(labels.names)[:20]}"
        )
    found, left_out = find_files(root, listing, file_rows(listing, entries))
    left_out.warn(root, f"only the images in {listing.name} are used")
    entries = [entry._replace(path=path) for entry, path in zip(entries, found, strict=True)]
    name = f"{root} by {listing}"
    return Inventory(
        name, root, entries, labels, left_out=left_out.reasons(), is_multi_label=is_multi_label
    )


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
            kind = kind_of(entry.labels for entry in entries)
            is_foreign = kind is LabelKind.DETECTION  # others may be a single mistake
            raise ListError(
                f"{listing}, id {entry.id}: expected {width} columns 0 or 1, one for every class, "
                f"got {', '.join(f'{label:g}' for label in entry.labels[:_SHOWN])}"
                + (f"; {remedy(kind)}" if is_foreign else "")
            )
    found, left_out = find_files(root, listing, file_rows(listing, entries))
    left_out.warn(root, f"only the images in {listing.name} are used")
    return found, np.array([entry.labels for entry in entries], np.uint8)


def _read_entries(listing: Path) -> list[ListEntry]:
    entries = read_list(listing)
    if not entries:
        raise ListError(f"{listing}: expected a list of images, got an empty file")
    warn_of_contradictions(listing, entries)
    return entries
