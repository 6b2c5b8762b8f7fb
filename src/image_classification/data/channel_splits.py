"""Which image goes into which split: as the input says, or drawn by class and by group."""

from __future__ import annotations

import numpy as np

from image_classification.data.inventory import SPLITS, Inventory
from image_classification.data.listing import ListEntry
from image_classification.data.samples import IntArray
from image_classification.data.splitting import stratified_group_split, stratified_split
from image_classification.errors import DataError, UsageError

DEFAULT_TRAIN_RATIO = 0.8


def split_inventory(
    inventory: Inventory, train_ratio: float | None, test_ratio: float | None, seed: int
) -> dict[str, list[ListEntry]]:
    """Split → its list, shuffled: readers without an index shuffle in a small window only.

    Args:
        inventory: its own splits are kept; its groups are not torn apart. Without an image there
            are no splits.
        train_ratio, test_ratio: shares, 0 to 1; validation gets the rest, which must not be empty.
            None: the inventory's own splits, or 0.8 and 0.
        seed: 0 or more.

    Raises:
        UsageError: ratios that leave a split empty, or ratios for an input with splits of its own.
        DataError: an input with splits of its own that lacks one.
    """
    if not inventory.entries:
        return {}
    if inventory.splits:
        if train_ratio is not None or test_ratio is not None or inventory.groups:
            raise UsageError(
                f"{inventory.name} says which image is in which split, so ratios and groups cannot "
                "be met: leave them out, or remove the splits from the input"
            )
        indices = _given_splits(inventory)
    else:
        train = DEFAULT_TRAIN_RATIO if train_ratio is None else train_ratio
        indices = _drawn_splits(inventory, train, test_ratio or 0.0, seed)
    lists = {}
    for name, members in indices.items():
        order = np.random.default_rng([seed, len(members)]).permutation(members)
        lists[name] = [inventory.entries[int(i)] for i in order]
    return lists


def _given_splits(inventory: Inventory) -> dict[str, IntArray]:
    splits = np.array(inventory.splits)
    indices = {name: np.flatnonzero(splits == name) for name in SPLITS}
    for name in ("train", "validation"):
        if not len(indices[name]):
            raise DataError(
                f"{inventory.name} has splits, but no image in {name}; add some, or remove the "
                "splits from the input to have them drawn"
            )
    return {name: members for name, members in indices.items() if len(members)}


def _drawn_splits(
    inventory: Inventory, train: float, test: float, seed: int
) -> dict[str, IntArray]:
    if not train + test < 1:
        raise UsageError(
            f"train ratio {train} and test ratio {test} leave nothing for validation: they must "
            "add up to less than 1"
        )
    ratios = (train, 1 - train - test, test)
    classes = inventory.class_indices
    if inventory.groups:
        parts = stratified_group_split(classes, inventory.groups, ratios, seed)
    else:
        parts = stratified_split(classes, ratios, seed)
    if not len(parts.validation):
        raise UsageError(
            f"{inventory.name}: {len(classes)} images are too few for a validation split; every "
            "class needs at least two"
        )
    return {name: members for name, members in zip(SPLITS, parts, strict=True) if len(members)}
