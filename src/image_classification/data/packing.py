"""From a list and its images to a record file: stored as they are, or transcoded once.

    list ─► tasks of a few images ─► threads: read, decode, crop, resize, encode ─► writer, in order

In: a list, its root. Out: `.rec`, `.idx`, the label map beside them, and a `PackReport`; or nothing
at all. The order is that of the list at any number of workers.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from image_classification.data.labels import LABELS_FILE, LabelMap
from image_classification.data.listing import ListEntry, read_list
from image_classification.data.recordio import RecordHeader, RecordWriter, pack_image_record
from image_classification.data.transcoding import Transcoding, check_stored, transcode
from image_classification.errors import DataError

_TASK_IMAGES = 8  # a task costs about 30 µs of interpreter time, storing an image 60
_TASKS_PER_WORKER = 3  # under way at most: bounds memory to 24 images a worker
_NAMED = 10  # bad images in the error; the log names all
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SkippedImage:
    """An image that is not in the record file, and why."""

    id: int
    path: str
    reason: str


@dataclass(frozen=True)
class PackReport:
    """What was packed.

    Attributes:
        output: the record file.
        packed: records in it.
        skipped: the images that are not.
        class_counts: label → records, in ascending order.
        size_bytes: of the record file.
    """

    output: str
    packed: int
    skipped: tuple[SkippedImage, ...]
    class_counts: Mapping[float, int]
    size_bytes: int

    def to_json(self) -> dict[str, Any]:
        """The report as JSON can hold it."""
        counts = {f"{label:g}": count for label, count in self.class_counts.items()}
        return {**asdict(self), "class_counts": counts}


@dataclass(frozen=True)
class _Packed:
    """The result of one image: its record, or the reason why there is none."""

    entry: ListEntry
    record: bytes = b""
    reason: str | None = None
    has_back_slashes: bool = False


def pack(
    list_path: Path,
    root: Path,
    output: Path,
    *,
    transcoding: Transcoding | None = None,
    pack_labels: bool = False,
    workers: int | None = None,
    max_bad: int | float = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> PackReport:
    """Pack the images of a list into `output` and the index beside it.

    Args:
        list_path: the list; a `labels.json` beside it is copied beside the output.
        root: the folder that the paths of the list are relative to.
        output: the `.rec` file.
        transcoding: None stores each file's bytes as they are (checked to be an image that ends
            where it should, not decoded).
        pack_labels: store all labels of a list with several; otherwise the first.
        workers: threads; None for one a core.
        max_bad: how many images may be unusable and left out: a count (int) or a share (float).
        on_progress: called with (images done, images in the list), from this thread.

    Raises:
        ListError: the list is malformed.
        DataError: the list is empty, more than `max_bad` images cannot be used, or the output
            cannot be written. Nothing is left behind and an older output stays as it was.
    """
    entries = read_list(list_path)
    if not entries:
        raise DataError(f"{list_path}: expected a list of images, got an empty file")
    if not pack_labels and any(len(entry.labels) > 1 for entry in entries):
        _log.warning("%s has several labels a line: only the first is packed", list_path)
    labels = _labels_of(list_path, entries)

    def process(entry: ListEntry) -> _Packed:
        return _pack_one(entry, str(root), transcoding, pack_labels)

    tally = _Tally(list_path)
    try:
        with RecordWriter(output) as writer:
            results = _in_order(process, entries, workers or os.cpu_count() or 1)
            for done, result in enumerate(results, start=1):
                tally.add(result)
                if result.reason is None:
                    writer.write(result.record, result.entry.id)
                if on_progress is not None:
                    on_progress(done, len(entries))
            _check_skipped(tally.skipped, len(entries), max_bad, root)
            if labels is not None:
                labels.write(output.with_name(LABELS_FILE))
    except OSError as error:  # those of reading images are reasons by now
        raise DataError(
            f"{output} cannot be written: {error.strerror}; nothing was left behind"
        ) from error
    return tally.report(output, writer.position)


class _Tally:
    """Counts results as they come, and says in the log what was wrong.

    Bad images are logged once a good one has been seen: where there is none, as with a wrong root,
    the error says so and a million lines would hide it.
    """

    def __init__(self, list_path: Path) -> None:
        self._list_path = list_path
        self.skipped: list[SkippedImage] = []
        self._counts: Counter[float] = Counter()
        self._has_back_slashes = False
        self._logged = 0

    def add(self, result: _Packed) -> None:
        entry = result.entry
        if result.reason is None:
            self._counts[entry.labels[0]] += 1
        else:
            self.skipped.append(SkippedImage(entry.id, entry.path, result.reason))
        if self._counts and self._logged < len(self.skipped):
            for image in self.skipped[self._logged :]:
                _log.warning("%s cannot be packed: %s", image.path, image.reason)
            self._logged = len(self.skipped)
        if result.has_back_slashes and not self._has_back_slashes:
            self._has_back_slashes = True
            _log.warning("%s: the back-slashes of its paths were read as /", self._list_path)

    def report(self, output: Path, size_bytes: int) -> PackReport:
        counts = dict(sorted(self._counts.items()))
        packed = sum(counts.values())
        return PackReport(str(output), packed, tuple(self.skipped), counts, size_bytes)


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
    return labels


def _in_order(
    process: Callable[[ListEntry], _Packed], entries: Sequence[ListEntry], workers: int
) -> Iterator[_Packed]:
    """Process entries in threads; results in the order of the list, memory bounded."""
    executor = ThreadPoolExecutor(workers, thread_name_prefix="pack")
    pending: deque[Future[list[_Packed]]] = deque()

    def process_all(part: Sequence[ListEntry]) -> list[_Packed]:
        return [process(entry) for entry in part]

    try:
        for start in range(0, len(entries), _TASK_IMAGES):
            pending.append(executor.submit(process_all, entries[start : start + _TASK_IMAGES]))
            if len(pending) > workers * _TASKS_PER_WORKER:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def _pack_one(
    entry: ListEntry, root: str, transcoding: Transcoding | None, pack_labels: bool
) -> _Packed:
    try:
        content, has_back_slashes = _read_image_file(root, entry.path)
        if transcoding is None:
            check_stored(content)
        else:
            content = transcode(content, transcoding)
        several = pack_labels and len(entry.labels) > 1
        header = RecordHeader(entry.labels if several else entry.labels[0], entry.id)
        return _Packed(entry, pack_image_record(header, content), None, has_back_slashes)
    except OSError as error:
        return _Packed(entry, reason=error.strerror or str(error))
    except DataError as error:
        return _Packed(entry, reason=str(error))


def _read_image_file(root: str, path: str) -> tuple[bytes, bool]:
    """The file's bytes, and whether its back-slashes had to be read as slashes (Windows lists)."""
    candidates = dict.fromkeys((path, path.strip(), path.strip().replace("\\", "/")))
    for candidate in candidates:
        try:
            with open(os.path.join(root, candidate), "rb", buffering=0) as file:
                return file.read(), candidate != path and "\\" in path
        except FileNotFoundError:
            continue
    raise FileNotFoundError(2, f"no such file below {root}")


def _check_skipped(
    skipped: Sequence[SkippedImage], total: int, max_bad: int | float, root: Path
) -> None:
    allowed = max_bad if isinstance(max_bad, int) else int(max_bad * total)
    if len(skipped) <= allowed and len(skipped) < total:
        return
    named = "; ".join(f"{image.path}: {image.reason}" for image in skipped[:_NAMED])
    more = f"; and {len(skipped) - _NAMED} more" if len(skipped) > _NAMED else ""
    if len(skipped) == total:
        advice = f"not one image could be used: is {root} the root of the list?"
    else:
        more += ", named in the log" if more else ""
        advice = "repair them, or leave them out with --max-bad N or --max-bad P%"
    raise DataError(
        f"expected at most {allowed} unusable images, got {len(skipped)} of {total}: "
        f"{named}{more}; {advice}; nothing was written"
    )
