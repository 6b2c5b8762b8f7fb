"""From a list and its images to a record file: stored as they are, or transcoded once.

    list ─► EncodingRun: read, decode, crop, resize, encode ─► RecordChunks ─► .rec, .idx

In: a list and the folder of its images. Out: `.rec` and `.idx` (or shards), the label map next to
them, and a `PackReport`; or nothing at all. The records are in the order of the list at any number
of workers.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from image_classification import __version__
from image_classification.errors import DataError, UsageError, counted
from image_classification.files import check_target
from image_classification.images.decode import DEFAULT_MAX_PIXELS
from image_classification.images.restart_markers import Segmenter
from image_classification.labels.kinds import LabelKind, classes_of, is_class_number, kind_of
from image_classification.labels.label_map import LABELS_FILE, LabelMap, numbering_advice
from image_classification.labels.lists import (
    ListEntry,
    label_text,
    read_list,
    warn_of_contradictions,
)
from image_classification.prepare import encode
from image_classification.prepare.chunks import RecordChunks
from image_classification.records.writer import RECORD_SUFFIX

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackOptions:
    """Which images go into the records, and how.

    Attributes:
        transcoding: None stores each file's bytes (after a check that it is an image that ends
            where it should; it is not decoded).
        pack_labels: store all labels of a list with several; otherwise the first.
        label_width: how many labels every line of the list must have; None allows any number.
        slice, slices: pack only slice `slice` of the list's `slices`, counted from 0.
        max_pixels: height times width of the largest image that is decoded.
        segment: give JPEGs restart markers, so that a reader can decode regions of them.
    """

    transcoding: encode.Transcoding | None = None
    pack_labels: bool = False
    label_width: int | None = None
    slice: int = 0
    slices: int = 1
    max_pixels: int = DEFAULT_MAX_PIXELS
    segment: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.slice < self.slices:
            raise UsageError(
                f"expected a part from 0 to {self.slices - 1} of {self.slices}, got {self.slice}"
            )
        if self.label_width is not None and self.label_width < 1:
            raise UsageError(f"expected a label width of 1 or more, got {self.label_width}")

    def select(self, entries: list[ListEntry]) -> list[ListEntry]:
        """Return the lines of the slice."""
        first, stop = (len(entries) * k // self.slices for k in (self.slice, self.slice + 1))
        return entries[first:stop]

    def describe_job(self, list_path: Path, root: Path) -> dict[str, Any]:
        """Return the values that must be the same for a run to be resumed."""
        with list_path.open("rb") as file:
            content = hashlib.sha256()
            while block := file.read(1 << 20):
                content.update(block)
        return {
            "list": content.hexdigest(),
            "root": str(root.absolute()),
            "version": __version__,
            **asdict(self),
        }


AS_STORED = PackOptions()
"""Each file's bytes as they are, with its first label."""


@dataclass(frozen=True)
class PackReport:
    """What was packed.

    Attributes:
        output: the record file; with shards the name they are derived from.
        packed: records in it.
        skipped: the unusable images.
        class_counts: label → records, in ascending order. If all of several labels are packed:
            class → images of that class, or objects if the labels are boxes.
        size_bytes: of the record file or of all shards.
        shards: names of the shards; empty for one file.
        resumed: images of the list that an interrupted run had done.
        label_kind: what the packed labels mean, a value of `LabelKind`.
    """

    output: str
    packed: int
    skipped: tuple[encode.EncodedImage, ...]
    class_counts: Mapping[float, int]
    size_bytes: int
    shards: tuple[str, ...] = ()
    resumed: int = 0
    label_kind: str = LabelKind.CLASS.value

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            **vars(self),
            "skipped": [image.to_json() for image in self.skipped],
            "class_counts": {label_text(label): n for label, n in self.class_counts.items()},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PackReport:
        """Raise KeyError, TypeError or ValueError for anything that is not from `to_json`."""
        counts = content["class_counts"].items()
        replaced = {
            "skipped": tuple(encode.EncodedImage.from_json(image) for image in content["skipped"]),
            "class_counts": {float(label): int(count) for label, count in counts},
            "shards": tuple(content["shards"]),
        }
        return cls(**{**content, **replaced})

    def lines(self) -> Iterator[str]:
        """Yield the report as lines for people."""
        shards = f" in {len(self.shards)} shards" if self.shards else ""
        yield f"{self.output}: {counted(self.packed, 'records')}, {self.size_bytes} bytes{shards}"
        if self.resumed:
            yield counted(self.resumed, "images were done before the interruption")
        if self.label_kind == LabelKind.MULTI_HOT.value:
            yield "each image has a 0 or 1 for every class; training needs multi_label=1"
        elif self.label_kind == LabelKind.DETECTION.value:
            yield "labels for object detection; counted are the objects of each class"
        yield from (
            f"class {label_text(label)}: {count}" for label, count in self.class_counts.items()
        )
        yield from (f"skipped {image.entry.path}: {image.reason}" for image in self.skipped)


