"""The subsets below a path: split folders, class folders, a folder with a list, record files."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from image_classification.errors import DataError
from image_classification.inventory import folders, rows, splits
from image_classification.inventory.tables import file_rows
from image_classification.labels.label_map import LabelMap
from image_classification.labels.lists import read_list
from image_classification.labels.tree import class_name
from image_classification.loading.foreign_files import describe_file
from image_classification.prepare.check import Subset
from image_classification.records.reader import RecordFile
from image_classification.samples import Float64Array


def find_subsets(path: Path, listing: Path | None = None) -> list[Subset]:
    """Return the subsets of a record file or a folder.

    Raises:
        DataError: there is no such path, nothing to check in it, or a damaged list or record file.
    """
    if path.is_file() and path.suffix == ".rec":
        return [_record_subset(path, [path])]
    if not path.is_dir():
        found = describe_file(path) if path.is_file() else "nothing"
        raise DataError(f"{path}: expected a folder or a record file (.rec), found {found}")
    below = [] if listing else splits.subfolders(path)
    if below and not all(rows.split_named(folder.name) for folder in below):
        below = list(splits.split_folders(path).values())
    if below:
        return [subset for folder in below for subset in find_subsets(folder)]
    records = sorted(path.glob("*.rec"))
    if records and listing is None:
        return [_record_subset(path, records)]
    lists = [listing] if listing else sorted(path.glob("*.lst"))
    are_lists = all(found.suffix == ".lst" for found in lists)
    if lists and are_lists and (listing or not folders.has_class_folders(path)):
        return [_list_subset(path, found, is_only=len(lists) == 1) for found in lists]
    return _inventory_subsets(folders.take_inventory(path, listing))


def _inventory_subsets(inventory: rows.Inventory) -> list[Subset]:
    """Return one subset, or one for each split that the input names."""
    splits = np.array(inventory.splits or [""] * len(inventory.entries))
    subsets: list[Subset] = []
    for split in dict.fromkeys(splits.tolist()):
        entries = [inventory.entries[i] for i in np.flatnonzero(splits == split)]
        paths = [entry.path for entry in entries]
        labels = np.array([entry.labels[0] for entry in entries], np.float64)
        name = f"{inventory.root} ({split})" if split else str(inventory.root)
        left_out = () if subsets else inventory.left_out  # once for all of them
        subsets.append(
            _file_subset(name, inventory.root, paths, labels, inventory.labels, left_out)
        )
    return subsets


def _list_subset(root: Path, listing: Path, is_only: bool) -> Subset:
    """Return the images of a `.lst` with their labels; those out of range become a problem."""
    entries = read_list(listing)
    if not entries:
        raise DataError(f"{listing}: expected a list of images, got an empty file")
    paths, left_out = rows.find_files(root, listing, file_rows(listing, entries))
    labels = np.array(
        [entry.labels[0] if len(entry.labels) == 1 else np.nan for entry in entries], np.float64
    )
    whole = bool(np.all(np.floor(labels) == labels))
    names = LabelMap.beside(listing) or (LabelMap.from_folders(entries) if whole else None)
    name = str(root) if is_only else str(listing)
    # Another list may name the images that one of several lists leaves out.
    return _file_subset(name, root, paths, labels, names, left_out.reasons() if is_only else ())


def _file_subset(
    name: str,
    root: Path,
    paths: Sequence[str],
    labels: Float64Array,
    names: LabelMap | None,
    left_out: Sequence[tuple[str, int, str]],
) -> Subset:
    def read(index: int) -> bytes:
        with open(os.path.join(root, paths[index]), "rb", buffering=0) as file:
            return file.read()

    keys = [class_name(path) for path in paths]
    return Subset(name, str(root), keys, labels, names, read, left_out)


def _record_subset(path: Path, paths: Sequence[Path]) -> Subset:
    """Return the shards of a channel, or one file; the maps live as long as the subset."""
    files = [RecordFile(path) for path in paths]
    records = [(file, number) for file in files for number in range(len(file))]
    keys, labels = [], []
    for file in files:
        if len(file):
            headers = file.record_headers
            keys += [f"{file.path.name}#{i}" for i in headers["id"].tolist()]
            labels.append(np.where(headers["flag"] > 1, np.nan, file.record_labels()))

    def read(index: int) -> bytes:
        file, number = records[index]
        return file.read_image(number).content

    folder, names = str(paths[0].parent), LabelMap.beside(paths[0])
    return Subset(str(path), folder, keys, np.concatenate([np.empty(0), *labels]), names, read)
