"""The subsets below a path: split folders, class folders, a folder with a list, record files."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from image_classification.errors import DataError
from image_classification.inventory import folders, rows, splits
from image_classification.inventory.column_kinds import ColumnOptions
from image_classification.inventory.rows import file_rows
from image_classification.labels.kinds import LabelKind, kind_of
from image_classification.labels.label_map import LabelMap
from image_classification.labels.lists import read_list
from image_classification.labels.tree import class_name
from image_classification.loading.foreign_files import describe_file, describe_missing
from image_classification.loading.packed import PackedSource, find_packed
from image_classification.loading.record_names import find_names
from image_classification.loading.records import read_record_labels, stacked_rows
from image_classification.prepare.check import WITHOUT_IMAGE, Subset
from image_classification.records.packed import is_packed
from image_classification.records.parquet import is_table
from image_classification.records.reader import RecordFile
from image_classification.samples import FloatArray

_NO_OPTIONS = ColumnOptions()
_PLUS_0 = 0.0  # turns -0, which equals 0 but is not written like it, into 0


def find_subsets(
    path: Path, listing: Path | None = None, columns: ColumnOptions = _NO_OPTIONS
) -> list[Subset]:
    """Return the subsets of a record file or a folder.

    Args:
        path: the record file or folder.
        listing: the list of its images, or None.
        columns: what the columns of a table mean.

    Raises:
        DataError: there is no such path, nothing to check in it, or a damaged list or record file.
    """
    if path.is_file() and path.suffix == ".rec":
        folders.refuse_columns(columns)
        return [_record_subset(path, [path])]
    if path.is_file() and (is_packed(path) or is_table(path)):
        return [_packed_subset(path, [path])]
    if not path.is_dir():
        other = describe_file(path) if path.is_file() else describe_missing(path)
        raise DataError(f"{path}: expected a folder or a record file (.rec), found {other}")
    below = [] if listing else splits.subfolders(path)
    if below and not all(splits.folder_split(folder.name) for folder in below):
        below = list(splits.split_folders(path).values())
    if below:
        found = [subset for folder in below for subset in find_subsets(folder, columns=columns)]
        beside = splits.left_beside(path, below).reasons()
        return [replace(found[0], left_out=[*found[0].left_out, *beside]), *found[1:]]
    records = [found for found in sorted(path.glob("*.rec")) if found.is_file()]
    if records and listing is None:
        folders.refuse_columns(columns)
        return [_record_subset(path, records)]
    if listing is None and (packed := find_packed(path, with_tables=True)):
        return [_packed_subset(path, packed)]
    lists = [found for found in sorted(path.glob("*.lst")) if found.is_file()]
    lists = [listing] if listing else lists
    are_lists = all(found.suffix == ".lst" for found in lists)
    if lists and are_lists and (listing or not folders.has_class_folders(path)):
        folders.refuse_columns(columns)
        return [_list_subset(path, found, is_only=len(lists) == 1) for found in lists]
    return _inventory_subsets(folders.take_inventory(path, listing, columns=columns))


def _inventory_subsets(inventory: rows.Inventory) -> list[Subset]:
    """Return one subset, or one for each split that the input names."""
    splits = np.array(inventory.splits or [""] * len(inventory.entries))
    subsets: list[Subset] = []
    for split in dict.fromkeys(splits.tolist()):
        entries = [inventory.entries[i] for i in np.flatnonzero(splits == split)]
        paths = [entry.path for entry in entries]
        labels = [entry.labels for entry in entries]
        kind = LabelKind.MULTI_HOT if inventory.is_multi_label else LabelKind.CLASS
        name = f"{inventory.root} ({split})" if split else str(inventory.root)
        left_out = () if subsets else inventory.left_out  # once for all of them
        subsets.append(
            replace(
                _file_subset(
                    name, inventory.root, paths, (kind, labels), inventory.labels, left_out
                ),
                is_named=True,
                split=split or rows.split_named(inventory.root.name) or "",
            )
        )
    return subsets


def _list_subset(root: Path, listing: Path, is_only: bool) -> Subset:
    """Return the images of a `.lst` with their labels; those out of range become a problem."""
    entries = read_list(listing)
    if not entries:
        raise DataError(f"{listing}: expected a list of images, got an empty file")
    paths, left_out = rows.find_files(root, listing, file_rows(listing, entries))
    labels = [entry.labels for entry in entries]
    kind = kind_of(labels)
    whole = all(label.is_integer() for row in labels for label in row)
    names = LabelMap.beside(listing) or (LabelMap.from_folders(entries) if whole else None)
    name = str(root) if is_only else str(listing)
    # Another list may name the images that one of several lists leaves out.
    reasons = left_out.reasons() if is_only else ()
    subset = _file_subset(name, root, paths, (kind, labels), names, reasons)
    split = rows.split_named(root.name) or ""
    return replace(subset, origin=str(listing), split=split)


def _file_subset(
    name: str,
    root: Path,
    paths: Sequence[str],
    labeled: tuple[LabelKind, Sequence[Sequence[float]]],
    names: LabelMap | None,
    left_out: Sequence[tuple[str, int, str]],
) -> Subset:
    kind, rows_ = labeled
    first = np.array([row[0] if len(row) == 1 else np.nan for row in rows_], np.float64) + _PLUS_0
    if kind is LabelKind.NUMBERS and np.isfinite(first).any():  # some images are wrong, not all
        kind = LabelKind.CLASS
    multi_hot = np.array(rows_, np.uint8) if kind is LabelKind.MULTI_HOT else None

    def read(index: int) -> bytes:
        with open(os.path.join(root, paths[index]), "rb", buffering=0) as file:
            return file.read()

    keys = [class_name(path) for path in paths]
    subset = Subset(name, str(root), keys, first, names, read, left_out, kind, multi_hot)
    return replace(subset, paths=paths)


def _packed_subset(path: Path, files: Sequence[Path]) -> Subset:
    """Return the images of TFRecord files or tar shards, which stay open with the subset."""
    source = PackedSource(files, LabelMap.beside(files[0]), is_multi_label=None)
    keys = [source.key(index) for index in range(len(source))]
    labels = source.class_indices.astype(np.float64)
    folder = str(files[0].parent)
    return Subset(
        str(path),
        folder,
        keys,
        labels,
        source.labels,
        lambda index: source.read(index).data,
        kind=LabelKind.CLASS if source.multi_hot is None else LabelKind.MULTI_HOT,
        multi_hot=source.multi_hot,
    )


def _record_subset(path: Path, paths: Sequence[Path]) -> Subset:
    """Return the shards of a channel, or one file; the maps live as long as the subset."""
    files = [RecordFile(path) for path in paths]
    found = read_record_labels(files)
    records: list[tuple[RecordFile, int]] = []
    keys: list[str] = []
    labels: list[FloatArray] = []
    without: list[str] = []
    origins: list[str] = []
    reported: set[Path] = set()
    for file, has_image in zip(files, found.has_image, strict=True):
        if not len(file):
            continue
        files_ = find_names(file, has_image, reported)
        ids = file.record_headers["id"].tolist()
        names_ = [files_.key(f"{file.path.name}#{id_}", n) for n, id_ in enumerate(ids)]
        without += [names_[number] for number in np.flatnonzero(~has_image).tolist()]
        numbers = np.flatnonzero(has_image).tolist()
        records += [(file, number) for number in numbers]
        keys += [names_[number] for number in numbers]
        origins += filter(None, map(files_.path, numbers))
        is_single = (file.record_headers["flag"] <= 1) | (found.kind is not LabelKind.NUMBERS)
        labels.append(np.where(is_single, file.record_labels(), np.nan)[has_image])
    kind = found.kind
    if kind is LabelKind.NUMBERS and any(np.isfinite(some).any() for some in labels):
        kind = LabelKind.CLASS  # some images are wrong, not all
    multi_hot = stacked_rows(files) if found.kind is LabelKind.MULTI_HOT else None

    def read(index: int) -> bytes:
        file, number = records[index]
        return file.read_image(number).content

    folder, names = str(paths[0].parent), LabelMap.beside(paths[0])
    return Subset(
        str(path),
        folder,
        keys,
        np.concatenate([np.empty(0), *labels]) + _PLUS_0,
        names,
        read,
        [(WITHOUT_IMAGE, len(without), without[0])] if without else (),
        kind,
        multi_hot,
        str(paths[0]),
        origins=origins if len(origins) == len(keys) else (),
    )
