"""Shards: the pieces of a split that are written, each a file of its own, by whichever host.

A shard is a stretch of its split's list, so that shards are a function of the list and not of the
host, the number of hosts or the order of the work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from image_classification.errors import UsageError
from image_classification.images.decode import DEFAULT_MAX_PIXELS
from image_classification.labels.label_map import LabelMap
from image_classification.labels.lists import ListEntry
from image_classification.prepare.encode import EncodedImage, Transcoding, encode
from image_classification.records.format import RecordHeader, pack_image_record
from image_classification.records.tfrecord import encode_example, frame_tfrecord, require_checksums
from image_classification.records.writer import RecordWriter
from image_classification.work import in_order

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


_SAMPLED = 64  # images that are encoded to estimate the size of all


@dataclass(frozen=True)
class Shard:
    """A piece of a split.

    Attributes:
        split: "train", "validation" or "test".
        stem: file name without extension: `train`, or `train-00000-of-00003` of several.
        entries: in the order they are written.
    """

    split: str
    stem: str
    entries: Sequence[ListEntry]


def divide(split: str, entries: Sequence[ListEntry], count: int, host: str = "") -> list[Shard]:
    """`entries` in `count` shards whose sizes differ by one image at most.

    Args:
        split: its name.
        entries: in their order.
        count: 1 or more.
        host: goes into the names, where hosts have different images.
    """
    name = f"{split}-{host}" if host else split
    if count == 1:
        return [Shard(split, name, entries)]
    bounds = [len(entries) * k // count for k in range(count + 1)]
    return [
        Shard(split, f"{name}-{k:05d}-of-{count:05d}", entries[bounds[k] : bounds[k + 1]])
        for k in range(count)
    ]


def shard_count(
    entries: Sequence[ListEntry],
    root: str,
    transcoding: Transcoding | None,
    shard_bytes: int,
    workers: int,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> int:
    """How many shards of about `shard_bytes` (0: no limit) hold `entries`; 1 to len(entries).

    Encodes up to 64 of them, evenly spaced: every host that sees the same files comes to the same
    number. The size of a shard differs from the wish as much as those images do from the others.
    """
    if not shard_bytes or not entries:
        return 1
    step = -(-len(entries) // _SAMPLED)
    sampled = in_order(
        lambda entry: encode(entry, root, transcoding, max_pixels), entries[::step], workers
    )
    sizes = [len(image.content) for image in sampled if image.reason is None]
    if not sizes:
        return 1
    total = sum(sizes) / len(sizes) * len(entries)
    return min(max(1, -int(-total // shard_bytes)), len(entries))
