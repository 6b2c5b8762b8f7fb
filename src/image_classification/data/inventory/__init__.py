"""The inventory of an input: every image with its class, before any of them is opened.

In: class folders, or a folder of images with a list that names their classes: a table (`.csv`), a
`.lst`, or an augmented manifest (JSON lines). Out: an `Inventory`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from image_classification.data.labels import LabelMap
from image_classification.data.listing import ListEntry
from image_classification.data.samples import IntArray

SPLITS = ("train", "validation", "test")

_SPLIT_NAMES = {
    "train": ("train", "training", "tr"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


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
