"""From a list and its images to a record file: stored as they are, or transcoded once.

    list ─► tasks of a few images ─► threads: read, decode, crop, resize, encode ─► parts, in order

In: a list, its root. Out: `.rec`, `.idx` (or shards), the label map beside them, and a
`PackReport`; or nothing at all. The order is that of the list at any number of workers.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from image_classification import __version__
from image_classification.data.files import check_target
from image_classification.data.image_packing import PackedImage, pack_image
from image_classification.data.images import DEFAULT_MAX_PIXELS
from image_classification.data.labels import LABELS_FILE, LabelMap, names_of_folders
from image_classification.data.listing import ListEntry, read_list
from image_classification.data.ordered_work import in_order
from image_classification.data.pack_report import PackReport, SkippedImage, Tally, check_skipped
from image_classification.data.record_parts import RecordParts
from image_classification.data.record_writer import RECORD_SUFFIX
from image_classification.data.segmenting import Segmenter
from image_classification.data.transcoding import Transcoding
from image_classification.errors import DataError, UsageError

__all__ = ["PackOptions", "PackReport", "SkippedImage", "pack"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackOptions:
    """What goes into the records, beside the images themselves.

    Attributes:
        transcoding: None stores each file's bytes as they are (checked to be an image that ends
            where it should, not decoded).
        pack_labels: store all labels of a list with several; otherwise the first.
        label_width: how many labels every line of the list must have; None takes what is there.
        part, parts: pack only the lines that fall to part `part` of `parts`, counted from 0.
        max_pixels: of an image that must be decoded to be checked; `transcoding` has its own.
        segment: give JPEGs restart markers, so that a reader can decode parts of them
            (`segmenting`).
    """

    transcoding: Transcoding | None = None
    pack_labels: bool = False
    label_width: int | None = None
    part: int = 0
    parts: int = 1
    max_pixels: int = DEFAULT_MAX_PIXELS
    segment: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.part < self.parts:
            raise UsageError(
                f"expected a part from 0 to {self.parts - 1} of {self.parts}, got {self.part}"
            )
        if self.label_width is not None and self.label_width < 1:
            raise UsageError(f"expected a label width of 1 or more, got {self.label_width}")


def pack(
    list_path: Path,
    root: Path,
    output: Path,
    *,
    transcoding: Transcoding | None = None,
    pack_labels: bool = False,
    options: PackOptions | None = None,
    workers: int | None = None,
    max_bad: int | float = 0,
    shard_bytes: int | None = None,
    resume: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> PackReport:
    """Pack the images of a list into `output` and the index beside it.

    Args:
        list_path: the list; a `labels.json` beside it is copied beside the output.
        root: the folder that the paths of the list are relative to.
        output: the `.rec` file; with `shard_bytes`, the name the shards' names are derived from.
        transcoding, pack_labels: see `PackOptions`, which holds all of them.
        options: instead of those two.
        workers: threads; None for one a core.
        max_bad: how many images may be unusable and left out: a count (int) or a share (float).
        shard_bytes: close a file when it has reached this size and begin the next.
        resume: keep finished parts when the run is interrupted, and take those of the last one.
        on_progress: called with (images done, images in the list), from this thread.

    Raises:
        ListError: the list is malformed.
        DataError: the list is empty, more than `max_bad` images cannot be used, or the output
            cannot be written or lies beside the label map of other classes. Nothing is left behind
            (but finished parts, with `resume`) and an older output stays as it was.
        UsageError: `output` is the list or does not end in `.rec`, or `resume` with another list
            or other options than the interrupted run had.
    """
    options = options or PackOptions(transcoding, pack_labels)
    if output.suffix != RECORD_SUFFIX:
        raise UsageError(
            f"{output}: expected the name of a record file ({RECORD_SUFFIX}) as output"
        )
    check_target(output, list_path)
    entries = _entries_of(list_path, options)
    labels = _labels_of(list_path, entries)
    if labels is not None:
        labels.check_beside(output)

    parts = RecordParts(
        output,
        describe_job(list_path, root, options),
        entries,
        shard_bytes=shard_bytes,
        resume=resume,
    )
    try:
        with parts:
            tally, resumed = _fill(
                parts,
                entries,
                list_path,
                root,
                options,
                workers or os.cpu_count() or 1,
                on_progress,
            )
            check_skipped(tally.skipped, len(entries), max_bad, root)
            if tally.part.stop > tally.part.first or not parts.finished:
                parts.end_part(tally.end_part())
            if labels is not None:
                labels.write(output.with_name(LABELS_FILE))
    except OSError as error:  # those of reading images are reasons by now
        kept = resume and parts.finished
        left = "finished parts wait for --resume" if kept else "nothing was left behind"
        raise DataError(f"{output} cannot be written: {error.strerror}; {left}") from error
    size = sum(path.stat().st_size for path in parts.paths)
    return tally.report(output, size, parts.paths if shard_bytes else (), resumed)


def _fill(
    parts: RecordParts,
    entries: Sequence[ListEntry],
    list_path: Path,
    root: Path,
    options: PackOptions,
    workers: int,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[Tally, int]:
    """Pack what is not in a finished part yet; the tally, and how many images were."""

    segmenter = Segmenter() if options.segment else None

    def process(entry: ListEntry) -> PackedImage:
        return pack_image(
            entry,
            str(root),
            options.transcoding,
            options.pack_labels,
            options.max_pixels,
            segmenter,
        )

    _drop_repaired(parts, entries, process)
    tally = Tally(list_path, parts.finished)
    resumed = tally.part.stop
    results = in_order(process, entries[resumed:], workers)
    for done, result in enumerate(results, start=resumed + 1):
        tally.add(result.entry, result.reason, result.has_back_slashes)
        if result.reason is None and parts.write(result.record, result.entry.id):
            parts.end_part(tally.end_part())
        if on_progress is not None:
            on_progress(done, len(entries))
    if segmenter is not None:
        segmenter.warn()
    return tally, resumed


def _entries_of(list_path: Path, options: PackOptions) -> list[ListEntry]:
    """The list, or the part of it that was asked for."""
    entries = read_list(list_path, label_width=options.label_width, same_width=options.pack_labels)
    if not entries:
        raise DataError(f"{list_path}: expected a list of images, got an empty file")
    if not options.pack_labels and any(len(entry.labels) > 1 for entry in entries):
        _log.warning("%s has several labels a line: only the first is packed", list_path)
    fraction = next((entry for entry in entries if _is_fraction(entry)), None)
    if fraction is not None:
        _log.warning(
            "%s, id %d: the label %g is no class number, which training needs (0, 1, 2, …)",
            list_path,
            fraction.id,
            fraction.labels[0],
        )
    selected = select_part(entries, options)
    if not selected:
        raise UsageError(
            f"{list_path}: {len(entries)} images leave part {options.part} of {options.parts} "
            f"empty; use at most {len(entries)} parts"
        )
    return selected


def _is_fraction(entry: ListEntry) -> bool:
    return len(entry.labels) == 1 and not entry.labels[0].is_integer()


def select_part(entries: list[ListEntry], options: PackOptions) -> list[ListEntry]:
    """The lines that fall to the part that was asked for."""
    if options.parts == 1:
        return entries
    first, stop = (
        len(entries) * part // options.parts for part in (options.part, options.part + 1)
    )
    return entries[first:stop]


def describe_job(list_path: Path, root: Path, options: PackOptions) -> dict[str, Any]:
    """What must be the same for a run to be resumed."""
    with list_path.open("rb") as file:
        content = hashlib.sha256()
        while block := file.read(1 << 20):
            content.update(block)
    return {
        "list": content.hexdigest(),
        "root": str(root.absolute()),
        "version": __version__,
        **asdict(options),
    }


def _drop_repaired(
    parts: RecordParts, entries: Sequence[ListEntry], process: Callable[[ListEntry], PackedImage]
) -> None:
    """Pack a finished part again if an image that was left out of it can be read by now."""
    for number, content in enumerate(parts.finished):
        skipped = {image.id for image in content.skipped}
        for entry in entries[content.first : content.stop]:
            if entry.id in skipped and process(entry).reason is None:
                parts.drop_from(number)
                return


def _labels_of(list_path: Path, entries: Sequence[ListEntry]) -> LabelMap | None:
    """The label map beside the list, if there is one and the list's classes are in it."""
    path = list_path.with_name(LABELS_FILE)
    if not path.is_file():
        return None
    labels = LabelMap.read(path)
    largest = max(entry.labels[0] for entry in entries)
    if largest >= len(labels):
        _log.warning(
            "%s names %d classes, but %s has a label %g: it is not copied beside the record file",
            path,
            len(labels),
            list_path,
            largest,
        )
        return None
    folders = names_of_folders(entries)
    if folders is not None and _is_numbered_otherwise(folders, labels):
        raise DataError(
            f"{path} numbers its classes otherwise than the folders in {list_path}: it belongs to "
            "another list; keep each list and its label map in a folder of their own"
        )
    return labels


def _is_numbered_otherwise(folders: LabelMap, labels: LabelMap) -> bool:
    """Whether a folder of the images is a class of the label map, but under another number."""
    known = labels.to_prediction_index()
    return any(known.get(name, number) != number for number, name in enumerate(folders.names))
