"""Open a job's channels: sources of samples, the label map of all, and errors in the data.

Runs before a framework is imported, so that a mistake in the data fails in the first second.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from image_classification.contract.channels import LIST_SUFFIX, MODEL_CHANNEL, ChannelInput
from image_classification.errors import ChannelError, DataError, HyperparameterError
from image_classification.inventory.splits import (
    bare_splits,
    left_beside,
    refuse_mixed_splits,
    split_folders,
)
from image_classification.labels.label_map import LabelMap, advice_on, alike, given_names
from image_classification.labels.split import stratified_split
from image_classification.loading.classes import (
    class_counts,
    refuse_one_class,
    warn_of_absent_classes,
)
from image_classification.loading.packed import PackedSource
from image_classification.loading.sources import FolderSource, Source, SubsetSource
from image_classification.samples import IntArray
from image_classification.training import sources
from image_classification.training.settings import Settings

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingTotals:
    """The training samples of all hosts, if each host has a shard of them.

    Attributes:
        samples: number of all samples.
        most_samples: number of samples of the host with the largest shard.
        class_counts: int64 (classes,), samples of each class.
    """

    samples: int
    most_samples: int
    class_counts: IntArray


@dataclass(frozen=True)
class Inputs:
    """The opened data of a job.

    Attributes:
        training, validation: sources.
        test: the source that the final model is measured on, or None.
        labels: the label map of all sources.
        packed: the splits that are record files; the others are image files.
        totals: of the training data of all hosts, if `training` is this host's shard.
    """

    training: Source
    validation: Source
    test: Source | None
    labels: LabelMap
    packed: frozenset[str] = frozenset()
    totals: TrainingTotals | None = None

    def close(self) -> None:
        """Close the sources."""
        for source in self.splits.values():
            source.close()

    @property
    def training_samples(self) -> int:
        """The number of training samples of all hosts."""
        return len(self.training) if self.totals is None else self.totals.samples

    @property
    def class_counts(self) -> dict[str, list[int]]:
        """Samples of each class by split, without splits that cannot be counted (pipes)."""
        counts = {
            name: class_counts(source, len(self.labels)).tolist()
            for name, source in self.splits.items()
            if source.is_countable
        }
        if self.totals is not None:
            counts["train"] = self.totals.class_counts.tolist()
        return counts

    @property
    def splits(self) -> dict[str, Source]:
        """The sources by name: train, validation and, if there is one, test."""
        found = {"train": self.training, "validation": self.validation}
        return found if self.test is None else found | {"test": self.test}


def open_inputs(
    channels: Mapping[str, ChannelInput],
    settings: Settings,
    channel: str,
    *,
    is_sharded: bool = False,
    should_stop: Callable[[], bool] = bool,
) -> Inputs:
    """Open the training channel named `channel`, and the validation and test data.

    Args:
        channels, settings: of the job.
        channel: the training channel's name.
        is_sharded: whether each of several hosts has a shard of the training channel.
        should_stop: called while a pipe delivers nothing; True ends the pass.

    Raises:
        ChannelError: a channel has no usable data.
        DataError: damaged data, or class numbers that do not match the names.
    """
    channels = with_split_folders(channels, channel)
    folders = {
        name: given.root or given.path
        for name, given in channels.items()
        if name != MODEL_CHANNEL.name and not given.is_pipe
    }
    given = given_names(folders, settings.labels, settings.classes)
    if is_sharded:
        given = given or _names_for_all_hosts(channels, channel, settings)
    expected = sources.Expected(settings.classes, given, settings.multi_label, is_sharded)
    training, labels = _open_training(channels, channel, expected, settings, should_stop)
    if not settings.multi_label:
        refuse_one_class(f"channel {channel}", training, labels, is_sharded)
    for group in alike(labels.names):
        _logger.warning("Classes %s: are they one? Then give them one name", group)
    expected = sources.Expected(len(labels), labels, settings.multi_label, may_lack_classes=True)
    if "validation" in channels:
        validation = _open(channels, "validation", expected)
    else:
        training, validation = _hold_out(training, settings)
    test = _open(channels, "test", expected) if "test" in channels else None
    opened = {channel: training, "validation": validation}
    if test is not None:
        opened["test"] = test
    for name, source in opened.items():
        if source.is_countable:
            _check_classes(name, source, labels)
            _log_counts(name, source, labels)
            if name != channel or not is_sharded:
                warn_of_absent_classes(f"Channel {name}", source, labels, name == channel)
    if training.is_countable and not is_sharded:
        _compare_count(len(training), settings.expected_samples)
    return Inputs(training, validation, test, labels, _packed(channels, channel))


def with_split_folders(
    channels: Mapping[str, ChannelInput], training: str
) -> dict[str, ChannelInput]:
    """Replace channels that hold the folders of splits by these folders.

    The validation and test folders of the training channel become channels, unless the job has
    such channels. A channel with a list, in Pipe mode or with a shard stays as it is.

    Args:
        channels: of the job.
        training: the name of the training channel.

    Raises:
        ChannelError: a channel lacks the folder of its split, or is a shard of the split folders.
        DataError: two folders are named after the same split, or folders of splits have no classes.
    """
    found = dict(channels)
    for name, split in ((training, "train"), ("validation", "validation"), ("test", "test")):
        channel = channels.get(name)
        if channel is None or channel.is_pipe or name + LIST_SUFFIX in channels:
            continue
        folders = split_folders(channel.path)
        if not folders:
            refuse_mixed_splits(channel.path)
            continue
        shown = ", ".join(folder.name for folder in folders.values())
        if split not in folders:
            raise ChannelError(
                f"channel {name}: {channel.path} holds the folders {shown}, but none for "
                f"{split}: give the folder with the class folders, or rename one of them {split}"
            )
        if channel.is_sharded:
            raise ChannelError(
                f"channel {name}: {channel.path} holds the folders {shown}, which each host has "
                "only a part of: give each as a channel of its own, or set S3DataDistributionType "
                "to FullyReplicated"
            )
        used = {split: name}
        found[name] = replace(channel, path=folders[split], root=channel.path)
        if name == training:
            for other in ("validation", "test"):
                if other in folders and other not in channels:
                    found[other] = replace(
                        channel, name=other, path=folders[other], root=channel.path
                    )
                    used[other] = other
        _log_splits(channel, folders, used)
    return found


def _log_splits(
    channel: ChannelInput, folders: Mapping[str, Path], used: Mapping[str, str]
) -> None:
    """Say which folder is which split, and what is left out."""
    _logger.info(
        "Channel %s: %s holds the folders of splits: %s",
        channel.name,
        channel.path,
        ", ".join(f"{folders[split]} is the channel {name}" for split, name in used.items()),
    )
    left_beside(channel.path, folders.values())  # warns
    unused = [folders[split] for split in folders if split not in used]
    unused += bare_splits(channel.path)
    if unused:
        _logger.warning(
            "Channel %s: left out %s",
            channel.name,
            ", ".join(str(folder) for folder in unused),
        )


def _names_for_all_hosts(
    channels: Mapping[str, ChannelInput], name: str, settings: Settings
) -> LabelMap | None:
    """Return the class names from validation: a shard of the training channel may lack classes.

    Raises:
        ChannelError: this host has no sample, or the number of classes is unknown.
    """
    if not any(path.is_file() for path in channels[name].path.rglob("[!.]*")):
        raise ChannelError(
            f"channel {name}: this host received no object: ShardedByS3Key needs at least as many "
            "objects as hosts; make more objects (smaller shards), use fewer hosts, "
            "or set S3DataDistributionType to FullyReplicated"
        )
    validation = channels["validation"]
    if not validation.is_pipe:
        expected = sources.Expected(
            settings.classes, None, settings.multi_label, may_lack_classes=True
        )
        listing = channels.get("validation" + LIST_SUFFIX)
        source, labels = sources.open_channel(validation, listing, expected)
        source.close()
        if isinstance(source, FolderSource) or (isinstance(source, PackedSource) and source.labels):
            return labels
    if settings.classes is None:
        raise ChannelError(
            f"channel {name}: with ShardedByS3Key no host sees all classes: set num_classes or "
            "labels"
        )
    return None


def _packed(channels: Mapping[str, ChannelInput], training: str) -> frozenset[str]:
    """Return the splits that are record files; a held-out split is like the training channel."""
    found = {"train": channels[training], "validation": channels[training]}
    found |= {name: channels[name] for name in ("validation", "test") if name in channels}
    return frozenset(
        split
        for split, channel in found.items()
        if channel.name + LIST_SUFFIX not in channels and sources.has_records(channel)
    )


def _open_training(
    channels: Mapping[str, ChannelInput],
    name: str,
    expected: sources.Expected,
    settings: Settings,
    should_stop: Callable[[], bool],
) -> tuple[Source, LabelMap]:
    channel = channels[name]
    if not channel.is_pipe:
        return sources.open_channel(channel, channels.get(name + LIST_SUFFIX), expected)
    if settings.weighted_loss:
        raise ChannelError(
            f"channel {name}: use_weighted_loss counts the classes before training, which Pipe "
            "mode does not allow; use File or FastFile mode"
        )
    recipe = settings.recipe
    if recipe.class_weights or recipe.balanced_sampling:
        raise HyperparameterError(
            f"channel {name}: class_weights and balanced_sampling need the class of every image "
            "before training, which Pipe mode does not allow; leave them out, or use File or "
            "FastFile mode"
        )
    if settings.expected_samples is None:
        raise ChannelError(
            f"channel {name}: in Pipe mode images cannot be counted before training: set "
            "num_training_samples to the number of training images"
        )
    labels = _labels_of_pipe(name, expected)
    source = sources.stream_of(
        channel,
        labels,
        settings.expected_samples,
        is_multi_label=settings.multi_label,
        seed=settings.seed,
        shuffle_bytes=settings.pipe_shuffle_bytes,
        should_stop=should_stop,
    )
    return source, labels


def _labels_of_pipe(name: str, expected: sources.Expected) -> LabelMap:
    if expected.labels is None and expected.classes is None:
        raise ChannelError(
            f"channel {name}: in Pipe mode classes cannot be counted before training: set "
            "num_classes or labels"
        )
    return expected.labels or LabelMap.numbered(expected.classes or 0)


def _open(channels: Mapping[str, ChannelInput], name: str, expected: sources.Expected) -> Source:
    channel = channels[name]
    if channel.is_pipe and expected.labels is not None:
        return sources.copy_of_pipe(channel, expected.labels, expected.is_multi_label)
    return sources.open_channel(channel, channels.get(name + LIST_SUFFIX), expected)[0]


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
            "between 0 and 1 to hold out some of the training images"
        )
    if not training.is_countable:
        raise ChannelError(
            "Missing required channel: validation. Pipe mode cannot hold out training images: "
            "give the channel, or use File or FastFile mode"
        )
    kept, held, _ = stratified_split(training.class_indices, (1 - ratio, ratio, 0), settings.seed)
    if not len(held):
        raise ChannelError(
            f"{training.name}: expected two images or more of a class, to hold out some for "
            f"validation, but each of the {len(training)} images is alone in its class; add "
            "images, or give the channel validation"
        )
    _logger.info("No validation channel: %d of %d images held out", len(held), len(training))
    return (
        SubsetSource(training, kept, training.name),
        SubsetSource(training, held, f"{training.name} (held out)"),
    )


def _check_classes(name: str, source: Source, labels: LabelMap) -> None:
    if not len(source):
        raise ChannelError(f"channel {name}: {source.name} has no images")
    if source.multi_hot is not None:
        return  # `open_channel` has compared the width with the label map
    beyond = np.flatnonzero(source.class_indices >= len(labels))
    if len(beyond):
        first = int(beyond[0])
        raise DataError(
            f"channel {name}: {len(beyond)} samples have a class outside 0 to {len(labels) - 1}, "
            f"for example {source.key(first)} with class {int(source.class_indices[first])}; "
            "num_classes and the class names must match the data"
            f"{advice_on(source.class_indices.tolist())}"
        )


def _compare_count(found: int, expected: int | None) -> None:
    if expected is not None and expected != found:
        _logger.warning(
            "num_training_samples is %d, but the training channel has %d images: using all %d",
            *(expected, found, found),
        )
