"""From a list and its images to a record file: stored as they are, or transcoded once.

    list ─► tasks of a few images ─► threads: read, decode, crop, resize, encode ─► parts, in order

In: a list, its root. Out: `.rec`, `.idx` (or shards), the label map beside them, and a
`PackReport`; or nothing at all. The order is that of the list at any number of workers.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from image_classification import __version__
from image_classification.errors import DataError, UsageError
from image_classification.files import check_target
from image_classification.images.decode import DEFAULT_MAX_PIXELS
from image_classification.images.restart_markers import Segmenter
from image_classification.labels.label_map import LABELS_FILE, LabelMap, label_map_from_folders
from image_classification.labels.lists import ListEntry, read_list
from image_classification.prepare.encode import PackedImage, Transcoding, pack_image
from image_classification.prepare.pack_report import PackReport, Tally, check_skipped
from image_classification.prepare.parts import RecordParts
from image_classification.records.writer import RECORD_SUFFIX
from image_classification.work import in_order


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
        segment: give JPEGs restart markers, so that a reader can decode parts of them.
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


AS_STORED = PackOptions()
"""Each file's bytes as they are, with its first label."""


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


_log = logging.getLogger(__name__)


def check_output(list_path: Path, output: Path) -> None:
    """Raise a UsageError if `output` is no record file's name, or is the list."""
    if output.suffix != RECORD_SUFFIX:
        raise UsageError(
            f"{output}: expected the name of a record file ({RECORD_SUFFIX}) as output"
        )
    check_target(output, list_path)


def entries_of(list_path: Path, options: PackOptions) -> list[ListEntry]:
    """The list, or the part of it that was asked for.

    Raises:
        ListError: the list is malformed.
        DataError: the list is empty.
        UsageError: the part is.
    """
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


def labels_of(list_path: Path, entries: Sequence[ListEntry]) -> LabelMap | None:
    """The label map beside the list, if there is one and the list's classes are in it.

    Raises:
        DataError: it numbers the classes otherwise than the folders in the list.
    """
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
    folders = label_map_from_folders(entries)
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
    """Pack the images of a list into `output` and the index beside it.

    Args:
        list_path: the list; a `labels.json` beside it is copied beside the output.
        root: the folder that the paths of the list are relative to.
        output: the `.rec` file; with `shard_bytes`, the name the shards' names are derived from.
        options: what goes into the records.
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
    check_output(list_path, output)
    entries = entries_of(list_path, options)
    labels = labels_of(list_path, entries)
    if labels is not None:
        labels.check_beside(output)
    job = describe_job(list_path, root, options)
    parts = RecordParts(output, job, entries, shard_bytes=shard_bytes, resume=resume)
    segmenter = Segmenter() if options.segment else None
    workers = workers or os.cpu_count() or 1
    packer = _Packer(list_path, root, options, workers, on_progress, segmenter)
    with _named_errors(output, parts, resume), parts:
        tally, resumed = packer.fill(parts, entries)
        check_skipped(tally.skipped, len(entries), max_bad, root)
        if tally.part.stop > tally.part.first or not parts.finished:
            parts.end_part(tally.end_part())
        if labels is not None:
            labels.write(output.with_name(LABELS_FILE))
    size = sum(path.stat().st_size for path in parts.paths)
    return tally.report(output, size, parts.paths if shard_bytes else (), resumed)


@contextmanager
def _named_errors(output: Path, parts: RecordParts, resume: bool) -> Iterator[None]:
    """An OSError of the block as what could not be written; those of images are reasons by now."""
    try:
        yield
    except OSError as error:
        kept = resume and parts.finished
        left = "finished parts wait for --resume" if kept else "nothing was left behind"
        raise DataError(f"{output} cannot be written: {error.strerror}; {left}") from error


@dataclass(frozen=True)
class _Packer:
    """Packs images in threads; the fields are arguments of `pack`."""

    list_path: Path
    root: Path
    options: PackOptions
    workers: int
    on_progress: Callable[[int, int], None] | None
    segmenter: Segmenter | None

    def fill(self, parts: RecordParts, entries: Sequence[ListEntry]) -> tuple[Tally, int]:
        """Pack what is not in a finished part yet; the tally, and how many images were."""
        _drop_repaired(parts, entries, self._process)
        tally = Tally(self.list_path, parts.finished)
        resumed = tally.part.stop
        results = in_order(self._process, entries[resumed:], self.workers)
        for done, result in enumerate(results, start=resumed + 1):
            tally.add(result.entry, result.reason, result.has_back_slashes)
            if result.reason is None and parts.write(result.record, result.entry.id):
                parts.end_part(tally.end_part())
            if self.on_progress is not None:
                self.on_progress(done, len(entries))
        if self.segmenter is not None:
            self.segmenter.warn()
        return tally, resumed

    def _process(self, entry: ListEntry) -> PackedImage:
        options = self.options
        return pack_image(
            entry,
            str(self.root),
            options.transcoding,
            options.pack_labels,
            options.max_pixels,
            self.segmenter,
        )


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
