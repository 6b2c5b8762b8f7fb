"""Sources of samples: what the loader reads, and the sources of image files and of subsets.

In: a folder of class folders, or paths with their classes. Out: `Sample`s by index, with the class
of every sample known without decoding an image. Record files are in `loading.records`, streams in
`loading.stream`.
"""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from image_classification.errors import DataError
from image_classification.labels import tree
from image_classification.labels.label_map import LABELS_FILE, LabelMap, did_you_mean, listed
from image_classification.loading.foreign_files import describe_contents
from image_classification.samples import IntArray, Sample, UInt8Array

OUTSIDE = "images outside a class folder"
NESTED = "folders inside a class folder, whose images have its class"
EMPTY = "class folders without an image"
LOST = "class folders without a usable image"

_SHOWN = 20  # classes in a message
_NAMED = 5  # lost classes in a message, with their files
_log = logging.getLogger(__name__)


class EndOfPass(Exception):
    """A pass over a stream was shorter than announced: it has no such sample."""


class Source(ABC):
    """A set of samples; `read` may be called from several threads.

    Most sources are countable: their samples and classes are known before reading, and can be read
    in any order. A stream is not: the loader opens one pass per epoch, with `begin` and `finish`.
    Countable sources inherit the methods that do nothing.
    """

    name: str
    """What to call it in messages: the folder or the record files."""

    class_indices: IntArray
    """int64 (len,), the class index of every sample. Of several labels it is the lowest, or the
    number of classes where there is none; int64 (0,) of a stream."""

    multi_hot: UInt8Array | None = None
    """uint8 (len, classes), 1 for every class of a sample, if samples have several labels."""

    is_countable: bool = True
    """False for a stream: `class_indices` is empty, and `read` gives each position once a pass."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def key(self, index: int) -> str:
        """Return the key of sample `index`, 0 to len − 1."""

    def path(self, index: int) -> str:
        """Return the name of sample `index` in a list: that of its file, or else its key."""
        return self.key(index)

    @abstractmethod
    def read(self, index: int) -> Sample:
        """Read sample `index`; a DataError names the file that cannot be read."""

    def begin(self, epoch: int, first: int = 0, rank: int = 0, world_size: int = 1) -> None:
        """Start the pass for `epoch`: `rank` reads positions first + rank, + world_size, …."""

    def finish(self) -> None:
        """End a pass after its last sample."""

    def interrupt(self) -> None:
        """End a pass at any point; threads that wait in `read` get `EndOfPass`."""

    def close(self) -> None:
        """Release files and memory maps."""


class ListedSource(Source):
    """The image files at `paths` below `root`.

    Args:
        name: what to call it in messages.
        root: folder of the images.
        paths: relative to it, as the file system has them.
        class_indices: int64 (len,), the class of every image; of several labels the lowest.
        multi_hot: uint8 (len, classes) if images have several labels.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        paths: Sequence[str],
        class_indices: IntArray,
        multi_hot: UInt8Array | None = None,
    ) -> None:
        self.name = name
        self.class_indices = class_indices
        self.multi_hot = multi_hot
        self._root, self._paths = str(root), paths

    def __len__(self) -> int:
        return len(self._paths)

    def key(self, index: int) -> str:
        """The path relative to the root; bytes that are not UTF-8 appear as `\\xe9`."""
        return tree.class_name(self._paths[index])

    def path(self, index: int) -> str:
        """The path relative to the root as the file system has it, for a list."""
        return self._paths[index]

    def read(self, index: int) -> Sample:
        """Read sample `index`; a DataError names the file that cannot be read."""
        key = self.key(index)
        try:
            with open(os.path.join(self._root, self._paths[index]), "rb", buffering=0) as file:
                content = file.read()
        except (OSError, ValueError) as error:  # ValueError: a null byte in the path
            path = os.path.join(self._root, key)
            reason = error.strerror if isinstance(error, OSError) else error
            raise DataError(f"{path} cannot be read: {reason}") from error
        row = None if self.multi_hot is None else self.multi_hot[index]
        return Sample(key, int(self.class_indices[index]), content, row)