def pack(
    list_path: Path,
    root: Path,
    output: Path,
    options: PackOptions = AS_STORED,
    *,
    workers: int | None = None,
    max_bad: int | float = 0,
    shard_bytes: int | None = None,
    resume: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> PackReport:
    """Pack the images of a list into `output` and the index next to it.

    Args:
        list_path: the list; a `labels.json` in its folder is copied next to the output.
        root: the folder that the paths of the list are relative to.
        output: the `.rec` file; with `shard_bytes`, the name the shards' names are derived from.
        options: which images, and how.
        workers: threads; None for one per core.
        max_bad: how many images may be unusable and left out: a count (int) or a share (float).
        shard_bytes: close a file when it has reached this size and begin the next.
        resume: keep finished chunks when the run is interrupted, and take those of the last one.
        on_progress: called with (images done, images in the list), from this thread.

    Raises:
        ListError: the list is malformed.
        DataError: the list is empty, more than `max_bad` images cannot be used, the output cannot
            be written, or the label map of other classes is in its folder. Nothing is left behind
            (except finished chunks, with `resume`) and an older output stays as it was.
        UsageError: `output` is the list or does not end in `.rec`, or `resume` with another list
            or other options than the interrupted run had.
    """
    if output.suffix != RECORD_SUFFIX:
        raise UsageError(
            f"{output}: expected the name of a record file ({RECORD_SUFFIX}) as output"
        )
    check_target(output, list_path)
    entries, kind = _read_entries(list_path, options)
    packed_kind = kind if options.pack_labels else LabelKind.CLASS
    is_multi_hot = packed_kind is LabelKind.MULTI_HOT
    labels = _read_labels(list_path, entries, kind)
    if labels is not None:
        labels.check_beside(output)
    encoder = encode.ImageEncoder(
        str(root),
        options.transcoding,
        options.max_pixels,
        Segmenter() if options.segment else None,
    )
    chunks = RecordChunks(
        output,
        options.describe_job(list_path, root),
        entries,
        kind=kind if options.pack_labels else None,
        shard_bytes=shard_bytes,
        resume=resume,
    )
    with _named_errors(output, chunks, resume), chunks:
        _drop_repaired(chunks, entries, encoder)
        resumed = chunks.done
        skipped = [image for chunk in chunks.finished for image in chunk.skipped]
        run = encode.EncodingRun(
            encoder, len(entries), workers, on_progress, done=resumed, unusable=skipped
        )
        for image in run.images(entries[resumed:]):
            chunks.add(image)
        run.finish(max_bad)
        chunks.end()
        if labels is not None:
            labels.write(output.with_name(LABELS_FILE))
    counts = dict.fromkeys(map(float, range(len(entries[0].labels))), 0) if is_multi_hot else {}
    for chunk in chunks.finished:
        for label, count in chunk.class_counts.items():
            counts[label] = counts.get(label, 0) + count
    return PackReport(
        str(output),
        sum(chunk.packed for chunk in chunks.finished),
        tuple(run.unusable),
        dict(sorted(counts.items())),
        sum(path.stat().st_size for path in chunks.paths),
        tuple(path.name for path in chunks.paths) if shard_bytes else (),
        resumed,
        packed_kind.value,
    )


def _read_entries(list_path: Path, options: PackOptions) -> tuple[list[ListEntry], LabelKind]:
    """Return the lines of the list, or of its slice, and what all its labels mean."""
    entries = read_list(list_path, label_width=options.label_width)
    if not entries:
        raise DataError(f"{list_path}: expected a list of images, got an empty file")
    kind = kind_of(entry.labels for entry in entries)
    if kind in (LabelKind.CLASS, LabelKind.MULTI_HOT) or not options.pack_labels:
        warn_of_contradictions(list_path, entries)
    if kind is not LabelKind.CLASS:
        _warn_of_several(list_path, entries, kind, options)
    if kind is LabelKind.CLASS or not options.pack_labels:
        _warn_of_class_labels(list_path, entries, kind)
    selected = options.select(entries)
    if not selected:
        raise UsageError(
            f"{list_path}: {len(entries)} images leave part {options.slice} of {options.slices} "
            f"empty; use at most {len(entries)} parts"
        )
    return selected, kind


def _warn_of_class_labels(list_path: Path, entries: Sequence[ListEntry], kind: LabelKind) -> None:
    wrong = [entry for entry in entries if not is_class_number(entry.labels[0])]
    if wrong:
        _log.warning(
            "%s, id %d: the label %s is not a class number (0, 1, 2, …), which training needs%s",
            *(list_path, wrong[0].id, label_text(wrong[0].labels[0])),
            f" ({len(wrong)} such labels)" if len(wrong) > 1 else "",
        )
    elif kind is LabelKind.CLASS:
        _warn_of_numbers(list_path, entries)


def _warn_of_several(
    list_path: Path, entries: Sequence[ListEntry], kind: LabelKind, options: PackOptions
) -> None:
    if not options.pack_labels:
        cure = {
            LabelKind.MULTI_HOT: ", which is not a class: --pack-label packs a 0 or 1 for every "
            "class, for multi_label=1",
            LabelKind.DETECTION: ", which is not a class: these are labels for object detection, "
            "and --pack-label packs them all",
        }.get(kind, "; --pack-label packs all")
        _log.warning("%s has several labels per line: only the first is packed%s", list_path, cure)
    elif kind is LabelKind.NUMBERS:
        first = len(entries[0].labels)
        other = next((entry for entry in entries if len(entry.labels) != first), None)
        what = "the labels are"
        if other is not None:
            what = (
                f"the labels ({first} in the first line, {len(other.labels)} of id {other.id}) are"
            )
        _log.warning(
            "%s: %s neither one class nor a 0 or 1 for every class; they are packed, but "
            "image classification cannot be trained on them",
            list_path,
            what,
        )


def _warn_of_numbers(list_path: Path, entries: Sequence[ListEntry]) -> None:
    """Warn of class numbers that do not count from 0 or leave gaps, unless names explain them."""
    numbers = {int(entry.labels[0]) for entry in entries}
    names = LabelMap.beside(list_path)
    if names is not None and max(numbers) < len(names):
        return
    if advice := numbering_advice(numbers):
        _log.warning("%s: %s", list_path, advice)


def _read_labels(list_path: Path, entries: Sequence[ListEntry], kind: LabelKind) -> LabelMap | None:
    """Return the label map in the list's folder, if it has the list's classes.

    Raises:
        DataError: it numbers the classes differently from the folders in the list.
    """
    path, labels = list_path.with_name(LABELS_FILE), LabelMap.beside(list_path)
    if labels is None:
        return None
    if kind is LabelKind.MULTI_HOT:
        largest = float(len(entries[0].labels) - 1)
    else:
        found = (classes_of(entry.labels, kind) for entry in entries)
        largest = max((label for classes in found for label in classes), default=0.0)
    if largest >= len(labels):
        _log.warning(
            "%s names %d classes, but %s has a label %g: the names are not copied next to the "
            "record file",
            path,
            len(labels),
            list_path,
            largest,
        )
        return None
    folders, known = LabelMap.from_folders(entries), labels.to_prediction_index()
    if folders is not None and any(
        known.get(name, number) != number for number, name in enumerate(folders.names)
    ):
        raise DataError(
            f"{path} numbers its classes differently from the folders in {list_path}: it belongs "
            "to another list; keep each list and its label map in a folder of their own"
        )
    return labels


@contextmanager
def _named_errors(output: Path, chunks: RecordChunks, resume: bool) -> Iterator[None]:
    """Turn an OSError of the output into a DataError; an image's OSError is its reason by now."""
    try:
        yield
    except OSError as error:
        kept = resume and chunks.finished
        left = "finished chunks wait for --resume" if kept else "nothing was left behind"
        raise DataError(f"{output} cannot be written: {error.strerror}; {left}") from error


def _drop_repaired(
    chunks: RecordChunks, entries: Sequence[ListEntry], encoder: encode.ImageEncoder
) -> None:
    """Drop the finished chunks from the first one with a skipped image that is usable now."""
    for number, chunk in enumerate(chunks.finished):
        skipped = {image.entry.id for image in chunk.skipped}
        for entry in entries[chunk.first : chunk.stop]:
            if entry.id in skipped and encoder.encode(entry).reason is None:
                chunks.drop_from(number)
                return
