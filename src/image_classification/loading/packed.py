"""Samples from TFRecord files and tar shards, which other programs write.

In: the paths of the files. Out: `Sample`s by index, with the class of every sample known on
opening. Nothing in the files is executed.
"""

import json
import logging
import os
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from image_classification.errors import DataError, LabelError, RecordError, SeveralLabelsError
from image_classification.labels.label_map import LabelMap, advice_on
from image_classification.labels.tree import IMAGE_EXTENSIONS
from image_classification.loading.classes import names_of_numbers
from image_classification.loading.records import first_labels
from image_classification.loading.sources import Source
from image_classification.records.packed import PackedFile, is_packed, two_names
from image_classification.records.parquet import is_table
from image_classification.samples import BoolArray, IntArray, Sample

_CAPTIONS = 20  # samples from which names that hardly repeat cannot be classes
_NOTES = (".txt", ".md", ".json", ".csv", ".tsv", ".yaml", ".yml", ".html", ".idx", ".index")
_log = logging.getLogger(__name__)


class PackedSource(Source):
    """The images of `paths`, in the given order; within a file in file order.

    A label is a class number, or a class name where the files have no numbers. Names are numbered
    in the order of their bytes, as class folders are, unless `labels` gives their order. Several
    labels of an image are classes, or a 0 or 1 for every class: then all images have equally many.

    Args:
        paths: TFRecord files and tar shards.
        labels: the class names, or None to take them from the files.
        is_multi_label: whether an image may have several classes, or none; None if the labels show
            it.
        classes: how many classes there are, or None to take it from the labels.
        label_format: class-id or multi-hot: what several numbers are; "" if they show it.

    Attributes:
        labels: the class names; None if the files have only numbers.
        has_lists: whether an image has other than one label.

    Raises:
        DataError: a file is damaged or without images; an image has no class, or several without
            `is_multi_label`; a number has two names; a class is not in `labels`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: LabelMap | None = None,
        *,
        is_multi_label: bool | None = False,
        classes: int | None = None,
        label_format: str = "",
    ) -> None:
        self._files: list[PackedFile] = []
        self.name = str(paths[0]) if len(paths) == 1 else f"{len(paths)} files from {paths[0]} on"
        repeated = {name for name, n in Counter(path.name for path in paths).items() if n > 1}
        self._names = [str(path) if path.name in repeated else path.name for path in paths]
        try:
            for path in paths:
                self._files.append(PackedFile(path))
            self._starts = [0, *accumulate(len(file) for file in self._files)]
            self._counts = self._joined([file.counts for file in self._files])
            self.has_lists = bool((self._counts >= 0).any())
            self._label(labels, is_multi_label, len(labels) if labels else classes, label_format)
        except BaseException:
            self.close()
            raise

    def _label(
        self,
        labels: LabelMap | None,
        is_multi_label: bool | None,
        classes: int | None,
        label_format: str,
    ) -> None:
        """Number the classes of all images."""
        singles = self._counts < 0
        numbers = self._joined([file.numbers for file in self._files])
        values = self._joined([file.values for file in self._files])
        owners: IntArray = np.repeat(np.arange(len(self)), self._counts.clip(0))
        is_one_hot = self._one_hot(owners, values)
        if is_multi_label is None:
            is_multi_label = self.has_lists and not (singles | is_one_hot).all()
        if not is_multi_label:
            self._refuse_several(singles | is_one_hot)
            ones = np.flatnonzero(is_one_hot[owners] & (values == 1))
            counts = self._counts.clip(0)
            numbers[owners[ones]] = ones - (np.cumsum(counts) - counts)[owners[ones]]
            singles = np.ones_like(singles)
        if (numbers[singles] >= 0).all() and (not is_multi_label or (values >= 0).all()):
            listed = values if is_multi_label else values[:0]  # else vectors of one class
            self.labels = self._check_numbers(labels, numbers, listed, classes)
        else:
            self.labels = labels or self._vocabulary(int(singles.sum()) + len(values))
            numbers = self._joined([self._indices(file) for file in self._files])
            values = self._joined([self._named_values(file) for file in self._files])
            label_format = "class-id"
        if not is_multi_label:
            self.class_indices = numbers
            return
        if self._is_vector(owners, values, classes, label_format):
            self.multi_hot = values.reshape(len(self), -1).astype(np.uint8)
            if self.labels is not None and self.multi_hot.shape[1] != len(self.labels):
                raise DataError(
                    f"{self.name}: an image has {self.multi_hot.shape[1]} labels of 0 or 1, but "
                    f"there are {len(self.labels)} classes; the class names must match the data"
                )
        else:
            width = len(self.labels or ()) or classes
            found = np.concatenate([numbers[singles], values])
            highest = int(found.max(initial=-1))
            if width is not None and highest >= width:
                raise DataError(
                    f"{self.name}: found class {highest}, but there are {width} classes; "
                    "num_classes and the class names must match the data"
                    f"{advice_on(found.tolist())}"
                )
            width = len(LabelMap.numbered(highest + 1, self.name)) if width is None else width
            self.multi_hot = np.zeros((len(self), width), np.uint8)
            self.multi_hot[owners, values] = 1
            self.multi_hot[singles.nonzero()[0], numbers[singles]] = 1
        self.class_indices = first_labels(self.multi_hot)

    def _one_hot(self, owners: IntArray, values: IntArray) -> BoolArray:
        """bool (images,): whether an image has a single 1 among several labels of 0."""
        ones = np.bincount(owners[values == 1], minlength=len(self))
        zeros = np.bincount(owners[values == 0], minlength=len(self))
        is_open = (self._counts == 2) & (self._counts != self._counts[:1]).any()  # [0, 1] and [1]
        one_hot: BoolArray = (ones == 1) & (zeros == self._counts - 1) & (zeros > 0) & ~is_open
        return one_hot

    def _shown_labels(self, index: int) -> str:
        """The labels of an image, for messages."""
        file, number = self._locate(index)
        packed = self._files[file]
        begin = int(packed.counts[:number].clip(0).sum())
        values = packed.values[begin : begin + max(int(packed.counts[number]), 0)].tolist()
        return str([v if v >= 0 else packed.vocabulary[-1 - v] for v in values[:20]])

    def _refuse_several(self, is_one: BoolArray) -> None:
        wrong = np.flatnonzero(~is_one)
        if len(wrong):
            first = int(wrong[0])
            count = int(self._counts[first])
            labels = f"{count} labels {self._shown_labels(first)}" if count else "no label"
            raise SeveralLabelsError(
                f"{self.key(first)} of {self.name}: expected one class, got {labels} ({len(wrong)} "
                "images have several or none)"
            )

    def _is_vector(
        self, owners: IntArray, values: IntArray, classes: int | None, label_format: str
    ) -> bool:
        """Return whether the labels are a 0 or 1 for every class; a LabelError if that is open."""
        if label_format == "class-id" or not len(self):
            return False
        width = int(self._counts[0])
        is_vector = width > 1 and bool((self._counts == width).all() and (values <= 1).all())
        if label_format == "multi-hot":
            if not is_vector:
                raise LabelError(
                    f"{self.name}: label-format is multi-hot, but not all images have equally many "
                    "numbers 0 or 1; leave it out, or correct it to class-id"
                )
            return True
        pairs = np.unique(np.stack([owners, values]), axis=1)
        repeats = pairs.shape[1] < len(values)  # an image has no class twice
        if repeats and not is_vector and values.max() <= 1:
            counts = np.bincount(pairs[0], minlength=len(self))
            first = int(np.flatnonzero(counts < self._counts)[0])
            raise LabelError(
                f"{self.name}: expected class numbers, each once, or a 0 or 1 for every class in "
                f"every image, got {self._shown_labels(first)} in {self.key(first)} and "
                "other numbers of labels elsewhere; write one of the two for all images"
            )
        if not is_vector or any(file.names for file in self._files):
            return False
        if repeats:
            return True
        if classes not in (None, width):  # [0, 1] of three classes
            return False
        rows = values.reshape(len(self), width)
        if len(np.unique(rows, axis=0)) == 1:
            raise LabelError(
                f"{self.name}: every image has the labels {rows[0].tolist()}, which are two class "
                "numbers or a 0 or 1 for each of two classes: write the names of the classes, or "
                "give a channel label-format=class-id or label-format=multi-hot in its ContentType"
            )
        return True

    @staticmethod
    def _joined(indices: Sequence[IntArray]) -> IntArray:
        return np.concatenate([np.empty(0, np.int64), *indices])

    def _check_numbers(
        self, labels: LabelMap | None, numbers: IntArray, values: IntArray, classes: int | None
    ) -> LabelMap | None:
        """Return the names of the numbers: `labels`, else those in the files, or None."""
        names: dict[int, str] = {}
        for file, start in zip(self._files, self._starts, strict=False):
            pairs = np.unique(np.stack([numbers[start : start + len(file)], file.named]), axis=1)
            listed = [(n, file.vocabulary[i]) for n, i in pairs.T.tolist() if min(n, i) >= 0]
            for number, name in (*listed, *file.names.items()):
                if names.setdefault(number, name) != name:
                    raise two_names(file.path, number, name, names[number])
        if labels is not None:
            for number, name in names.items():
                if number < len(labels) and labels.names[number] not in (name, str(number)):
                    raise DataError(
                        f"{self.name}: class {number} is called {name!r}, but {number} is "
                        f"{labels.names[number]!r} in the label map; use one label map for all data"
                    )
            return labels
        highest = max(int(numbers.max(initial=-1)), int(values.max(initial=-1)) if names else -1)
        return names_of_numbers(self.name, names, highest, classes) if names else None

    def _vocabulary(self, count: int) -> LabelMap:
        """Return the names among `count` labels, in order."""
        names = {name for file in self._files for name in file.vocabulary}
        if len(names) > count // 2 and len(self) >= _CAPTIONS:
            shown = ", ".join(map(repr, sorted(names)[:3]))[:200]
            raise LabelError(
                f"{self.name}: expected the class of each image, got {len(names)} different texts "
                f"for {len(self)} images ({shown}, …), as captions are; write the class as a "
                "number or a name"
            )
        for name in sorted(names) if self.has_lists else ():
            parts = set(re.split(r"[,+/&\s]+", name))
            if len(parts) > 1 and parts <= names:
                raise LabelError(
                    f"{self.name}: {name!r} is one class, or several? Write several classes as a "
                    f"list, {json.dumps(sorted(parts), ensure_ascii=False)}"
                )
        return LabelMap(tuple(sorted(names, key=str.encode)))

    def _indices(self, file: PackedFile) -> IntArray:
        """int64 (images,): the classes of a file whose images have names; −1 for several."""
        if len(without := np.flatnonzero((file.named < 0) & (file.counts < 0))):
            raise LabelError(
                f"{file.path}: {file.key(int(without[0]))} has a class number, but other images "
                "have only names; write both, or one of them, for all images"
            )
        return np.append(self._positions(file), -1)[file.named]

    def _named_values(self, file: PackedFile) -> IntArray:
        """int64 (labels,): the classes of the images that have several names."""
        if (file.values >= 0).any():
            raise LabelError(
                f"{file.path}: some images have class numbers, others names; write one of the two "
                "for all images"
            )
        return self._positions(file)[-1 - file.values]

    def _positions(self, file: PackedFile) -> IntArray:
        """int64 (names,): the class of each name in the file."""
        assert self.labels is not None
        numbers = {name: number for number, name in enumerate(self.labels.names)}
        for name in file.vocabulary:
            if name not in numbers:
                self.labels.index(name)  # raises with the known names
        return np.array([numbers[name] for name in file.vocabulary], np.int64)

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
        row = None if self.multi_hot is None else self.multi_hot[index]
        return Sample(self.key(index), int(self.class_indices[index]), content, row)

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
    files: Sequence[Path],
    labels: LabelMap | None,
    classes: int | None,
    is_multi_label: bool,
    *,
    label_format: str = "",
    may_have_one: bool = True,
) -> PackedSource:
    """Open `files` for a job; its numbers can be without names.

    With `is_multi_label`, `may_have_one` allows that every image has one class, as the few images
    of a validation channel can. A DataError as of `PackedSource`, or if there is no image.
    """
    source = PackedSource(
        files, labels, is_multi_label=is_multi_label, classes=classes, label_format=label_format
    )
    if not len(source):
        raise DataError(f"{source.name}: expected images, found none")
    if is_multi_label and not source.has_lists and not may_have_one:
        raise DataError(
            f"{source.name}: every image has one class, but multi_label=1; leave out multi_label, "
            "or write all classes of each image as a list ([0, 2], or a 0 or 1 for every class)"
        )
    _log.info("Reading %s: %d images", source.name, len(source))
    if source.labels is not None and classes not in (None, len(source.labels)):
        raise DataError(
            f"{source.name} has {len(source.labels)} classes, but num_classes is {classes}; "
            "num_classes must match the data"
        )
    return source
