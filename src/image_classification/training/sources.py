"""Open one channel as a source of samples, with its label map.

Pipe mode               a stream of records (training), or a copy of it (validation, test)
a list in `<name>_lst`  the image files that the list names
.rec files              records
one .manifest file      the image files that the augmented manifest names
TFRecords, tar shards   the images in them
anything else           class folders
"""

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from image_classification import errors
from image_classification.contract.channels import ChannelInput
from image_classification.inventory.lists import read_list_inventory, read_multi_hot_list
from image_classification.inventory.manifest import read_manifest, read_multi_hot_manifest
from image_classification.inventory.rows import assemble
from image_classification.inventory.splits import splits_in_names
from image_classification.inventory.tags import NO_SEPARATOR
from image_classification.labels.label_map import (
    LABELS_FILE,
    LabelMap,
    advice_on,
    listed,
    names_of_lists,
)
from image_classification.loading.foreign_files import describe_contents, refuse_pointer
from image_classification.loading.packed import find_packed, open_packed
from image_classification.loading.pipe import PATIENCE_SECONDS, open_fifo
from image_classification.loading.records import RecordSource, first_labels, record_files
from image_classification.loading.sources import FolderSource, ListedSource, Source
from image_classification.loading.stream import StreamFormat, StreamSource, image_records
from image_classification.records.format import ImageRecord, pack_image_record, read_stream
from image_classification.records.writer import RecordWriter
from image_classification.samples import IntArray, UInt8Array

_logger = logging.getLogger(__name__)


def open_pipe(
    channel: ChannelInput, labels: LabelMap, is_multi_label: bool
) -> Callable[[int, Callable[[], bool]], Iterator[ImageRecord]]:
    """Return what opens a pass of a channel in Pipe mode and yields its records.

    Its arguments: the number of the pass, and a function that ends the pass by returning True.
    """
    layout = StreamFormat(channel.is_wrapped, len(labels), is_multi_label, channel.label_format)

    def open_pass(number: int, is_stopped: Callable[[], bool]) -> Iterator[ImageRecord]:
        path = channel.path.with_name(f"{channel.name}_{number}")
        with (
            open_fifo(path, is_stopped, PATIENCE_SECONDS, _PIPE_REMEDY) as stream,
            _remedies(channel.name, _MANIFEST_REMEDY if channel.is_wrapped else _RECORDS_REMEDY),
        ):
            records = image_records(read_stream(stream, str(path)), str(path), layout)
            first = next(records, None)
            if first is None:
                raise errors.ChannelError(
                    f"Unable to start training. Empty pipe in {channel.name} channel"
                )
            yield first
            yield from records

    return open_pass


_PIPE_REMEDY = (
    "is the channel in Pipe mode (TrainingInputMode=Pipe), and is there an object below its S3 "
    "prefix?"
)
_RECORDS_REMEDY = (
    "the pipe must contain record files, or an augmented manifest with RecordWrapperType=RecordIO"
)
_MANIFEST_REMEDY = "AttributeNames must name the image and then the label"
_ONE_CLASS = (
    "give it as the channel train and set multi_label=1: a job with the channel training has one "
    "class per image"
)
_LABEL_REMEDY = "multi_label, num_classes and label-format (in ContentType) must match the data"


@contextmanager
def _remedies(channel: str, for_records: str = "") -> Iterator[None]:
    """Add to an error of the block which settings of the job to look at.

    Args:
        channel: its name; that of the training channel tells which built-in the job is written for.
        for_records: what to add to a RecordError.
    """
    try:
        yield
    except errors.ForeignLabelsError:  # no setting helps
        raise
    except errors.SeveralLabelsError as error:  # the loaders do not know the hyperparameters
        cure = "set multi_label=1" if channel != "training" else _ONE_CLASS
        raise errors.LabelError(f"{error}; to learn all labels, {cure}") from error
    except errors.LabelError as error:
        raise errors.LabelError(f"{error}; {_LABEL_REMEDY}") from error
    except errors.RecordError as error:
        raise errors.RecordError(
            f"{error}; {for_records}" if for_records else str(error)
        ) from error


def stream_of(
    channel: ChannelInput,
    labels: LabelMap,
    samples: int,
    *,
    is_multi_label: bool,
    seed: int,
    shuffle_bytes: int,
    should_stop: Callable[[], bool] = bool,
) -> StreamSource:
    """Return the source of a training channel in Pipe mode; nothing is read yet."""
    _logger.info("The channel '%s' is in pipe input mode under %s.", channel.name, channel.path)
    return StreamSource(
        channel.name,
        samples,
        open_pipe(channel, labels, is_multi_label),
        seed=seed,
        shuffle_bytes=shuffle_bytes,
        is_multi_label=is_multi_label,
        should_stop=should_stop,
        remedy="set num_training_samples to their number",
    )


