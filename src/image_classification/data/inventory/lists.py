"""The inventory of a folder with a `.lst`: ids and class numbers are those of the list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from image_classification.data.inventory import Inventory
from image_classification.data.inventory.rows import Row, find_files, labels_beside
from image_classification.data.labels import LabelMap, names_of_folders
from image_classification.data.listing import ListEntry, read_list
from image_classification.data.samples import UInt8Array
from image_classification.errors import ListError


def read_list_inventory(root: Path, listing: Path, labels: LabelMap | None) -> Inventory:
    """The images of a list.

    The names are `labels`, else those of a `labels.json` beside the list, else the folders of the
    images where every class has one of its own, else the numbers.

    Raises:
        ListError: a malformed list, no image in it, or a label that is no class number.
    """
    entries = read_list(listing)
    if not entries:
        raise ListError(f"{listing}: expected a list of images, got an empty file")
    for entry in entries:
        if len(entry.labels) > 1 or not entry.labels[0].is_integer() or entry.labels[0] < 0:
            raise ListError(
                f"{listing}, id {entry.id}: expected one class number from 0 as label, got "
                f"{', '.join(f'{label:g}' for label in entry.labels)}"
            )
    classes = int(max(entry.labels[0] for entry in entries)) + 1
    labels = labels or labels_beside(listing) or names_of_folders(entries)
    labels = labels or LabelMap.numbered(classes)
    if classes > len(labels):
        raise ListError(
            f"{listing} has a label {classes - 1}, but there are {len(labels)} class names: "
            f"{list(labels.names)[:20]}"
        )
    found, left_out = find_files(root, file_rows(listing, entries))
    left_out.warn(root, f"{listing.name} decides what is taken")
    placed = [
        ListEntry(entry.id, entry.labels, path) for entry, path in zip(entries, found, strict=True)
    ]
    name = f"{root} by {listing}"
    return Inventory(name, root, placed, labels, left_out=left_out.reasons())


def read_multi_hot_list(root: Path, listing: Path) -> tuple[list[str], UInt8Array]:
    """Paths below `root` and uint8 (len, classes) of a list with a column 0 or 1 for every class.

    Raises:
        ListError: a malformed list, no image in it, or lines of another width or other values.
    """
    entries = read_list(listing)
    if not entries:
        raise ListError(f"{listing}: expected a list of images, got an empty file")
    width = len(entries[0].labels)
    for entry in entries:
        if len(entry.labels) != width or not set(entry.labels) <= {0.0, 1.0}:
            raise ListError(
                f"{listing}, id {entry.id}: expected {width} columns 0 or 1, one for every class, "
                f"got {', '.join(f'{label:g}' for label in entry.labels)}"
            )
    found, left_out = find_files(root, file_rows(listing, entries))
    left_out.warn(root, f"{listing.name} decides what is taken")
    return found, np.array([entry.labels for entry in entries], np.uint8)


def file_rows(listing: Path, entries: Sequence[ListEntry]) -> list[Row]:
    """The entries of a list as rows, to look their files up."""
    return [
        Row(f"{listing}, id {entry.id}", entry.path, f"{entry.labels[0]:g}") for entry in entries
    ]
