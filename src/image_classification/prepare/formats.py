"""The files that images are stored in: record files, class folders, TFRecord files.

Each format is a function of a folder, the stem of the file names and the label map; it is a context
manager that yields a function, which stores one image and returns its size in bytes.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from image_classification.errors import UsageError
from image_classification.files import named_in_errors
from image_classification.images.header import read_header
from image_classification.labels.label_map import LABELS_FILE, LabelMap
from image_classification.labels.tree import is_system_name
from image_classification.prepare.encode import EncodedImage
from image_classification.records.format import RecordHeader, pack_image_record
from image_classification.records.tfrecord import encode_example, frame_tfrecord, require_checksums
from image_classification.records.writer import RecordWriter

Write = Callable[[EncodedImage], int]
Format = Callable[[Path, str, LabelMap], AbstractContextManager[Write]]

_MAX_STEM = 50  # characters of the original name; a name has 255 bytes at most


@contextmanager
def write_records(
    folder: Path, stem: str, _labels: LabelMap | None = None, *, pack_labels: bool = False
) -> Iterator[Write]:
    """Write `<stem>.rec` and `<stem>.idx`; ids are those of the list.

    Args:
        folder, stem: the folder of the files, and their name without a suffix.
        pack_labels: store all labels of an image that has several; otherwise the first.
    """
    with RecordWriter(folder / f"{stem}.rec") as writer:

        def write(image: EncodedImage) -> int:
            labels = image.entry.labels
            has_several = pack_labels and len(labels) > 1
            header = RecordHeader(labels if has_several else labels[0], image.entry.id)
            offset = writer.write(pack_image_record(header, image.content), image.entry.id)
            return writer.position - offset

        yield write


@contextmanager
def write_class_folders(folder: Path, _stem: str, labels: LabelMap) -> Iterator[Write]:
    """Write `<class>/<id>-<original name>.jpg`: ids keep equal names of several folders apart."""

    def write(image: EncodedImage) -> int:
        class_folder = folder / labels.names[int(image.entry.labels[0])]
        class_folder.mkdir(exist_ok=True)
        path = class_folder / _file_name(image)
        with named_in_errors(path):
            path.write_bytes(image.content)
        return len(image.content)

    yield write


def _file_name(image: EncodedImage) -> str:
    stem = os.path.splitext(os.path.basename(image.entry.path))[0][:_MAX_STEM]
    readable = stem.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    extension = read_header(image.content).format.lower().replace("jpeg", "jpg")
    return f"{image.entry.id:08d}-{readable}.{extension}"


@contextmanager
def write_tfrecords(folder: Path, stem: str, labels: LabelMap) -> Iterator[Write]:
    """Write `<stem>.tfrecord` with the keys of TensorFlow's ImageNet converter.

    Labels count from 0; an image of several classes has a list of them. Height and width are those
    of the stored pixels, which TensorFlow's decoders return.
    """
    path = folder / f"{stem}.tfrecord"
    with named_in_errors(path), path.open("wb", 1 << 20) as file:

        def write(image: EncodedImage) -> int:
            header, numbers = read_header(image.content), image.entry.labels
            present = [int(numbers[0])]
            if len(numbers) > 1:
                present = [index for index, value in enumerate(numbers) if value]
            names = [labels.names[index].encode() for index in present]
            features: dict[str, bytes | int | list[bytes] | list[int]] = {
                "image/encoded": image.content,
                "image/format": header.format.lower().encode(),
                "image/class/label": present,
                "image/class/text": names,
                "image/height": header.height,
                "image/width": header.width,
                "image/filename": os.fsencode(image.entry.path),
            }
            return file.write(frame_tfrecord(encode_example(features)))

        yield write


FORMATS: dict[str, Format] = {
    "recordio": partial(write_records, pack_labels=True),
    "folders": write_class_folders,
    "tfrecord": write_tfrecords,
}


def check_format(name: str, labels: LabelMap, is_multi_label: bool = False) -> None:
    """Raise a UsageError for a format that cannot be written here, before any work is done."""
    if name not in FORMATS:
        raise UsageError(f"expected one of {', '.join(FORMATS)} as format, got {name!r}")
    if name == "tfrecord":
        require_checksums()
    if name == "folders" and is_multi_label:
        raise UsageError(
            "images can have several classes, but --format folders stores an image in the folder "
            "of one class; use --format recordio or tfrecord"
        )
    if name == "folders":
        for label in labels.names:
            is_hidden = label.startswith(".") or is_system_name(label) or label == LABELS_FILE
            if not label or is_hidden or "/" in label or "\0" in label:
                raise UsageError(
                    f"class {label!r} cannot be the name of a folder; rename it, or use another "
                    "--format"
                )


def shard_stem(stem: str, number: int, count: int) -> str:
    """Return the stem of a shard's file names, numbered from 0: `train-00000-of-00003`."""
    return f"{stem}-{number:05d}-of-{count:05d}"