class FolderSource(ListedSource):
    """The images in the class folders of `root`, and in all folders below them.

    Classes and files are sorted by the bytes of their names, as the TensorFlow built-in sorts
    them; the files of a folder come before those of its subfolders. Hidden names, empty folders
    and files that are not images are left out with one warning.

    Args:
        root: the folder of class folders.
        labels: the label map of the training data, which the folders must match; without it, the
            folders define the label map.
        may_lack_classes: whether classes of `labels` may have no folder; also allowed if `root`
            contains a labels.json.

    Attributes:
        labels: the label map of `class_indices`.
        left_out: what in the folder is not a sample, and why.
        lost: the class folders that have files, but no usable image.
        subclasses: for a class, the subfolders of its folder that hold images.

    Raises:
        DataError: no such folder, no image in any class folder, two folders with the same label, or
            other classes than `labels`.
    """

    def __init__(
        self, root: Path, labels: LabelMap | None = None, *, may_lack_classes: bool = False
    ) -> None:
        self.left_out = tree.LeftOut()
        folders = _list_classes(root, self.left_out)
        classes = {folder.label: folder.paths for folder in folders if folder.paths}
        self.lost = [folder for folder in folders if folder.is_lost]
        self.subclasses = {folder.label: folder.subfolders for folder in folders if folder.paths}
        self.left_out.warn(root, "samples are images in its folders, at any depth")
        _warn_of_parts(root, folders)
        if labels is not None:
            may_lack_classes |= (root / LABELS_FILE).is_file()
            _check_classes(root, labels, list(classes), may_lack_classes)
        if not classes:
            raise DataError(
                f"{root}: expected one folder for each class with images "
                f"({', '.join(tree.IMAGE_EXTENSIONS)}) in it, found none; it holds "
                + describe_contents(root, str(self.left_out) if self.lost else "")
            )
        self.labels = labels or LabelMap(tuple(classes))
        numbers = [self.labels.index(name) for name in classes]
        counts = [len(paths) for paths in classes.values()]
        indices: IntArray = np.repeat(np.array(numbers, np.int64), counts)
        super().__init__(str(root), root, [p for paths in classes.values() for p in paths], indices)

    def refuse_lost_classes(self) -> None:
        """Raise a DataError if a class folder has files, but no usable image."""
        if self.lost:
            said = "; ".join(
                f"{folder.label!r} ({folder.left_out})" for folder in self.lost[:_NAMED]
            )
            more = f" and {len(self.lost) - _NAMED} more" if len(self.lost) > _NAMED else ""
            raise DataError(
                f"{self.name}: expected images in each class folder, but no file of these can be "
                f"used: {said}{more}; convert the files, for example to JPEG or PNG, or move the "
                "folders away if they are not classes"
            )

    def log_order_of_numbers(self) -> None:
        """Log the order of classes whose names are numbers, if it is not that of the numbers."""
        names = list(self.labels.names)
        if all(name.isdecimal() for name in names) and sorted(names, key=int) != names:
            _log.info(
                "%s: the names of the class folders are numbers; folders are sorted as text, as "
                "im2rec and the built-in sort them: class indices 0, 1, 2, … are %s. Answers name "
                "the classes; a %s with the names in another order changes it",
                *(self.name, listed(names), LABELS_FILE),
            )


@dataclass(frozen=True)
class ClassFolder:
    """A folder that is a class, with everything below it.

    Attributes:
        label: the name of the class.
        paths: of its images, relative to the root.
        subfolders: names of the folders directly in it that hold images, at any depth.
        left_out: what in it is not an image.
    """

    label: str
    paths: list[str] = field(default_factory=list)
    subfolders: list[str] = field(default_factory=list)
    left_out: tree.LeftOut = field(default_factory=tree.LeftOut)

    @property
    def is_lost(self) -> bool:
        """Whether it has files that may be images, but none that can be used."""
        return not self.paths and self.left_out.others > 0


