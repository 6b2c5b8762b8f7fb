"""From channels to sources: what the data is, which classes it has, and what is wrong with it.

Runs before a framework is imported, so that a mistake in the data fails in the first second.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from image_classification.contract.channels import ChannelInput
from image_classification.data.labels import LABELS_FILE, LabelMap
from image_classification.data.sources import Source
from image_classification.data.sources.folder import FolderSource
from image_classification.data.sources.records import RecordSource
from image_classification.data.sources.subset import SubsetSource
from image_classification.data.splitting import stratified_split
from image_classification.errors import ChannelError, DataError
from image_classification.training.class_names import given_names, names_of_lists
from image_classification.training.settings import Settings

_RECORD_CONTENT_TYPE = "application/x-recordio"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """The opened data of a job.

    Attributes:
        training, validation: sources.
        test: what the final model is measured on, or None.
        labels: the label map of all.
        are_records: record files (True) or image files.
    """

    training: Source
    validation: Source
    test: Source | None
    labels: LabelMap
    are_records: bool


def open_inputs(channels: Mapping[str, ChannelInput], settings: Settings, channel: str) -> Inputs:
    """Open the training channel named `channel` and its validation.

    Raises:
        ChannelError: a channel without usable data.
        DataError: damaged data, or class numbers and names that do not fit together.
    """
    training_input = channels[channel]
    named = given_names(channels, settings.labels, settings.classes)
    training, labels = _open(training_input, named, settings.classes)
    if "validation" in channels:
        validation, _ = _open(channels["validation"], labels, len(labels))
    else:
        training, validation = _hold_out(training, settings)
    test = _open(channels["test"], labels, len(labels))[0] if "test" in channels else None
    sources = {channel: training, "validation": validation} | (
        {"test": test} if test is not None else {}
    )
    for name, source in sources.items():
        _check_classes(name, source, labels)
        counts = np.bincount(source.class_indices, minlength=len(labels))
        _logger.info(
            "Channel %s: %d images, %d classes, %d to %d images per class",
            name,
            len(source),
            int((counts > 0).sum()),
            int(counts.min()),
            int(counts.max()),
        )
    _compare_count(len(training), settings.expected_samples)
    return Inputs(training, validation, test, labels, _has_records(training_input))


def record_files(directory: Path) -> list[Path]:
    """The record files of a channel, in name order; hidden ones are left out."""
    return sorted(p for p in directory.rglob("*.rec") if not p.name.startswith("."))


def _has_records(channel: ChannelInput) -> bool:
    """Whether a channel is read as record files: by its content type, else by what is in it."""
    files = record_files(channel.path)
    if channel.content_type == _RECORD_CONTENT_TYPE and not files:
        raise ChannelError(
            f"channel {channel.name}: ContentType is {_RECORD_CONTENT_TYPE}, but {channel.path} "
            "has no .rec file"
        )
    return bool(files) and channel.content_type in {"", _RECORD_CONTENT_TYPE}


def _open(
    channel: ChannelInput, labels: LabelMap | None, classes: int | None
) -> tuple[Source, LabelMap]:
    if not _has_records(channel):
        folder = FolderSource(channel.path, labels)
        if classes is not None and len(folder.labels) != classes:
            raise DataError(
                f"channel {channel.name}: {len(folder.labels)} class folders, but num_classes is "
                f"{classes}"
            )
        return folder, folder.labels
    files = record_files(channel.path)
    _logger.info("Channel %s: reading %s", channel.name, ", ".join(path.name for path in files))
    source = RecordSource(files)
    if not len(source):
        raise ChannelError(
            f"Unable to start training. Empty .rec file in {channel.name} channel: {files[0]}"
        )
    return source, labels or _record_labels(channel, source, classes)


def check_labels(directory: Path, labels: LabelMap) -> None:
    """Refuse records whose own labels.json gives the class numbers other names than `labels`."""
    path = directory / LABELS_FILE
    if path.is_file() and (own := LabelMap.read(path)) != labels:
        raise DataError(
            f"{path}: the class numbers of these records mean {list(own.names)[:20]}, those of the "
            f"model {list(labels.names)[:20]}; pack them with one label map"
        )


def _record_labels(channel: ChannelInput, source: Source, classes: int | None) -> LabelMap:
    """Names from the folders in its lists where they name all classes, else numbers."""
    count = int(source.class_indices.max()) + 1 if classes is None else classes
    labels = names_of_lists(channel)
    if labels is not None and len(labels) == count:
        return labels
    _logger.warning(
        "Channel %s has no %s: classes are named by their numbers; the hyperparameter labels names "
        "them",
        channel.name,
        LABELS_FILE,
    )
    return LabelMap.numbered(count)


def _hold_out(training: Source, settings: Settings) -> tuple[Source, Source]:
    ratio = settings.validation_split_ratio
    if not ratio or ratio >= 1:
        raise ChannelError(
            "Missing required channel: validation. Give the channel, or set validation_split_ratio "
            "between 0 and 1 to hold a part of the training images out"
        )
    kept, held, _ = stratified_split(training.class_indices, (1 - ratio, ratio, 0), settings.seed)
    _logger.info("No validation channel: %d of %d images held out", len(held), len(training))
    return (
        SubsetSource(training, kept, training.name),
        SubsetSource(training, held, f"{training.name} (held out)"),
    )


def _check_classes(name: str, source: Source, labels: LabelMap) -> None:
    if not len(source):
        raise ChannelError(f"channel {name}: {source.name} has no image")
    beyond = np.flatnonzero(source.class_indices >= len(labels))
    if len(beyond):
        first = int(beyond[0])
        raise DataError(
            f"channel {name}: {len(beyond)} samples have a class outside 0 to {len(labels) - 1}, "
            f"the first is {source.key(first)} with {int(source.class_indices[first])}; "
            "num_classes and the class names must be those of the data"
        )


def _compare_count(found: int, expected: int | None) -> None:
    if expected is not None and expected != found:
        _logger.warning(
            "num_training_samples is %d, but the training channel has %d images: %d are used",
            expected,
            found,
            found,
        )
