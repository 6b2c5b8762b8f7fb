"""Samples from TFRecord files and tar shards, which other programs write.

In: the paths of the files. Out: `Sample`s by index, with the class of every sample known on
opening. Nothing in the files is executed.
"""

import logging
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from image_classification.errors import DataError, LabelError, RecordError
from image_classification.labels.label_map import MAX_CLASSES, LabelMap
from image_classification.labels.tree import IMAGE_EXTENSIONS
from image_classification.loading.sources import Source
from image_classification.records.packed import PackedFile, is_packed
from image_classification.records.parquet import is_table
from image_classification.samples import IntArray, Sample

_CAPTIONS = 20  # samples from which names that hardly repeat cannot be classes
_NOTES = (".txt", ".md", ".json", ".csv", ".tsv", ".yaml", ".yml", ".html", ".idx", ".index")
_log = logging.getLogger(__name__)


class PackedSource(Source):
    """The images of `paths`, in the given order; within a file in file order.

    A label is a class number, or a class name where the files have no numbers. Names are numbered
    in the order of their bytes, as class folders are, unless `labels` gives their order.

    Args:
        paths: TFRecord files and tar shards.
        labels: the class names, or None to take them from the files.

    Attributes:
        labels: the class names; None if the files have only numbers.

    Raises:
        RecordError: a file is damaged, or holds no images.
        LabelError: an image has no class or several, or a number has two names.
        DataError: a class is not in `labels`.
    """

    def __init__(self, paths: Sequence[Path], labels: LabelMap | None = None) -> None:
        self._files: list[PackedFile] = []
        self.name = str(paths[0]) if len(paths) == 1 else f"{len(paths)} files from {paths[0]} on"
        try:
            for path in paths:
                self._files.append(PackedFile(path))
            self._starts = [0, *accumulate(len(file) for file in self._files)]
            if all((file.numbers >= 0).all() for file in self._files):
                self.class_indices = self._joined([file.numbers for file in self._files])
                self.labels = self._check_numbers(labels)
            else:
                self.labels = labels or self._vocabulary()
                self.class_indices = self._joined([self._indices(f) for f in self._files])
        except BaseException:
            self.close()
            raise
        repeated = {name for name, n in Counter(path.name for path in paths).items() if n > 1}
        self._names = [str(path) if path.name in repeated else path.name for path in paths]

    @staticmethod
    def _joined(indices: Sequence[IntArray]) -> IntArray:
        return np.concatenate([np.empty(0, np.int64), *indices])

    def _check_numbers(self, labels: LabelMap | None) -> LabelMap | None:
        """Return the names of the numbers: `labels`, else the file's if every number has one."""
        names: dict[int, str] = {}
        for file in self._files:
            pairs = np.unique(np.stack([file.numbers, file.named]), axis=1)
            for number, named in pairs.T.tolist():
                name = file.vocabulary[named] if named >= 0 else ""
                if name and names.setdefault(number, name) != name:
                    raise LabelError(
                        f"{file.path}: class {number} is called {name!r} and {names[number]!r}; a "
                        "number must have one name"
                    )
        if labels is not None:
            is_named = labels != LabelMap.numbered(len(labels))
            for number, name in names.items() if is_named else ():
                if number < len(labels) and labels.names[number] != name:
                    raise DataError(
                        f"{self.name}: class {number} is called {name!r}, but {number} is "
                        f"{labels.names[number]!r} in the label map; use one label map for all data"
                    )
            return labels
        complete = sorted(names) == list(range(int(self.class_indices.max(initial=-1)) + 1))
        if not complete or len(set(names.values())) < len(names) or len(names) > MAX_CLASSES:
            return None
        return LabelMap(tuple(names[number] for number in range(len(names)))) if names else None

    def _vocabulary(self) -> LabelMap:
        names = {name for file in self._files for name in file.vocabulary}
        if len(names) > len(self) // 2 and len(self) >= _CAPTIONS:
            shown = ", ".join(map(repr, sorted(names)[:3]))[:200]
            raise LabelError(
                f"{self.name}: expected the class of each image, got {len(names)} different texts "
                f"for {len(self)} images ({shown}, …), as captions are; write the class as a "
                "number or a name"
            )
        return LabelMap(tuple(sorted(names, key=str.encode)))

    def _indices(self, file: PackedFile) -> IntArray:
        """int64 (images,): the classes of a file whose images have names."""
        if len(without := np.flatnonzero(file.named < 0)):
            raise LabelError(
                f"{file.path}: {file.key(int(without[0]))} has a class number, but other images "
                "have only names; write both, or one of them, for all images"
            )
        assert self.labels is not None
        numbers = {name: number for number, name in enumerate(self.labels.names)}
        for name in file.vocabulary:
            if name not in numbers:
                self.labels.index(name)  # raises with the known names
        return np.array([numbers[name] for name in file.vocabulary], np.int64)[file.named]

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def file_sizes(self) -> list[int]:
        """The number of images of each file."""
        return [len(file) for file in self._files]

    def key(self, index: int) -> str:
        """`file.tfrecord#<number>` or `shard.tar/<member>`; the path where names repeat."""
        file, number = self._locate(index)
        name = self._files[file].key(number)
        return f"{self._names[file]}{'' if name.startswith('#') else '/'}{name}"

    def read(self, index: int) -> Sample:
        """Read sample `index`; a RecordError names a record with a wrong checksum."""
        file, number = self._locate(index)
        content = self._files[file].content(number)
        return Sample(self.key(index), int(self.class_indices[index]), content)

    def close(self) -> None:
        """Release all files."""
        for file in self._files:
            file.close()

    def _locate(self, index: int) -> tuple[int, int]:
        """Return the file of sample `index` and its number there."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        file = bisect_right(self._starts, index) - 1
        return file, index - self._starts[file]


def find_packed(folder: Path, *, with_tables: bool = False) -> list[Path]:
    """Return the TFRecord files and tar shards in `folder`, in name order; [] with class folders.

    They can be in the only folder of `folder`, as in an unpacked archive or a Hugging Face
    repository. `with_tables` also finds Parquet tables, if no image is next to them; opening one
    copies its images.
    """
    entries = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    folders = [entry for entry in entries if entry.is_dir()]
    with_tables = with_tables and not _has_image(folder)
    found = [
        entry
        for entry in entries
        if entry.is_file() and (is_packed(entry) or (with_tables and is_table(entry)))
    ]
    if not found and len(folders) == 1:
        return find_packed(folders[0], with_tables=with_tables)
    if found and any(map(_has_image, folders)):
        _log.info("%s: its folders are the classes; %s is not read", folder, found[0])
        return []
    if found:
        _report_others(folder, found, entries)
    return found


def _report_others(folder: Path, found: Sequence[Path], entries: Sequence[Path]) -> None:
    """Refuse a tar next to tar shards that is none, and warn of other files that are not read.

    Raises:
        RecordError: a tar is damaged or has no labels; without it, images would be lost.
    """
    others = [entry for entry in entries if entry.is_file() and entry not in found]
    others += [
        inner
        for entry in entries
        if entry.is_dir()
        for inner in sorted(entry.iterdir())
        if inner.is_file() and (is_packed(inner) or is_table(inner))
    ]
    tars = [other for other in others if other.suffix.lower() == ".tar"]
    if tars and any(path.suffix.lower() == ".tar" for path in found):
        raise RecordError(
            f"{tars[0]}: expected images with labels, as in {found[0].name}; it is damaged, has no "
            "labels, or is not in the same folder: repair it, or move it away"
        )
    others = [other for other in others if other.suffix.lower() not in _NOTES]
    if others:
        _log.warning("%s: left out %d other files, such as %s", folder, len(others), others[0])


def _has_image(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(os.path.splitext(e.name)[1].lower() in IMAGE_EXTENSIONS for e in entries)


def open_packed(
    files: Sequence[Path], labels: LabelMap | None, classes: int | None, is_multi_label: bool
) -> PackedSource:
    """Open `files` for a job; its numbers can be without names.

    Raises:
        DataError: as `PackedSource`; no image, several labels an image, or other classes than the
            job says.
    """
    if is_multi_label:
        raise DataError(
            f"{files[0]}: TFRecord files and tar shards give an image one class, but "
            "multi_label=1; give records, a list or a manifest with multiple labels per image"
        )
    source = PackedSource(files, labels)
    if not len(source):
        raise DataError(f"{source.name}: expected images, found none")
    _log.info("Reading %s: %d images", source.name, len(source))
    if source.labels is not None and classes not in (None, len(source.labels)):
        raise DataError(
            f"{source.name} has {len(source.labels)} classes, but num_classes is {classes}; "
            "num_classes must match the data"
        )
    return source
