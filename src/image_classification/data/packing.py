"""From a list and its images to a record file: stored as they are, or transcoded once.

    list ─► tasks of a few images ─► threads: read, decode, crop, resize, encode ─► parts, in order

In: a list, its root. Out: `.rec`, `.idx` (or shards), the label map beside them, and a
`PackReport`; or nothing at all. The order is that of the list at any number of workers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from image_classification.data.image_packing import PackedImage, pack_image
from image_classification.data.labels import LABELS_FILE
from image_classification.data.listing import ListEntry
from image_classification.data.ordered_work import in_order
from image_classification.data.pack_inputs import check_output, entries_of, labels_of
from image_classification.data.pack_options import AS_STORED, PackOptions, describe_job
from image_classification.data.pack_report import PackReport, SkippedImage, Tally, check_skipped
from image_classification.data.record_parts import RecordParts
from image_classification.data.segmenting import Segmenter
from image_classification.errors import DataError

__all__ = ["PackOptions", "PackReport", "SkippedImage", "pack"]


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
