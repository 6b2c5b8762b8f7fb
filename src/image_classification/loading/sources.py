"""A part of another source: what is left after a split."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from image_classification.errors import DataError
from image_classification.labels.label_map import LABELS_FILE, LabelMap
from image_classification.labels.tree import (
    IMAGE_EXTENSIONS,
    LeftOut,
    class_name,
    keep_images,
    list_folder,
)
from image_classification.samples import IntArray, Sample, UInt8Array


class EndOfPass(Exception):
    """There is no such sample in this pass over a stream, which was shorter than announced."""


class Source(ABC):
    """A set of samples; `read` may be called from several threads.

    Most sources are countable: their samples and classes are known before reading, and can be read
    in any order. A stream is not: the loader opens one pass per epoch, with `begin` and `finish`.
    Countable sources inherit the methods that do nothing.
    """

    name: str
    """What to call it in messages: the folder or the record files."""

    class_indices: IntArray
    """int64 (len,), the class index of every sample, known without decoding an image. Of several
    labels it is the first, or the number of classes where there is none; int64 (0,) of a stream."""

    multi_hot: UInt8Array | None = None
    """uint8 (len, classes), 1 for every class of a sample, where there may be several."""

    is_countable: bool = True
    """False for a stream: `class_indices` is empty, and `read` gives each position once a pass."""

    @abstractmethod
    def __len__(self) -> int:
        """How many samples there are."""

    @abstractmethod
    def key(self, index: int) -> str:
        """The key of sample `index`, 0 to len − 1."""

    @abstractmethod
    def read(self, index: int) -> Sample:
        """Sample `index`; a DataError that names file and place if it cannot be read."""

    def begin(self, epoch: int, first: int = 0, rank: int = 0, world_size: int = 1) -> None:
        """Start the pass for `epoch`: `rank` reads positions first + rank, + world_size, …."""

    def finish(self) -> None:
        """End a pass after its last sample."""

    def interrupt(self) -> None:
        """End a pass at any point; threads that wait in `read` get `EndOfPass`."""

    def close(self) -> None:
        """Release files and memory maps."""


_log = logging.getLogger(__name__)


class FolderSource(Source):
    """The images directly inside the class folders of `root`.

    Classes and files are sorted by the bytes of their names, as the TensorFlow built-in sorts
    them. Hidden names, empty folders, nested folders and other files are left out with one warning.

    Args:
        root: the folder of class folders.
        labels: the label map to use (that of the training data); the folders must be exactly its
            classes, except that some may be absent where a labels.json lies beside them. Without
            it, the folders define the label map.
        may_lack_classes: whether folders of `labels` may be absent without that file too.

    Attributes:
        name: the root.
        labels: the label map of `class_indices`.
        class_indices: int64 (len,), the class of every sample.
        multi_hot: None: an image has one class.
        left_out: what in the folder is no sample, and why.

    Raises:
        DataError: no such folder, no image in any class folder, or other classes than `labels`.
    """

    def __init__(
        self, root: Path, labels: LabelMap | None = None, *, may_lack_classes: bool = False
    ) -> None:
        self.name = str(root)
        self._root = root
        self.left_out = LeftOut()
        classes = _list_classes(root, self.left_out)
        extensions = " ".join(IMAGE_EXTENSIONS)
        self.left_out.warn(root, f"samples are files named {extensions} in its folders")
        if labels is not None:
            may_lack_classes |= (root / LABELS_FILE).is_file()
            _check_classes(root, labels, list(classes), may_lack_classes)
        if not classes:
            raise DataError(
                f"{root}: expected one folder for each class with images "
                f"({', '.join(IMAGE_EXTENSIONS)}) directly inside, found none"
            )
        self.labels = labels or LabelMap(tuple(classes))
        self._keys = [key for keys in classes.values() for key in keys]
        numbers = [self.labels.index(name) for name in classes]
        counts = [len(keys) for keys in classes.values()]
        self.class_indices: IntArray = np.repeat(np.array(numbers, np.int64), counts)

    def __len__(self) -> int:
        return len(self._keys)

    def key(self, index: int) -> str:
        """The path relative to the root; bytes of it that are not UTF-8 are shown as `\\xe9`."""
        return class_name(self._keys[index])

    def path(self, index: int) -> str:
        """The path relative to the root as the file system has it, for a list."""
        return self._keys[index]

    def read(self, index: int) -> Sample:
        """Sample `index`; a DataError names the file if it cannot be read."""
        key = self._keys[index]
        try:
            with open(os.path.join(self.name, key), "rb", buffering=0) as file:
                content = file.read()
        except OSError as error:
            raise DataError(
                f"{self._root / class_name(key)} cannot be read: {error.strerror}"
            ) from error
        return Sample(class_name(key), int(self.class_indices[index]), content)


def _list_classes(root: Path, left_out: LeftOut) -> dict[str, list[str]]:
    """Class name → keys of its images, both sorted; folders without an image are left out."""
    classes: dict[str, list[str]] = {}
    entries = [
        entry
        for entry in list_folder(str(root), left_out, include_hidden=False)
        if entry.name != LABELS_FILE and not entry.name.endswith(".lst")
    ]
    for image in keep_images(entries, IMAGE_EXTENSIONS, left_out):
        left_out.add("images outside a class folder", image.path)
    for folder in entries:
        if not folder.is_dir():
            continue
        inside = list_folder(folder.path, left_out, include_hidden=False)
        for nested in inside:
            if nested.is_dir():
                left_out.add("folders inside a class folder", nested.path)
        images = keep_images(inside, IMAGE_EXTENSIONS, left_out)
        if images:
            classes[class_name(folder.name)] = [f"{folder.name}/{image.name}" for image in images]
        else:
            left_out.add("class folders without an image", folder.path)
    return classes


def _check_classes(root: Path, labels: LabelMap, found: list[str], may_lack: bool) -> None:
    """A DataError that lists what differs.

    A labels.json beside the folders says that an absent class is meant: a small class may have no
    image in a split.
    """
    missing = [] if may_lack else [name for name in labels.names if name not in found]
    extra = [name for name in found if name not in labels.names]
    if not missing and not extra:
        return
    parts = [f"{len(missing)} missing or without an image: {missing}"] if missing else []
    parts += [f"{len(extra)} unknown: {extra}"] if extra else []
    raise DataError(
        f"{root}: expected the folders of the same {len(labels)} classes as in training (or in the "
        f"label map), but {'; '.join(parts)}; give every channel the same class folders"
    )


class ListedSource(Source):
    """The image files at `paths` below `root`.

    Args:
        name: what to call it in messages.
        root: folder of the images.
        paths: relative to it, as the file system has them.
        class_indices: int64 (len,), the class of every image; of several labels the first.
        multi_hot: uint8 (len, classes) where an image may have several labels.
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
        self._root, self._paths = root, paths

    def __len__(self) -> int:
        return len(self._paths)

    def key(self, index: int) -> str:
        """The path relative to the root."""
        return class_name(self._paths[index])

    def read(self, index: int) -> Sample:
        """Sample `index`; a DataError names the file if it cannot be read."""
        try:
            content = (self._root / self._paths[index]).read_bytes()
        except OSError as error:
            raise DataError(
                f"{self._root / self.key(index)} cannot be read: {error.strerror}"
            ) from error
        row = None if self.multi_hot is None else self.multi_hot[index]
        return Sample(self.key(index), int(self.class_indices[index]), content, row)


class SubsetSource(Source):
    """The samples of `source` at `indices` (int64 (n,)), in that order."""

    def __init__(self, source: Source, indices: IntArray, name: str) -> None:
        self._source = source
        self._indices = indices
        self.name = name
        self.class_indices: IntArray = source.class_indices[indices]
        self.multi_hot = None if source.multi_hot is None else source.multi_hot[indices]

    def __len__(self) -> int:
        return len(self._indices)

    def key(self, index: int) -> str:
        """The key of sample `index` of the part."""
        return self._source.key(int(self._indices[index]))

    def read(self, index: int) -> Sample:
        """Sample `index` of the part."""
        return self._source.read(int(self._indices[index]))

    def close(self) -> None:
        """Close the whole source."""
        self._source.close()
