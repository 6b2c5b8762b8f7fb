"""The inventory of a folder: from its class folders, or from the list in it."""

import logging
from dataclasses import replace
from pathlib import Path

from image_classification.errors import DataError, UsageError
from image_classification.inventory.column_kinds import ColumnOptions
from image_classification.inventory.grid import is_text
from image_classification.inventory.lists import read_list_inventory
from image_classification.inventory.manifest import is_manifest, read_manifest
from image_classification.inventory.matching import FileIndex
from image_classification.inventory.rows import Inventory, assemble, in_order
from image_classification.inventory.splits import (
    bare_splits,
    folder_split,
    left_beside,
    refuse_mixed_splits,
    split_folders,
    splits_in_names,
    subfolders,
)
from image_classification.inventory.tables import read_table
from image_classification.labels import tree
from image_classification.labels.label_map import LABELS_FILE, LabelMap
from image_classification.labels.lists import ListEntry
from image_classification.loading.foreign_files import (
    describe_file,
    describe_missing,
    refuse_pointer,
)
from image_classification.loading.packed import PackedSource, find_packed
from image_classification.loading.sources import NESTED, FolderSource

_TABLES, _LISTS, _MANIFESTS = (".csv", ".tsv"), (".lst",), (".manifest", ".jsonl")
_ON_REQUEST = (".txt", ".json", ".ndjson")  # a folder may hold such files that are no lists
_COCO = ".coco.json"
_NO_OPTIONS = ColumnOptions()
_NO_CLASSES = "folders named after a split, without class folders"
_log = logging.getLogger(__name__)


def has_class_folders(root: Path) -> bool:
    """Return True if two sub-folders hold images, or two splits hold class folders.

    Only images directly in these folders count: those of a list may lie deeper.
    """
    if split_folders(root, recursive=False):
        return True
    holding = [folder for folder in subfolders(root) if tree.has_image(folder, recursive=False)]
    return len(holding) > 1 and not all(folder_split(folder.name) for folder in holding)


def _read_class_folders(root: Path, labels: LabelMap | None) -> Inventory:
    """Return the images in the class folders of `root`, or of its split folders.

    Raises:
        DataError: no image, or a class that is not in `labels`.
        ListError: a name holds a TAB or a line break.
    """
    splits = split_folders(root)
    if not splits:
        refuse_mixed_splits(root)
    sources = {folder: FolderSource(folder) for folder in splits.values() or [root]}
    names = {name for source in sources.values() for name in source.labels.names}
    if labels is None:
        labels = LabelMap(tuple(sorted(names, key=str.encode)))
        next(iter(sources.values())).log_order_of_numbers()
    entries: list[ListEntry] = []
    left_out = []
    for folder, source in sources.items():
        numbers = [labels.index(name) for name in source.labels.names]
        above = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
        for i, class_index in enumerate(source.class_indices.tolist()):
            label = float(numbers[class_index])
            entries.append(ListEntry(len(entries), (label,), above + source.path(i)))
        left_out += source.left_out.reasons()
        nested = [(name, inner) for name, inners in source.subclasses.items() for inner in inners]
        if nested:
            left_out.append((NESTED, len(nested), str(folder.joinpath(*nested[0]))))
    left_out += left_beside(root, splits.values()).reasons() if splits else []
    if splits and (others := bare_splits(root)):
        left_out.append((_NO_CLASSES, len(others), str(others[0])))
        _log.warning("%s: left out %s, which has no class folders", root, others[0])
    tree.refuse_unlistable(root, [entry.path for entry in entries])
    membership = [split for split, folder in splits.items() for _ in range(len(sources[folder]))]
    return Inventory(str(root), root, entries, labels, membership, left_out=left_out)


