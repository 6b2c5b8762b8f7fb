"""Which parts a path has: split folders, class folders, a folder with a list, record files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from image_classification.errors import DataError
from image_classification.inventory import Inventory, find_files, labels_beside, split_named
from image_classification.inventory.folders import has_class_folders, take_inventory
from image_classification.inventory.tables import file_rows
from image_classification.labels.label_map import LABELS_FILE, LabelMap, label_map_from_folders
from image_classification.labels.lists import read_list
from image_classification.labels.tree import LeftOut, class_name, list_folder
from image_classification.prepare.check import Part
from image_classification.records.reader import RecordFile


def parts_of(path: Path, listing: Path | None = None) -> list[Part]:
    """The parts of a record file or a folder.

    Raises:
        DataError: there is no such path, nothing to check in it, or a damaged list or record file.
    """
    if path.is_file() and path.suffix == ".rec":
        return [_record_part(path, [path])]
    if not path.is_dir():
        raise DataError(f"{path}: expected a folder or a record file (.rec)")
    splits = [] if listing else _split_folders(path)
    if splits:
        return [part for folder in splits for part in parts_of(folder)]
    records = sorted(path.glob("*.rec"))
    if records and listing is None:
        return [_record_part(path, records)]
    lists = [listing] if listing else sorted(path.glob("*.lst"))
    are_lists = all(found.suffix == ".lst" for found in lists)
    if lists and are_lists and (listing or not has_class_folders(path)):
        return [_list_part(path, found, is_only=len(lists) == 1) for found in lists]
    return _inventory_parts(take_inventory(path, listing))


def _split_folders(path: Path) -> list[Path]:
    """The sub-folders, if all are named after splits."""
    folders = _folders(path)
    return folders if all(split_named(folder.name) for folder in folders) else []


def _folders(path: Path) -> list[Path]:
    found = list_folder(str(path), LeftOut(), include_hidden=False)
    return [Path(entry.path) for entry in found if entry.is_dir()]


def _inventory_parts(inventory: Inventory) -> list[Part]:
    """One part, or one for each split that the input names; they share what was left out."""
    splits = np.array(inventory.splits or [""] * len(inventory.entries))
    parts: list[Part] = []
    for split in dict.fromkeys(splits.tolist()):
        entries = [inventory.entries[i] for i in np.flatnonzero(splits == split)]
        paths = [entry.path for entry in entries]
        labels = np.array([entry.labels[0] for entry in entries], np.float64)
        name = f"{inventory.root} ({split})" if split else str(inventory.root)
        left_out = () if parts else inventory.left_out
        parts.append(_file_part(name, inventory.root, paths, labels, inventory.labels, left_out))
    return parts


def _list_part(root: Path, listing: Path, is_only: bool) -> Part:
    """The images of a `.lst`, with whatever labels it has: those out of range are a problem."""
    entries = read_list(listing)
    if not entries:
        raise DataError(f"{listing}: expected a list of images, got an empty file")
    paths, left_out = find_files(root, file_rows(listing, entries))
    labels = np.array(
        [entry.labels[0] if len(entry.labels) == 1 else np.nan for entry in entries], np.float64
    )
    whole = bool(np.all(np.floor(labels) == labels))
    names = labels_beside(listing) or (label_map_from_folders(entries) if whole else None)
    name = str(root) if is_only else str(listing)
    # What one of several lists does not name is named by another.
    return _file_part(name, root, paths, labels, names, left_out.reasons() if is_only else ())


def _file_part(
    name: str,
    root: Path,
    paths: Sequence[str],
    labels: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    names: LabelMap | None,
    left_out: Sequence[tuple[str, int, str]],
) -> Part:
    def read(number: int) -> bytes:
        with open(os.path.join(root, paths[number]), "rb", buffering=0) as file:
            return file.read()

    keys = [class_name(path) for path in paths]
    return Part(name, str(root), keys, labels, names, read, left_out)


def _record_part(path: Path, paths: Sequence[Path]) -> Part:
    """The shards of a channel, or one file; the maps live as long as the part."""
    files = [RecordFile(path) for path in paths]
    places = [(file, number) for file in files for number in range(len(file))]
    keys, labels = [], []
    for file in files:
        if len(file):
            headers = file.record_headers
            keys += [f"{file.path.name}#{i}" for i in headers["id"].tolist()]
            labels.append(np.where(headers["flag"] > 1, np.nan, file.record_labels()))
    beside = paths[0].with_name(LABELS_FILE)
    names = LabelMap.read(beside) if beside.is_file() else None

    def read(number: int) -> bytes:
        file, record = places[number]
        return file.read_image(record).content

    folder = str(paths[0].parent)
    return Part(str(path), folder, keys, np.concatenate([np.empty(0), *labels]), names, read)
