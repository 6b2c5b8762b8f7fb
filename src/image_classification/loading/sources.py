"""Sources of samples: what the loader reads, and the sources of image files and of subsets.

In: a folder of class folders, or paths with their classes. Out: `Sample`s by index, with the class
of every sample known without decoding an image. Record files are in `loading.records`, streams in
`loading.stream`.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from image_classification.errors import DataError
from image_classification.labels import tree
from image_classification.labels.label_map import LABELS_FILE, LabelMap
from image_classification.loading.foreign_files import describe_contents
from image_classification.samples import IntArray, Sample, UInt8Array

OUTSIDE = "images outside a class folder"
NESTED = "folders inside a class folder"
EMPTY = "class folders without an image"


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
        except OSError as error:
            path = os.path.join(self._root, key)
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        row = None if self.multi_hot is None else self.multi_hot[index]
        return Sample(key, int(self.class_indices[index]), content, row)


class FolderSource(ListedSource):
    """The images directly inside the class folders of `root`.

    Classes and files are sorted by the bytes of their names, as the TensorFlow built-in sorts
    them. Hidden names, empty folders, nested folders and other files are left out with one warning.

    Args:
        root: the folder of class folders.
        labels: the label map of the training data, which the folders must match; without it, the
            folders define the label map.
        may_lack_classes: whether classes of `labels` may have no folder; also allowed if `root`
            contains a labels.json.

    Attributes:
        labels: the label map of `class_indices`.
        left_out: what in the folder is not a sample, and why.

    Raises:
        DataError: no such folder, no image in any class folder, or other classes than `labels`.
    """

    def __init__(
        self, root: Path, labels: LabelMap | None = None, *, may_lack_classes: bool = False
    ) -> None:
        self.left_out = tree.LeftOut()
        classes = _list_classes(root, self.left_out)
        extensions = " ".join(tree.IMAGE_EXTENSIONS)
        self.left_out.warn(root, f"samples are files named {extensions} in its folders")
        if labels is not None:
            may_lack_classes |= (root / LABELS_FILE).is_file()
            _check_classes(root, labels, list(classes), may_lack_classes)
        if not classes:
            raise DataError(
                f"{root}: expected one folder for each class with images "
                f"({', '.join(tree.IMAGE_EXTENSIONS)}) directly inside, found none; it holds "
                f"{describe_contents(root)}"
            )
        self.labels = labels or LabelMap(tuple(classes))
        numbers = [self.labels.index(name) for name in classes]
        counts = [len(paths) for paths in classes.values()]
        indices: IntArray = np.repeat(np.array(numbers, np.int64), counts)
        super().__init__(str(root), root, [p for paths in classes.values() for p in paths], indices)


def _list_classes(root: Path, left_out: tree.LeftOut) -> dict[str, list[str]]:
    """Class name → paths of its images, both sorted; folders without an image are left out."""
    classes: dict[str, list[str]] = {}
    entries = [
        entry
        for entry in tree.list_folder(str(root), left_out, include_hidden=False)
        if entry.name != LABELS_FILE and not entry.name.endswith(".lst")
    ]
    for image in tree.keep_images(entries, tree.IMAGE_EXTENSIONS, left_out):
        left_out.add(OUTSIDE, image.path)
    for folder in entries:
        if not folder.is_dir():
            continue
        inside = tree.list_folder(folder.path, left_out, include_hidden=False)
        for nested in inside:
            if nested.is_dir():
                left_out.add(NESTED, nested.path)
        images = tree.keep_images(inside, tree.IMAGE_EXTENSIONS, left_out)
        if images:
            name = tree.class_name(folder.name)
            classes[name] = [f"{folder.name}/{image.name}" for image in images]
        else:
            left_out.add(EMPTY, folder.path)
    return classes


def _check_classes(root: Path, labels: LabelMap, found: list[str], may_lack: bool) -> None:
    missing = [] if may_lack else [name for name in labels.names if name not in found]
    extra = [name for name in found if name not in labels.names]
    if not missing and not extra:
        return
    wrong = [f"{len(missing)} missing or without an image: {missing}"] if missing else []
    wrong += [f"{len(extra)} unknown: {extra}"] if extra else []
    raise DataError(
        f"{root}: expected the folders of the same {len(labels)} classes as in training (or in the "
        f"label map), but {'; '.join(wrong)}; use the same class folders everywhere"
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

    def read(self, index: int) -> Sample:
        """Read sample `index` of the subset."""
        return self._source.read(int(self._indices[index]))

    def close(self) -> None:
        """Close the whole source."""
        self._source.close()
