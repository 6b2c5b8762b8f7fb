"""The forms a channel can have: record files, class folders of images, TFRecord files.

In: encoded images in order, one shard after the other. Out: the files of the shard, complete when
its writer is left. The caller renames the folder they are in, so nothing is seen half-written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from image_classification.data.encoded_image import EncodedImage
from image_classification.data.labels import LabelMap
from image_classification.data.recordio import RecordHeader, RecordWriter, pack_image_record
from image_classification.data.tfrecord import encode_example, frame_tfrecord, require_checksums
from image_classification.errors import UsageError

Write = Callable[[EncodedImage], int]
"""Stores an image and returns the bytes it takes."""

ShardWriter = Callable[[Path, str, LabelMap], AbstractContextManager[Write]]
"""(channel folder, stem of the shard, label map) → the writer of a shard."""

_MAX_STEM = 50  # characters of the original name; a name has 255 bytes at most
_EXTENSIONS = {"JPEG": "jpg"}


@contextmanager
def write_records(channel: Path, stem: str, labels: LabelMap) -> Iterator[Write]:
    """`<stem>.rec` and `<stem>.idx`; ids are those of the list."""
    del labels
    with RecordWriter(channel / f"{stem}.rec") as writer:

        def write(image: EncodedImage) -> int:
            header = RecordHeader(image.entry.labels[0], image.entry.id)
            offset = writer.write(pack_image_record(header, image.content), image.entry.id)
            return writer.position - offset

        yield write


@contextmanager
def write_class_folders(channel: Path, stem: str, labels: LabelMap) -> Iterator[Write]:
    """`<class>/<id>-<original name>.jpg`: the id keeps names apart that differ in their folder."""
    del stem

    def write(image: EncodedImage) -> int:
        folder = channel / labels.names[int(image.entry.labels[0])]
        folder.mkdir(exist_ok=True)
        (folder / _file_name(image)).write_bytes(image.content)
        return len(image.content)

    yield write


def _file_name(image: EncodedImage) -> str:
    assert image.header is not None
    stem = os.path.splitext(os.path.basename(image.entry.path))[0][:_MAX_STEM]
    readable = stem.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    extension = _EXTENSIONS.get(image.header.format, image.header.format.lower())
    return f"{image.entry.id:08d}-{readable}.{extension}"


@contextmanager
def write_tfrecords(channel: Path, stem: str, labels: LabelMap) -> Iterator[Write]:
    """`<stem>.tfrecord` with the keys of TensorFlow's ImageNet converter; labels count from 0.

    Height and width are those of the stored pixels, which is what TensorFlow's decoders return.
    """
    with (channel / f"{stem}.tfrecord").open("wb", 1 << 20) as file:

        def write(image: EncodedImage) -> int:
            assert image.header is not None
            label = int(image.entry.labels[0])
            record = frame_tfrecord(
                encode_example(
                    {
                        "image/encoded": image.content,
                        "image/format": image.header.format.lower().encode(),
                        "image/class/label": label,
                        "image/class/text": labels.names[label].encode(),
                        "image/height": image.header.height,
                        "image/width": image.header.width,
                        "image/filename": os.fsencode(image.entry.path),
                    }
                )
            )
            return file.write(record)

        yield write


FORMATS: dict[str, ShardWriter] = {
    "recordio": write_records,
    "folders": write_class_folders,
    "tfrecord": write_tfrecords,
}


def check_format(name: str, labels: LabelMap) -> None:
    """A UsageError for a format that cannot be written here, before any work is done."""
    if name not in FORMATS:
        raise UsageError(f"expected one of {', '.join(FORMATS)} as format, got {name!r}")
    if name == "tfrecord":
        require_checksums()
    if name == "folders":
        for label in labels.names:
            if label in {"", ".", ".."} or "/" in label or "\0" in label or label.startswith("."):
                raise UsageError(
                    f"class {label!r} cannot be the name of a folder; rename it, or use another "
                    "--format"
                )
