"""From channels to sources: what the data is, which classes it has, and what is wrong with it.

Runs before a framework is imported, so that a mistake in the data fails in the first second.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from image_classification.contract.channels import LIST_SUFFIX, ChannelInput
from image_classification.errors import ChannelError, DataError, HyperparameterError
from image_classification.labels.label_map import LabelMap
from image_classification.labels.split import stratified_split
from image_classification.loading.sources import FolderSource, Source, SubsetSource
from image_classification.samples import IntArray
from image_classification.training.settings import Settings
from image_classification.training.sources import (
    Expected,
    copy_of_pipe,
    given_names,
    has_records,
    open_channel,
    stream_of,
)
from image_classification.training.stopping import never


def names_for_all_hosts(
    channels: Mapping[str, ChannelInput], name: str, settings: Settings
) -> LabelMap | None:
    """Class names that a host's part of the training channel cannot tell, from validation.

    Raises:
        ChannelError: this host has no sample, or nothing says how many classes there are.
    """
    if not any(path.is_file() for path in channels[name].path.rglob("[!.]*")):
        raise ChannelError(
            f"channel {name}: this host got no object of it: with ShardedByS3Key there must be at "
            "least as many objects as hosts; make more of them (smaller shards), use fewer hosts, "
            "or set S3DataDistributionType to FullyReplicated"
        )
    validation = channels["validation"]
    if not validation.is_pipe:
        expected = Expected(settings.classes, None, settings.multi_label)
        listing = channels.get("validation" + LIST_SUFFIX)
        source, labels = open_channel(validation, listing, expected)
        source.close()
        if isinstance(source, FolderSource):
            return labels
    if settings.classes is None:
        raise ChannelError(
            f"channel {name}: with ShardedByS3Key no host sees all classes: set num_classes, or "
            "name them by labels"
        )
    return None


_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WholeTraining:
    """The training samples of all hosts, where each has a part.

    Attributes:
        samples: of all of them.
        most_samples: of the host that has most.
        class_counts: int64 (classes,).
    """

    samples: int
    most_samples: int
    class_counts: IntArray


@dataclass(frozen=True)
class Inputs:
    """The opened data of a job.

    Attributes:
        training, validation: sources.
        test: what the final model is measured on, or None.
        labels: the label map of all.
        packed: the splits that come as records; the others are image files.
        whole: of the training data, where `training` is this host's part of it.
    """

    training: Source
    validation: Source
    test: Source | None
    labels: LabelMap
    packed: frozenset[str] = frozenset()
    whole: WholeTraining | None = None

    @property
    def training_samples(self) -> int:
        """How many there are, over all hosts."""
        return len(self.training) if self.whole is None else self.whole.samples

    @property
    def splits(self) -> dict[str, Source]:
        """The sources there are, as train, validation and test."""
        sources = {"train": self.training, "validation": self.validation}
        return sources if self.test is None else sources | {"test": self.test}


def open_inputs(
    channels: Mapping[str, ChannelInput],
    settings: Settings,
    channel: str,
    *,
    is_part: bool = False,
    should_stop: Callable[[], bool] = never,
) -> Inputs:
    """Open the training channel named `channel` and its validation.

    Args:
        channels, settings: of the job.
        channel: the training channel's name.
        is_part: whether each of several hosts has a part of the training channel.
        should_stop: asked while a training pipe delivers nothing; True ends the pass.

    Raises:
        ChannelError: a channel without usable data.
        DataError: damaged data, or class numbers and names that do not fit together.
    """
    given = given_names(channels, settings.labels, settings.classes)
    if is_part:
        given = given or names_for_all_hosts(channels, channel, settings)
    expected = Expected(settings.classes, given, settings.multi_label, is_part)
    training, labels = _open_training(channels, channel, expected, settings, should_stop)
    expected = Expected(len(labels), labels, settings.multi_label)
    if "validation" in channels:
        validation = _open(channels, "validation", expected)
    else:
        training, validation = _hold_out(training, settings)
    test = _open(channels, "test", expected) if "test" in channels else None
    sources = {channel: training, "validation": validation} | (
        {"test": test} if test is not None else {}
    )
    for name, source in sources.items():
        if source.is_countable:
            _check_classes(name, source, labels)
            _log_counts(name, source, labels)
    if training.is_countable and not is_part:
        _compare_count(len(training), settings.expected_samples)
    return Inputs(training, validation, test, labels, _packed(channels, channel))


def _packed(channels: Mapping[str, ChannelInput], training: str) -> frozenset[str]:
    """The splits that come as records; what is held out of training comes as training does."""
    found = {"train": channels[training], "validation": channels[training]}
    found |= {name: channels[name] for name in ("validation", "test") if name in channels}
    return frozenset(
        split
        for split, channel in found.items()
        if channel.name + LIST_SUFFIX not in channels and has_records(channel)
    )


def _open_training(
    channels: Mapping[str, ChannelInput],
    name: str,
    expected: Expected,
    settings: Settings,
    should_stop: Callable[[], bool],
) -> tuple[Source, LabelMap]:
    channel = channels[name]
    if not channel.is_pipe:
        return open_channel(channel, channels.get(name + LIST_SUFFIX), expected)
    if settings.weighted_loss:
        raise ChannelError(
            f"channel {name}: use_weighted_loss counts the classes before training, which a pipe "
            "does not allow; use File or FastFile mode"
        )
    recipe = settings.recipe
    if recipe.class_weights or recipe.balanced_sampling:
        raise HyperparameterError(
            f"channel {name}: class_weights and balanced_sampling need the class of every image "
            "before training, which a pipe does not tell; leave them out, or use File or FastFile "
            "mode"
        )
    if settings.expected_samples is None:
        raise ChannelError(
            f"channel {name}: in Pipe mode nothing can be counted beforehand: set "
            "num_training_samples to the number of training images"
        )
    labels = _labels_of_pipe(name, expected)
    source = stream_of(
        channel,
        labels,
        settings.expected_samples,
        is_multi_label=settings.multi_label,
        seed=settings.seed,
        shuffle_bytes=settings.pipe_shuffle_bytes,
        should_stop=should_stop,
    )
    return source, labels


def _labels_of_pipe(name: str, expected: Expected) -> LabelMap:
    if expected.labels is None and expected.classes is None:
        raise ChannelError(
            f"channel {name}: in Pipe mode the classes cannot be counted beforehand: set "
            "num_classes, or labels"
        )
    return expected.labels or LabelMap.numbered(expected.classes or 0)


def _open(channels: Mapping[str, ChannelInput], name: str, expected: Expected) -> Source:
    channel = channels[name]
    if channel.is_pipe and expected.labels is not None:
        return copy_of_pipe(channel, expected.labels, expected.is_multi_label)
    return open_channel(channel, channels.get(name + LIST_SUFFIX), expected)[0]


def class_counts(source: Source, classes: int) -> IntArray:
    """int64 (classes,): samples of each class, or with each label."""
    if source.multi_hot is not None:
        return np.asarray(source.multi_hot.sum(axis=0, dtype=np.int64))
    return np.bincount(source.class_indices, minlength=classes)


def _log_counts(name: str, source: Source, labels: LabelMap) -> None:
    counts = class_counts(source, len(labels))
    _logger.info(
        "Channel %s: %d images, %d classes, %d to %d images per class",
        name,
        len(source),
        int((counts > 0).sum()),
        int(counts.min()),
        int(counts.max()),
    )


def _hold_out(training: Source, settings: Settings) -> tuple[Source, Source]:
    ratio = settings.validation_split_ratio
    if not ratio or ratio >= 1:
        raise ChannelError(
            "Missing required channel: validation. Give the channel, or set validation_split_ratio "
            "between 0 and 1 to hold a part of the training images out"
        )
    if not training.is_countable:
        raise ChannelError(
            "Missing required channel: validation. Nothing can be held out of a pipe: give the "
            "channel, or use File or FastFile mode"
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
    if source.multi_hot is not None:
        return  # as wide as the label map, which was checked on opening
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
