"""The inventory of an input: every image with its class, before any of them is opened.

In: class folders, or a folder of images with a list that names their classes: a table (`.csv`), a
`.lst`, or an augmented manifest (JSON lines). Out: an `Inventory`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from image_classification.data.labels import LABELS_FILE, LabelMap
from image_classification.data.listing import ListEntry
from image_classification.data.samples import IntArray
from image_classification.errors import DataError, UsageError

SPLITS = ("train", "validation", "test")

_SPLIT_NAMES = {
    "train": ("train", "training", "tr"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
_TABLES, _LISTS, _MANIFESTS = (".csv", ".tsv"), (".lst",), (".manifest", ".jsonl")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inventory:
    """Every image of an input and what the input says of it.

    Attributes:
        name: the input, for messages.
        root: the folder that the entries' paths are relative to.
        entries: one label each, the class index; ids are unique.
        labels: the class names.
        splits: for each entry the split that the input puts it in; empty: the input does not say.
        groups: for each entry the group it belongs to; empty: there are no groups.
        left_out: (what, how many, one example) of what is in the folder and not in the entries.
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
    """The split that a folder or a cell names (`val` is validation), or None if none."""
    lowered = name.strip().lower()
    return next((split for split, names in _SPLIT_NAMES.items() if lowered in names), None)


def take_inventory(
    root: Path,
    listing: Path | None = None,
    *,
    labels: LabelMap | None = None,
    group_by: str | None = None,
    label_attribute: str | None = None,
) -> Inventory:
    """The inventory of a folder.

    Without `listing`, class folders are what they are; a folder without any is read by the one
    list that lies in it.

    Args:
        root: the folder of images.
        listing: the list that says which image has which class.
        labels: the class names in the order of their numbers; without it, a `labels.json` in the
            folder or beside the list decides, else the input itself.
        group_by: the column or attribute whose values are the groups.
        label_attribute: the attribute of a manifest that holds the class.

    Raises:
        DataError: no image, a malformed list, or classes that contradict `labels`.
        UsageError: an option that this kind of input does not have.
    """
    # Imported here because they build the class of this module.
    from image_classification.data.inventory.folders import read_class_folders
    from image_classification.data.inventory.lists import read_list_inventory
    from image_classification.data.inventory.manifest import read_manifest
    from image_classification.data.inventory.rows import assemble
    from image_classification.data.inventory.table import read_table

    if not root.is_dir():
        raise DataError(f"{root}: expected a folder of images, found none")
    if labels is None and (root / LABELS_FILE).is_file():
        labels = LabelMap.read(root / LABELS_FILE)
    listing = listing or _only_listing(root)
    kind = listing.suffix.lower() if listing else ""
    if group_by and kind not in _TABLES + _MANIFESTS:
        raise UsageError(f"--group-by {group_by}: only a CSV or a manifest has columns to group by")
    if label_attribute and kind not in _MANIFESTS:
        raise UsageError(f"--label-attribute {label_attribute}: only a manifest has attributes")
    if listing is None:
        return read_class_folders(root, labels)
    _log.info("%s: classes are read from %s", root, listing)
    if kind in _LISTS:
        return read_list_inventory(root, listing, labels)
    if kind in _TABLES:
        rows = read_table(listing, group_by)
    elif kind in _MANIFESTS:
        rows = read_manifest(listing, label_attribute, group_by)
    else:
        endings = ", ".join(_TABLES + _LISTS + _MANIFESTS)
        raise UsageError(f"{listing}: expected a list named {endings}, got {kind!r}")
    inventory = assemble(root, listing, rows, labels)
    if inventory.splits and not group_by:  # a column called group is no wish to split anew
        return replace(inventory, groups=())
    return inventory


def _only_listing(root: Path) -> Path | None:
    """The list directly in a folder that has no two class folders; None where it has."""
    from image_classification.data.inventory.folders import has_class_folders

    found = sorted(
        path
        for path in root.iterdir()
        if path.suffix.lower() in _TABLES + _LISTS + _MANIFESTS and not path.name.startswith(".")
    )
    names = ", ".join(path.name for path in found)
    if has_class_folders(root):
        if found:
            _log.info("%s: its folders are the classes; --list reads %s instead", root, names)
        return None
    if len(found) > 1:
        raise UsageError(f"{root} has {len(found)} lists ({names}): name one with --list")
    return found[0] if found else None