def copy_of_pipe(channel: ChannelInput, labels: LabelMap, is_multi_label: bool) -> Source:
    """Return a source over the first pass of a channel, copied to an unnamed file on disk.

    Validation needs the same samples after every epoch, and the report needs them by number. The
    file is mapped and removed at once, so that it disappears with the process.

    Raises:
        ChannelError: the pipe is empty or damaged, or the disk is too small.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="image-classification-") as folder:
            path = Path(folder) / f"{channel.name}.rec"
            with RecordWriter(path) as writer:
                for record in open_pipe(channel, labels, is_multi_label)(0, lambda: False):
                    payload = pack_image_record(record.header, record.content)
                    writer.write(payload, record.header.id)
            name = f"channel {channel.name}"
            source = RecordSource([path], is_multi_label=is_multi_label, name=name)
    except OSError as error:
        raise errors.ChannelError(
            f"channel {channel.name}: copying its pipe to {tempfile.gettempdir()} failed: "
            f"{error.strerror}; give the instance a larger volume, or use File mode"
        ) from error
    _logger.info(
        "Copied the pipe of channel '%s': %s", channel.name, errors.counted(len(source), "images")
    )
    return source


_RECORD_CONTENT_TYPE = "application/x-recordio"


@dataclass(frozen=True)
class Expected:
    """The job's own statements about its data.

    Attributes:
        classes: number of classes, or None to take it from the data.
        labels: class names, or None to take them from the data.
        is_multi_label: whether an image may have multiple labels.
        is_shard: whether the channel is this host's shard, which may lack classes.
        may_lack_classes: whether classes of `labels` may have no image: in validation and test.
    """

    classes: int | None
    labels: LabelMap | None
    is_multi_label: bool = False
    is_shard: bool = False
    may_lack_classes: bool = False


def open_channel(
    channel: ChannelInput, listing: ChannelInput | None, expected: Expected
) -> tuple[Source, LabelMap]:
    """Return the source of a channel with a folder, and the label map of its class numbers.

    Args:
        channel: the channel.
        listing: the channel of its list, or None.
        expected: what the job says about the data.

    Raises:
        ChannelError: there is nothing usable in it.
        DataError: damaged or contradictory data.
    """
    if listing is not None:
        _logger.info("Searching for .lst files in %s.", listing.path)
        return _open_list(channel, _only(listing, "*.lst"), expected)
    if has_records(channel):
        _logger.info("Searching for .rec files in %s.", channel.path)
        return _open_records(channel, expected)
    if _has_manifest(channel):
        return _open_manifest(channel, _only(channel, "*.manifest"), expected)
    if files := find_packed(channel.path):
        if named := splits_in_names(files):
            raise errors.ChannelError(
                f"channel {channel.name}: the files in {channel.path} belong to several splits by "
                f"their names ({', '.join(sorted(set(named)))}): move those of each split into a "
                "folder of its own, or write channels from them (image-classification preprocess "
                f"--input {channel.path} --output channels)"
            )
        return _open_packed(channel, files, expected)
    if expected.is_multi_label:
        raise errors.ChannelError(
            f"channel {channel.name}: class folders give an image one class, but multi_label=1; "
            "give records, a list or a manifest with multiple labels per image, or leave out "
            f"multi_label; {channel.path} holds {describe_contents(channel.path)}"
        )
    return _open_folder(channel, expected)


def _open_folder(channel: ChannelInput, expected: Expected) -> tuple[Source, LabelMap]:
    may_lack = expected.is_shard or expected.may_lack_classes
    folder = FolderSource(channel.path, expected.labels, may_lack_classes=may_lack)
    folder.refuse_lost_classes()
    if expected.labels is None:
        folder.log_order_of_numbers()
    if expected.classes is not None and len(folder.labels) != expected.classes:
        raise errors.DataError(
            f"channel {channel.name}: {len(folder.labels)} class folders "
            f"({listed(folder.labels.names)}), but num_classes is {expected.classes}; set it to "
            "their number, or leave it out"
        )
    return folder, folder.labels


def has_records(channel: ChannelInput) -> bool:
    """Return whether a channel is read as record files: by its content type, else by its files."""
    if channel.is_pipe:
        return not channel.is_wrapped
    files = record_files(channel.path)
    if channel.content_type == _RECORD_CONTENT_TYPE and not files and not _has_manifest(channel):
        raise errors.ChannelError(
            f"channel {channel.name}: ContentType is {_RECORD_CONTENT_TYPE}, but {channel.path} "
            f"has no .rec file; it holds {describe_contents(channel.path)}"
        )
    return bool(files) and channel.content_type in {"", _RECORD_CONTENT_TYPE}


def _has_manifest(channel: ChannelInput) -> bool:
    return any(path.is_file() for path in channel.path.glob("*.manifest"))


def _only(channel: ChannelInput, pattern: str) -> Path:
    found = sorted(
        p for p in channel.path.rglob(pattern) if not p.name.startswith(".") and p.is_file()
    )
    if len(found) != 1:
        raise errors.ChannelError(
            f"channel {channel.name}: expected exactly one {pattern[1:]} file in {channel.path}, "
            f"found {[p.name for p in found[:10]] or 'none'}"
        )
    refuse_pointer(found[0])
    return found[0]


def _open_list(channel: ChannelInput, listing: Path, expected: Expected) -> tuple[Source, LabelMap]:
    try:
        if expected.is_multi_label:
            paths, rows = read_multi_hot_list(channel.path, listing)
            return _listed(channel, paths, rows, expected)
        inventory = read_list_inventory(channel.path, listing, expected.labels)
    except errors.ListError as error:
        raise errors.ListError(
            f"Invalid lst file in the {channel.name} channel: {error}"
        ) from error
    _logger.info("Channel %s: %s names %d images", channel.name, listing, len(inventory.entries))
    paths = [entry.path for entry in inventory.entries]
    classes = inventory.class_indices
    if expected.is_shard:  # the list names the images of all hosts
        here = [n for n, path in enumerate(paths) if (channel.path / path).is_file()]
        _logger.info("Channel %s: %d of these images are on this host", channel.name, len(here))
        paths, classes = [paths[n] for n in here], classes[here]
    source = ListedSource(inventory.name, channel.path, paths, classes)
    return source, _wide_enough(inventory.labels, expected, inventory.class_indices)


def _open_manifest(
    channel: ChannelInput, manifest: Path, expected: Expected
) -> tuple[Source, LabelMap]:
    if not expected.is_multi_label:
        rows, _ = read_manifest(manifest, separator=NO_SEPARATOR)
        several = next((row for row in rows if row.classes is not None), None)
        if several is not None:
            raise errors.ListError(
                f"{several.where}: expected one class per image, got {several.label!r}; multiple "
                "labels per image require multi_label=1"
            )
        inventory = assemble(channel.path, manifest, rows, expected.labels)
        paths = [entry.path for entry in inventory.entries]
        source = ListedSource(inventory.name, channel.path, paths, inventory.class_indices)
        return source, _wide_enough(inventory.labels, expected, inventory.class_indices)
    classes = len(expected.labels) if expected.labels else expected.classes
    if classes is None:
        raise errors.ChannelError(f"channel {channel.name}: set num_classes to read its manifest")
    paths, rows_ = read_multi_hot_manifest(channel.path, manifest, classes, channel.label_format)
    return _listed(channel, paths, rows_, expected)


def _wide_enough(labels: LabelMap, expected: Expected, class_indices: IntArray) -> LabelMap:
    """Return numbers instead of names if the data has fewer classes than the job says."""
    if expected.classes is None or len(labels) == expected.classes:
        return labels
    if len(labels) > expected.classes:
        raise errors.DataError(
            f"the data has a class {len(labels) - 1} (classes {listed(labels.names)}), but "
            f"num_classes is {expected.classes}; num_classes and the class names must match the "
            f"data{advice_on(class_indices.tolist())}"
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
        raise errors.DataError(
            f"channel {channel.name}: an image has {width} labels of 0 or 1, but there are "
            f"{classes} classes; num_classes and the class names must match the data"
        )
    return expected.labels or _numbered(channel, width)


def _open_records(channel: ChannelInput, expected: Expected) -> tuple[Source, LabelMap]:
    files = record_files(channel.path)
    _logger.info("Channel %s: reading %s", channel.name, ", ".join(path.name for path in files))
    if named := splits_in_names(files):
        _logger.warning(
            "Channel %s: its record files belong to several splits by their names (%s): move those "
            "of each split into a folder of its own",
            *(channel.name, ", ".join(sorted(set(named)))),
        )
    with _remedies(channel.name):
        source = RecordSource(files, is_multi_label=expected.is_multi_label)
    if not len(source):
        raise errors.ChannelError(
            f"Unable to start training. Empty .rec file in {channel.name} channel: {files[0]}"
        )
    if source.multi_hot is not None:
        return source, _labels_of_width(channel, source.multi_hot.shape[1], expected)
    return source, expected.labels or _record_labels(channel, source, expected.classes)


def _open_packed(
    channel: ChannelInput, files: list[Path], expected: Expected
) -> tuple[Source, LabelMap]:
    with _remedies(channel.name):
        source = open_packed(
            files,
            expected.labels,
            expected.classes,
            expected.is_multi_label,
            label_format=channel.label_format,
            may_have_one=expected.may_lack_classes or expected.is_shard,
        )
    labels = source.labels
    if labels and labels.has_numbers and expected.is_shard and not expected.labels:
        labels = None  # other hosts have the names of other numbers
    if source.multi_hot is not None:
        found = replace(expected, labels=labels)
        return source, _labels_of_width(channel, source.multi_hot.shape[1], found)
    return source, labels or _record_labels(channel, source, expected.classes)


def _record_labels(channel: ChannelInput, source: Source, classes: int | None) -> LabelMap:
    """Return the folder names in the channel's lists if they name all classes, else numbers."""
    count = int(source.class_indices.max()) + 1 if classes is None else classes
    labels = names_of_lists(channel.name, channel.path)
    if labels is not None and len(labels) == count:
        return labels
    return _numbered(channel, count)


def _numbered(channel: ChannelInput, count: int) -> LabelMap:
    _logger.warning(
        "Channel %s has no %s: classes are named by their numbers; set the hyperparameter labels "
        "to name them",
        *(channel.name, LABELS_FILE),
    )
    return LabelMap.numbered(count, channel.path)
