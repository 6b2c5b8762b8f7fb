"""One channel → one source, whatever form its images come in.

    a list in `<name>_lst`  image files that the list names
    .rec files              records
    one .manifest file      image files that the augmented manifest names
    else                    class folders

Channels in Pipe mode are in `pipes`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from image_classification.contract.channels import ChannelInput
from image_classification.data.inventory.lists import read_list_inventory, read_multi_hot_list
from image_classification.data.inventory.manifest import read_manifest, read_multi_hot_manifest
from image_classification.data.inventory.rows import assemble
from image_classification.data.labels import LABELS_FILE, LabelMap
from image_classification.data.samples import UInt8Array
from image_classification.data.sources import Source
from image_classification.data.sources.folder import FolderSource
from image_classification.data.sources.listed import ListedSource
from image_classification.data.sources.records import RecordSource, first_labels
from image_classification.errors import ChannelError, DataError, ListError
from image_classification.training.class_names import names_of_lists

_RECORD_CONTENT_TYPE = "application/x-recordio"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Expected:
    """What the job says of its data.

    Attributes:
        classes: how many, or None if the data tells.
        labels: the names, or None if the data tells.
        is_multi_label: several labels an image.
        is_part: whether the channel is this host's part of a larger one, which may lack classes.
    """

    classes: int | None
    labels: LabelMap | None
    is_multi_label: bool = False
    is_part: bool = False


def open_channel(
    channel: ChannelInput, listing: ChannelInput | None, expected: Expected
) -> tuple[Source, LabelMap]:
    """The source of a channel that has a folder, and the label map of its class numbers.

    Raises:
        ChannelError: nothing usable in it.
        DataError: damaged or contradictory data.
    """
    if listing is not None:
        _logger.info("Searching for .lst files in %s.", listing.path)
        return _open_list(channel, _only(listing, "*.lst"), expected)
    if has_records(channel):
        _logger.info("Searching for .rec files in %s.", channel.path)
        return _open_records(channel, expected)
    if list(channel.path.glob("*.manifest")):
        return _open_manifest(channel, _only(channel, "*.manifest"), expected)
    if expected.is_multi_label:
        raise ChannelError(
            f"channel {channel.name}: class folders give an image one class, but multi_label=1; "
            "give records, a list or a manifest with several labels, or leave multi_label out"
        )
    folder = FolderSource(channel.path, expected.labels, may_lack_classes=expected.is_part)
    if expected.classes is not None and len(folder.labels) != expected.classes:
        raise DataError(
            f"channel {channel.name}: {len(folder.labels)} class folders, but num_classes is "
            f"{expected.classes}"
        )
    return folder, folder.labels


def record_files(directory: Path) -> list[Path]:
    """The record files of a channel, in name order; hidden ones are left out."""
    return sorted(p for p in directory.rglob("*.rec") if not p.name.startswith("."))


def has_records(channel: ChannelInput) -> bool:
    """Whether a channel is read as record files: by its content type, else by what is in it."""
    if channel.is_pipe:
        return not channel.is_wrapped
    files = record_files(channel.path)
    is_manifest = bool(list(channel.path.glob("*.manifest")))
    if channel.content_type == _RECORD_CONTENT_TYPE and not files and not is_manifest:
        raise ChannelError(
            f"channel {channel.name}: ContentType is {_RECORD_CONTENT_TYPE}, but {channel.path} "
            "has no .rec file"
        )
    return bool(files) and channel.content_type in {"", _RECORD_CONTENT_TYPE}


def _only(channel: ChannelInput, pattern: str) -> Path:
    found = sorted(p for p in channel.path.rglob(pattern) if not p.name.startswith("."))
    if len(found) != 1:
        raise ChannelError(
            f"channel {channel.name}: expected exactly one {pattern[1:]} file in {channel.path}, "
            f"found {[p.name for p in found[:10]] or 'none'}"
        )
    return found[0]


def _open_list(channel: ChannelInput, listing: Path, expected: Expected) -> tuple[Source, LabelMap]:
    try:
        if expected.is_multi_label:
            paths, rows = read_multi_hot_list(channel.path, listing)
            return _listed(channel, paths, rows, expected)
        inventory = read_list_inventory(channel.path, listing, expected.labels)
    except ListError as error:
        raise ListError(f"Invalid lst file in the {channel.name} channel: {error}") from error
    _logger.info("Channel %s: %s names %d images", channel.name, listing, len(inventory.entries))
    paths = [entry.path for entry in inventory.entries]
    classes = inventory.class_indices
    if expected.is_part:  # the list is of all hosts' images
        here = [n for n, path in enumerate(paths) if (channel.path / path).is_file()]
        _logger.info("Channel %s: %d of them are on this host", channel.name, len(here))
        paths, classes = [paths[n] for n in here], classes[here]
    source = ListedSource(inventory.name, channel.path, paths, classes)
    return source, _wide_enough(inventory.labels, expected)


def _open_manifest(
    channel: ChannelInput, manifest: Path, expected: Expected
) -> tuple[Source, LabelMap]:
    if not expected.is_multi_label:
        rows = read_manifest(manifest)
        inventory = assemble(channel.path, manifest, rows, expected.labels)
        paths = [entry.path for entry in inventory.entries]
        source = ListedSource(inventory.name, channel.path, paths, inventory.class_indices)
        return source, _wide_enough(inventory.labels, expected)
    classes = len(expected.labels) if expected.labels else expected.classes
    if classes is None:
        raise ChannelError(f"channel {channel.name}: set num_classes to read its manifest")
    paths, rows_ = read_multi_hot_manifest(channel.path, manifest, classes, channel.label_format)
    return _listed(channel, paths, rows_, expected)


def _wide_enough(labels: LabelMap, expected: Expected) -> LabelMap:
    """Numbers instead of names where the data has fewer classes than the job says."""
    if expected.classes is None or len(labels) == expected.classes:
        return labels
    if len(labels) > expected.classes:
        raise DataError(
            f"the data has a class {len(labels) - 1}, but num_classes is {expected.classes}; "
            "num_classes and the class names must be those of the data"
        )
    return LabelMap.numbered(expected.classes)


def _listed(
    channel: ChannelInput, paths: list[str], rows: UInt8Array, expected: Expected
) -> tuple[Source, LabelMap]:
    source = ListedSource(str(channel.path), channel.path, paths, first_labels(rows), rows)
    return source, _labels_of_width(channel, rows.shape[1], expected)


def _labels_of_width(channel: ChannelInput, width: int, expected: Expected) -> LabelMap:
    classes = len(expected.labels) if expected.labels else expected.classes or width
    if classes != width:
        raise DataError(
            f"channel {channel.name}: an image has {width} labels 0 or 1, but there are {classes} "
            "classes; num_classes and the class names must be those of the data"
        )
    return expected.labels or _numbered(channel, width)


def _open_records(channel: ChannelInput, expected: Expected) -> tuple[Source, LabelMap]:
    files = record_files(channel.path)
    _logger.info("Channel %s: reading %s", channel.name, ", ".join(path.name for path in files))
    source = RecordSource(files, is_multi_label=expected.is_multi_label)
    if not len(source):
        raise ChannelError(
            f"Unable to start training. Empty .rec file in {channel.name} channel: {files[0]}"
        )
    if source.multi_hot is not None:
        return source, _labels_of_width(channel, source.multi_hot.shape[1], expected)
    return source, expected.labels or _record_labels(channel, source, expected.classes)


def _record_labels(channel: ChannelInput, source: Source, classes: int | None) -> LabelMap:
    """Names from the folders in its lists where they name all classes, else numbers."""
    count = int(source.class_indices.max()) + 1 if classes is None else classes
    labels = names_of_lists(channel)
    if labels is not None and len(labels) == count:
        return labels
    return _numbered(channel, count)


def _numbered(channel: ChannelInput, count: int) -> LabelMap:
    _logger.warning(
        "Channel %s has no %s: classes are named by their numbers; the hyperparameter labels names "
        "them",
        channel.name,
        LABELS_FILE,
    )
    return LabelMap.numbered(count)
