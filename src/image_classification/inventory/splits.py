"""The split folders of a data set: `train`, `val` and `test`, as most downloads have them.

In: a root folder. Out: the folder of each split, or none if the folders are the classes.
"""

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from image_classification.errors import DataError
from image_classification.inventory.rows import SPLITS, split_named
from image_classification.labels import tree
from image_classification.labels.label_map import LABELS_FILE
from image_classification.loading.sources import OUTSIDE

_PACKED = (
    *(".rec", ".manifest", ".tar", ".parquet"),
    *(".tfrecord", ".tfrecords", ".tfrec", ".tfr", ".record"),
)
_WORD = re.compile(r"[A-Za-z]+")
_FILLERS = frozenset((  # words in the name of a split's folder that do not change its meaning
    "data", "dataset", "final", "folder", "image", "images", "img", "imgs", "jpeg", "jpegs", "jpg",
    "photos", "pictures", "png", "seg", "set", "split",
))  # fmt: skip
_SHARD = re.compile(r"-\d+-of-\d+$")  # of a TFRecord file


def folder_split(name: str) -> str | None:
    """Return the split that a folder is named after: `val`, `train_images`, `test2017`, or None."""
    named = split_named(name)
    words = [word for word in _WORD.findall(name) if word.lower() not in _FILLERS]
    return named or (split_named(words[0]) if len(words) == 1 else None)


def subfolders(root: Path) -> list[Path]:
    """Return the folders in `root`, without hidden ones and those that macOS adds to archives.

    Links to a folder that contains them are left out too.
    """
    found = tree.list_folder(str(root), tree.LeftOut(), include_hidden=False)
    folders = [Path(entry.path) for entry in found if tree.is_folder(entry)]
    return [
        folder
        for folder in folders
        if not folder.is_symlink() or not root.resolve().is_relative_to(folder.resolve())
    ]


def split_folders(root: Path, *, recursive: bool = True) -> dict[str, Path]:
    """Return split → folder, if the folders in `root` are splits; {} if they are classes.

    All folders that hold images are named after splits, and at least one of them holds class
    folders or packed images. In an unpacked archive, they can be in the only folder of `root`.
    If not `recursive`, only images directly in a folder make it a class.

    Raises:
        DataError: two folders are named after the same split.
    """
    root, folders = _unpacked(root)
    splits: dict[str, Path] = {}
    for folder in folders:
        split = folder_split(folder.name)
        folder = folder if split is None else _content(folder)
        if split is None:
            if any(map(_has_data, (folder, *subfolders(folder)))):
                return {}
            if recursive and tree.has_image(folder):
                return {}
        elif _is_split(folder, recursive):
            if split in splits:
                raise DataError(
                    f"{root}: both {splits[split].name} and {folder.name} are named after the "
                    f"{split} split; keep one"
                )
            splits[split] = folder
    return {split: splits[split] for split in SPLITS if split in splits}


def _unpacked(root: Path) -> tuple[Path, list[Path]]:
    """Return the folder that holds several folders, and these: `root`, or its only folder."""
    folders = subfolders(root)
    if len(folders) == 1 and folder_split(folders[0].name) is None and not _has_data(root):
        return folders[0], subfolders(folders[0])
    return root, folders


def _content(folder: Path) -> Path:
    """Return the only folder in a split's folder if it repeats its name, as archives do."""
    inner = subfolders(folder)
    is_repeated = len(inner) == 1 and folder_split(inner[0].name) == folder_split(folder.name)
    return inner[0] if is_repeated and not _has_data(folder) else folder