def take_inventory(
    root: Path,
    listing: Path | None = None,
    *,
    labels: LabelMap | None = None,
    group_by: str | None = None,
    label_attribute: str | None = None,
    columns: ColumnOptions = _NO_OPTIONS,
) -> Inventory:
    """Return the inventory of a folder.

    Without `listing`, class folders give the classes; in a folder without class folders, the only
    list in it does.

    Args:
        root: the folder of images.
        listing: the list with the class of each image.
        labels: the class names in the order of their numbers; without it, a `labels.json` in the
            folder or next to the list decides, else the input itself.
        group_by: the column or attribute whose values are the groups.
        label_attribute: the attribute of a manifest that holds the class.
        columns: what the columns of a table mean.

    Raises:
        DataError: no image, a malformed list, or classes that contradict `labels`.
        UsageError: an option that this kind of input does not have.
    """
    if not root.is_dir():
        found = describe_file(root) if root.is_file() else describe_missing(root)
        raise DataError(f"{root}: expected a folder of images, found {found}")
    labels = labels or LabelMap.beside(root / LABELS_FILE)
    columns = replace(columns, group=group_by)
    if listing is None and (packed := _take_packed(root, labels)):
        _check_options(None, columns, label_attribute)
        return packed
    if listing is None:
        folders = _split_tables(root)
        if folders:
            parts = {
                split: take_inventory(
                    folder,
                    labels=labels,
                    group_by=group_by,
                    label_attribute=label_attribute,
                    columns=columns,
                )
                for split, folder in folders.items()
            }
            joined = _joined(root, parts, labels)
            return joined if len(parts) > 1 else replace(joined, splits=())
    listing = listing or _only_listing(root)
    _check_options(listing, columns, label_attribute)
    if listing is None:
        return _read_class_folders(root, labels)
    _log.info("%s: classes are read from %s", root, listing)
    inventory = _read_listing(root, listing, labels, columns, label_attribute)
    if inventory.splits and not group_by:  # a column named group does not ask for a new split
        return replace(inventory, groups=())
    return inventory


def _take_packed(root: Path, labels: LabelMap | None) -> Inventory | None:
    """Return the inventory of the TFRecord files and tar shards in `root`; None without any.

    Args:
        root: the folder, or the root of split folders.
        labels: the class names in the order of their numbers, or None.

    Raises:
        DataError: a damaged file, or classes that contradict `labels`.
        ListError: a name in a tar holds a TAB or a line break.
    """
    splits = {"": root} if (here := find_packed(root, with_tables=True)) else split_folders(root)
    files = {
        split: here or find_packed(folder, with_tables=True) for split, folder in splits.items()
    }
    paths = [path for found in files.values() for path in found]
    if not paths:
        return None
    if not all(files.values()):
        lacking = ", ".join(splits[split].name for split in files if not files[split])
        raise DataError(
            f"{root}: expected TFRecord files or tar shards in every split, as in {paths[0]}, but "
            f"{lacking} has none; prepare the splits one by one"
        )
    source = PackedSource(paths, labels or LabelMap.beside(paths[0]), is_multi_label=None)
    if not len(source):
        raise DataError(f"{source.name}: expected images, found none")
    rows = source.class_indices[:, None] if source.multi_hot is None else source.multi_hot
    highest = int(source.class_indices.max()) if source.multi_hot is None else rows.shape[1] - 1
    names = source.labels or LabelMap.numbered(highest + 1, source.name)
    if highest >= len(names):
        raise DataError(
            f"{source.name}: found class {highest}, but the label map has {len(names)} classes"
        )
    entries = [
        ListEntry(number, tuple(map(float, row)), source.key(number))
        for number, row in enumerate(rows.tolist())
    ]
    tree.refuse_unlistable(root, [entry.path for entry in entries])
    owners = splits_in_names(here) or [split for split in files for _ in files[split]]
    membership = [
        split
        for split, count in zip(owners, source.file_sizes, strict=True)
        for _ in range(count if split else 0)
    ]
    return Inventory(
        str(root),
        root,
        entries,
        names,
        membership,
        is_multi_label=source.multi_hot is not None,
        read=lambda entry: source.read(entry.id).data,
    )


def _read_listing(
    root: Path,
    listing: Path,
    labels: LabelMap | None,
    columns: ColumnOptions,
    label_attribute: str | None,
) -> Inventory:
    refuse_pointer(listing)
    kind = listing.suffix.lower()
    if kind in _LISTS:
        return read_list_inventory(root, listing, labels, may_have_several=True)
    if kind in _MANIFESTS and is_manifest(listing):
        attribute = label_attribute or columns.label
        rows, own_labels = read_manifest(
            listing, attribute, columns.group, columns.split, columns.separator
        )
        return assemble(root, listing, rows, labels, own_labels)
    if label_attribute and columns.label is None:
        columns = replace(columns, label=label_attribute)
    files = FileIndex.below(root, listing)
    table, own_labels = read_table(listing, files, columns)
    return assemble(root, listing, table, labels, own_labels, files)