def _list_classes(root: Path, left_out: tree.LeftOut) -> list[ClassFolder]:
    """Return the folders in `root`, sorted by name; those without an image are counted too."""
    entries = tree.list_folder(str(root), left_out, include_hidden=False)
    lists = {LABELS_FILE, *(entry.name for entry in entries if entry.name.endswith(".lst"))}
    loose = [entry for entry in entries if tree.is_folder(entry) or entry.name not in lists]
    for image in tree.keep_images(loose, left_out):
        left_out.add(OUTSIDE, image.path)
    status = os.stat(root)
    above = (status.st_dev, status.st_ino)
    found: dict[str, str] = {}
    classes = []
    for folder in entries:
        if not tree.is_folder(folder):
            continue
        if folder.is_symlink() and root.resolve().is_relative_to(os.path.realpath(folder.path)):
            left_out.add(tree.CIRCULAR, folder.path)
            continue
        read = _read_class(folder, len(str(root)) + 1, above)
        classes.append(read)
        left_out.add_all(read.left_out)
        if read.is_lost:
            left_out.add(LOST, folder.path)
        elif not read.paths:
            left_out.add(EMPTY, folder.path)
        elif found.setdefault(read.label, folder.name) != folder.name:
            raise DataError(
                f"{root}: the folders {os.fsencode(found[read.label])!r} and "
                f"{os.fsencode(folder.name)!r} would both be the class {read.label!r}, because a "
                "byte that is not UTF-8 is written like that; rename one of them"
            )
    return classes


def _read_class(folder: os.DirEntry[str], start: int, above: tuple[int, int]) -> ClassFolder:
    read = ClassFolder(tree.class_name(folder.name))
    subfolders: dict[str, None] = {}
    for inner, images in tree.visit(folder.path, read.left_out, ancestors=(above,)):
        read.paths.extend(image[start:] for image in images)
        if images and inner != folder.path:
            subfolders[inner[len(folder.path) + 1 :].split(os.sep)[0]] = None
    read.subfolders.extend(subfolders)
    return read


def _warn_of_parts(root: Path, folders: Sequence[ClassFolder]) -> None:
    """Warn of classes that use only part of their files, and of classes with subfolders."""
    parts = [
        f"{folder.label} ({folder.left_out.others} of {folder.left_out.others + len(folder.paths)})"
        for folder in folders
        if folder.paths and folder.left_out.others
    ]
    if parts:
        _log.warning("%s: files that are no usable images, by class: %s", root, listed(parts))
    nested = [f"{folder.label}/{folder.subfolders[0]}" for folder in folders if folder.subfolders]
    if nested:
        _log.warning(
            "%s: images in subfolders have the class of the top folder, at any depth, in %d of %d "
            "classes (for example %s)",
            *(root, len(nested), sum(bool(folder.paths) for folder in folders), nested[0]),
        )


def _check_classes(root: Path, labels: LabelMap, found: list[str], may_lack: bool) -> None:
    known, present = set(labels.names), set(found)
    missing = [] if may_lack else [name for name in labels.names if name not in present]
    extra = [name for name in found if name not in known]
    if not missing and not extra:
        return
    wrong, cures = [], []
    if missing:
        wrong.append(f"{len(missing)} missing or without an image: {missing[:_SHOWN]}")
        cures.append(
            f"add images of the missing classes, or put a {LABELS_FILE} with all "
            f"{len(labels)} names into {root} if they are to have none"
        )
    if extra:
        meant = [said for name in extra[:_SHOWN] if (said := did_you_mean(name, labels.names))]
        wrong.append(f"{len(extra)} unknown: {extra[:_SHOWN]}" + "".join(meant[:1]))
        cures.append(
            "rename the unknown folders, move them away, or train a model that has these classes"
        )
    raise DataError(
        f"{root}: expected the folders of the same {len(labels)} classes as in training (or in the "
        f"label map: {listed(labels.names)}), but {'; '.join(wrong)}. {'; '.join(cures)}"
    )


class SubsetSource(Source):
    """The samples of `source` at `indices` (int64 (n,)), in that order; closing it closes both."""

    def __init__(self, source: Source, indices: IntArray, name: str) -> None:
        self._source = source
        self._indices = indices
        self.name = name
        self.class_indices: IntArray = source.class_indices[indices]
        self.multi_hot = None if source.multi_hot is None else source.multi_hot[indices]

    def __len__(self) -> int:
        return len(self._indices)

    def key(self, index: int) -> str:
        """The key of sample `index` of the subset."""
        return self._source.key(int(self._indices[index]))

    def path(self, index: int) -> str:
        """How a list names sample `index` of the subset."""
        return self._source.path(int(self._indices[index]))

    def read(self, index: int) -> Sample:
        """Read sample `index` of the subset."""
        return self._source.read(int(self._indices[index]))

    def close(self) -> None:
        """Close the whole source."""
        self._source.close()
