"""Files of other programs that hold images with their labels: TFRecords, tar shards, Parquet.

In: such a file. Out: a `PackedFile`, which knows every label and reads single images. Opening reads
the headers and labels, not the images.
"""

from __future__ import annotations

import mmap
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from image_classification.errors import LabelError, RecordError
from image_classification.records import parquet, tar_shards, tfrecord
from image_classification.records.format import Mapped, map_file
from image_classification.records.packed_labels import PackedImage
from image_classification.samples import IntArray


class PackedFile:
    """The images of one file; `content` may be called from several threads.

    Attributes:
        path: of the file.
        numbers: int64 (images,), the class number of each image; −1 for none.
        vocabulary: the class names in the file, in the order in which they occur.
        named: int64 (images,), the position of each image's class in `vocabulary`; −1 for none.
        counts: int64 (images,), how many labels the image has; −1 for one class, which `numbers`
            and `named` give.
        values: int64 (sum of the counts above 0,), these labels of all images in a row: numbers, or
            −1 − position in `vocabulary`.
        names: the names that the numbers in `values` have.

    Raises:
        RecordError: the file cannot be read, is damaged, or has no images.
        LabelError: an image has no label, or a number has two names.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.vocabulary: list[str] = []
        self.names: dict[int, str] = {}
        values = array("q")
        self._data: Mapped = b"" if parquet.is_table(path) else map_file(path)
        self._keys, positions = bytearray(), dict[str, int]()
        columns = [array("q") for _ in range(8)]
        try:
            for image in self._scan():
                row = self._row(image, positions, values)
                for column, value in zip(columns, row, strict=True):
                    column.append(value)
        except BaseException:
            self.close()
            raise
        self.vocabulary = list(positions)
        numbers, named, counts, labels, *places = (
            np.frombuffer(column, np.int64) if column else np.empty(0, np.int64)
            for column in (*columns[:3], values, *columns[3:])
        )
        self.numbers: IntArray = numbers
        self.named: IntArray = named
        self.counts: IntArray = counts
        self.values: IntArray = labels
        self._places = places

    def _scan(self) -> Iterator[PackedImage]:
        if not parquet.is_table(self.path):
            is_tfrecord = tfrecord.is_tfrecord(self.path)
            scan = tfrecord.scan_examples if is_tfrecord else tar_shards.scan_shard
            yield from scan(self.path, self._data)
            return
        with tempfile.TemporaryFile(prefix="image-classification-") as copy:
            try:
                yield from parquet.scan_table(self.path, copy)
                copy.flush()
            except OSError as error:
                raise RecordError(
                    f"{self.path}: copying its images to {tempfile.gettempdir()} failed: "
                    f"{error.strerror}; set TMPDIR to a larger volume"
                ) from error
            if copy.tell():
                self._data = mmap.mmap(copy.fileno(), 0, access=mmap.ACCESS_READ)

    def _row(
        self, image: PackedImage, positions: dict[str, int], values: array[int]
    ) -> tuple[int, ...]:
        self._keys += image.key.encode("utf-8", "surrogateescape")
        label, count = image.label, -1
        if label.several is not None:
            count = len(label.several)
            values.extend(
                item if isinstance(item, int) else -1 - positions.setdefault(item, len(positions))
                for item in label.several
            )
            for number, name in zip(label.several, label.names, strict=False):
                if isinstance(number, int) and self.names.setdefault(number, name) != name:
                    raise two_names(self.path, number, name, self.names[number])
        number = -1 if label.number is None else label.number
        named = positions.setdefault(label.name, len(positions)) if label.name else -1
        return (number, named, count, *image.image, *image.record, len(self._keys))

    def __len__(self) -> int:
        return len(self.numbers)

    def key(self, number: int) -> str:
        """The name of image `number` in the file; `#` and its number in a TFRecord file."""
        ends = self._places[4]
        begin = int(ends[number - 1]) if number else 0
        return self._keys[begin : int(ends[number])].decode("utf-8", "backslashreplace")

    def content(self, number: int) -> bytes:
        """The encoded image `number`; a RecordError if the checksum of its record is wrong."""
        begin, end, record, size = (int(places[number]) for places in self._places[:4])
        if record and not tfrecord.is_undamaged(self._data, (record, size)):
            raise RecordError(
                f"{self.path}: record {number} at byte {record - 12} has a wrong checksum: the "
                "file is damaged; copy it again"
            )
        return bytes(self._data[begin:end])

    def close(self) -> None:
        """Release the file."""
        if isinstance(self._data, mmap.mmap):
            with suppress(BufferError):
                self._data.close()


def two_names(path: Path, number: int, *names: str) -> LabelError:
    """Return the error for a class number that has two names."""
    return LabelError(
        f"{path}: class {number} is called {' and '.join(map(repr, names))}; a number must have "
        "one name"
    )


def is_packed(path: Path) -> bool:
    """Return whether a file is a TFRecord file, or a tar shard with labels (no plain archive)."""
    if path.suffix.lower() != ".tar":
        return tfrecord.is_tfrecord(path)
    try:
        data = map_file(path)
    except RecordError:
        return False
    try:
        return tar_shards.is_shard(path, data)
    finally:
        if isinstance(data, mmap.mmap):
            data.close()


def packed_files(folder: Path) -> list[Path]:
    """Return the TFRecord files and tar shards below a folder in name order, without hidden ones.

    A compressed file is none of them.
    """
    return sorted(
        path
        for path in folder.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
        and is_packed(path)
    )