def _split_tables(root: Path) -> dict[str, Path]:
    """Return split → sub-folder if all sub-folders are named after splits and hold a list each.

    A split without a list, such as an unlabeled test split, is left out with a warning.
    """
    splits: dict[str, Path] = {}
    without: list[str] = []
    for folder in subfolders(root):
        split = folder_split(folder.name)
        if split is None or split in splits or any(folder.glob("*.rec")):
            return {}
        if len(_listings(folder)) == 1 and not has_class_folders(folder):
            splits[split] = folder
        elif _listings(folder) or split_folders(root):
            return {}
        else:
            without.append(folder.name)
    if splits and without:
        _log.warning(
            "%s: left out %s, which has no table with the classes of its images",
            *(root, " and ".join(without)),
        )
    return splits


def _joined(root: Path, parts: dict[str, Inventory], labels: LabelMap | None) -> Inventory:
    """Return the inventories of split folders as one; their classes are put together."""
    maps = [part.labels for part in parts.values()]
    if labels is None:
        names = {name for one in maps for name in one.names}
        labels = maps[0] if len(set(maps)) == 1 else LabelMap(in_order(names))
    is_multi_label = any(part.is_multi_label for part in parts.values())
    entries: list[ListEntry] = []
    splits: list[str] = []
    groups: list[str] = []
    for split, part in parts.items():
        above = part.root.relative_to(root).as_posix()
        indices = [labels.index(name) for name in part.labels.names]
        for entry in part.entries:
            present = [i for i, bit in enumerate(entry.labels) if bit]
            if not part.is_multi_label:
                present = [int(entry.labels[0])]
            numbers = {indices[i] for i in present}
            label: tuple[float, ...] = tuple(map(float, numbers))
            if is_multi_label:
                label = tuple(float(i in numbers) for i in range(len(labels)))
            entries.append(ListEntry(len(entries), label, f"{above}/{entry.path}"))
        splits += [split] * len(part.entries)
        groups += part.groups
    left_out = [reason for part in parts.values() for reason in part.left_out]
    return Inventory(
        str(root),
        root,
        entries,
        labels,
        splits,
        groups if len(groups) == len(entries) else (),
        left_out,
        is_multi_label,
    )


def _check_options(
    listing: Path | None, columns: ColumnOptions, label_attribute: str | None
) -> None:
    kind = listing.suffix.lower() if listing else ""
    is_known = kind in _TABLES + _LISTS + _MANIFESTS + _ON_REQUEST
    if listing is not None and not is_known and not is_text(listing):
        endings = ", ".join(_TABLES + _LISTS + _MANIFESTS + _ON_REQUEST)
        raise UsageError(
            f"{listing}: expected a list as text, or one named {endings}, got {kind!r}; write it "
            "as CSV (UTF-8)"
        )
    has_columns = listing is not None and kind not in _LISTS
    if columns.group and not has_columns:
        raise UsageError(
            f"--group-by {columns.group}: only a CSV or a manifest has columns to group by"
        )
    if label_attribute and not has_columns:
        raise UsageError(f"--label-attribute {label_attribute}: only a manifest has attributes")
    if not has_columns:
        refuse_columns(columns)


def refuse_columns(columns: ColumnOptions) -> None:
    """Raise a UsageError for flags about columns, where there is no table."""
    for flag, value in columns.flags():
        raise UsageError(
            f"{flag} {value}: only a table has columns; name it with --list, or leave out {flag}"
        )


def _listings(folder: Path) -> list[Path]:
    """Return the files in a folder that are lists by their names."""
    return sorted(
        path
        for path in folder.iterdir()
        if (
            path.suffix.lower() in _TABLES + _LISTS + _MANIFESTS
            or path.name.lower().endswith(_COCO)
        )
        and not path.name.startswith(".")
        and path.is_file()
    )


def _only_listing(root: Path) -> Path | None:
    """Return the only list in a folder without class folders; None with class folders."""
    found = _listings(root)
    names = ", ".join(path.name for path in found)
    if has_class_folders(root):
        if found:
            _log.warning(
                "%s: its folders are the classes, although %s is next to them; if that holds the "
                "classes, name it with --list",
                *(root, names),
            )
        return None
    if len(found) > 1:
        raise UsageError(f"{root} has {len(found)} lists ({names}): name one with --list")
    return found[0] if found else None
