"""The inventory of class folders: `root/<class>/<image>`, or `root/<split>/<class>/<image>`."""

from __future__ import annotations

from pathlib import Path

from image_classification.data.inventory import Inventory, split_named
from image_classification.data.labels import LabelMap
from image_classification.data.listing import ListEntry
from image_classification.data.sources.folder import FolderSource
from image_classification.data.tree import IMAGE_EXTENSIONS, LeftOut, list_folder, refuse_unlistable
from image_classification.errors import DataError


def has_class_folders(root: Path) -> bool:
    """Whether two sub-folders hold images, or two splits hold class folders."""
    folders = _folders(root)
    if split_folders(root):
        return True
    return sum(_has_image(folder) for folder in folders) > 1


def split_folders(root: Path) -> dict[str, Path]:
    """Split → sub-folder, where all sub-folders are named after splits and hold class folders.

    Raises:
        DataError: two folders are named after the same split.
    """
    folders = _folders(root)
    splits: dict[str, Path] = {}
    for folder in folders:
        split = split_named(folder.name)
        if split is None or not any(map(_has_image, _folders(folder))):
            return {}
        if split in splits:
            raise DataError(
                f"{root}: both {splits[split].name} and {folder.name} are named after the "
                f"{split} split; keep one"
            )
        splits[split] = folder
    return splits


def read_class_folders(root: Path, labels: LabelMap | None) -> Inventory:
    """The images directly inside the class folders of `root`, or of its split folders.

    Raises:
        DataError: no image, or a class that is not in `labels`.
        ListError: a name holds a TAB or a line break.
    """
    splits = split_folders(root)
    sources = {folder: FolderSource(folder) for folder in splits.values() or [root]}
    names = {name for source in sources.values() for name in source.labels.names}
    labels = labels or LabelMap(tuple(sorted(names, key=str.encode)))
    entries: list[ListEntry] = []
    left_out = []
    for folder, source in sources.items():
        numbers = [labels.index(name) for name in source.labels.names]
        above = "" if folder == root else f"{folder.name}/"
        for i, class_index in enumerate(source.class_indices.tolist()):
            label = float(numbers[class_index])
            entries.append(ListEntry(len(entries), (label,), above + source.path(i)))
        left_out += source.left_out.reasons()
    refuse_unlistable(root, [entry.path for entry in entries])
    membership = [split for split, folder in splits.items() for _ in range(len(sources[folder]))]
    return Inventory(str(root), root, entries, labels, membership, left_out=left_out)


def _folders(root: Path) -> list[Path]:
    found = list_folder(str(root), LeftOut(), include_hidden=False)
    return [Path(entry.path) for entry in found if entry.is_dir()]


def _has_image(folder: Path) -> bool:
    return any(path.suffix.lower() in IMAGE_EXTENSIONS for path in folder.iterdir())