def refuse_mixed_splits(root: Path) -> None:
    """Refuse folders as classes that are named after splits, where `split_folders` found none.

    Raises:
        DataError: the folders of two splits or more hold images, or that of one split holds folders
            of the classes next to it.
    """
    root, folders = _unpacked(root)
    holding = [folder for folder in folders if tree.has_image(folder)]
    if len(holding) == 1 and not folder_split(holding[0].name) and not _has_data(holding[0]):
        root, holding = holding[0], list(filter(tree.has_image, subfolders(holding[0])))
    named = [folder for folder in holding if folder_split(folder.name)]
    bare = [folder for folder in named if not _is_split(_content(folder))]
    others = [folder.name for folder in holding if folder not in named]
    for folder in named:
        inner = [entry.name for entry in subfolders(_content(folder)) if tree.has_image(entry)]
        if inner and set(inner) <= set(others):
            raise DataError(
                f"{folder}: named after a split, with the classes {', '.join(inner[:5])}, but "
                f"{root} holds folders of these classes too, so that it is neither a split nor a "
                f"class; move {folder.name} out of {root} (evaluate takes it by its new path), or "
                f"move the class folders into {root / 'train'}"
            )
    if len({folder_split(folder.name) for folder in named}) < 2 and (others or not bare):
        return
    names = " and ".join(folder.name for folder in named)
    if others:
        raise DataError(
            f"{root}: {names}: named after splits, but {', '.join(others[:5])} holds images too, "
            "so that the folders are neither splits nor classes; move it away, give the folder of "
            "each split as a channel, or name a table with the classes with preprocess --list"
        )
    tables = [table for folder in named for table in sorted(folder.glob("metadata.*"))]
    if len(tables) >= len(named):
        raise DataError(
            f"{root}: {names} hold images whose classes are in {tables[0]}: write channels from "
            f"them (image-classification preprocess --input {shlex.quote(str(root))} --output "
            "channels)"
        )
    raise DataError(
        f"{root}: {names}: named after splits, but with images directly in them, so that nothing "
        "gives their classes; put the images into class folders, or name a table with their "
        "classes with preprocess --list"
    )


def splits_in_names(files: Sequence[Path]) -> list[str]:
    """Return the split that each file's name contains (`flowers-train-000.tar`); [] unless all do.

    The names must contain several splits, each name one: `train-test-000.tar` says nothing.
    """
    words = [{split_named(word) for word in _WORD.findall(file.name)} - {None} for file in files]
    found = [word for row in words if len(row) == 1 for word in row if word]
    return found if len(found) == len(files) and len(set(found)) > 1 else []


def bare_splits(root: Path) -> list[Path]:
    """Return the folders that are named after splits, but hold images without class folders."""
    named = [_content(folder) for folder in subfolders(root) if folder_split(folder.name)]
    return [folder for folder in named if not _is_split(folder) and _has_data(folder)]


def left_beside(root: Path, folders: Iterable[Path]) -> tree.LeftOut:
    """Count the files next to the split folders of `root`, which are in no split; warn of images.

    Not counted are class names and lists.
    """
    left_out = tree.LeftOut()
    for place in sorted({root, *(folder.parent for folder in folders)}):
        entries = tree.list_folder(str(place), left_out, include_hidden=False)
        others = [e for e in entries if e.name != LABELS_FILE and not e.name.endswith(".lst")]
        images = tree.keep_images(others, left_out)
        for image in images:
            left_out.add(OUTSIDE, image.path)
        if images:
            left_out.warn(place, "samples are images in the class folders of the splits")
    return left_out


def _is_split(folder: Path, recursive: bool = True) -> bool:
    inner = subfolders(folder)
    if _holds(folder, _PACKED) or any(map(_has_data, inner)):
        return True
    return recursive and any(map(tree.has_image, inner))


def _has_data(folder: Path) -> bool:
    if _holds(folder, (*tree.IMAGE_EXTENSIONS, *_PACKED)):
        return True
    return tree.has_image(folder, recursive=False)


def _holds(folder: Path, extensions: Iterable[str]) -> bool:
    """Return whether a file in `folder` has one of the extensions."""
    wanted = frozenset(extensions)
    with os.scandir(folder) as found:
        return any(
            os.path.splitext(_SHARD.sub(".tfrecord", entry.name))[1].lower() in wanted
            and not entry.name.startswith(".")
            and tree.is_file(entry)
            for entry in found
        )
