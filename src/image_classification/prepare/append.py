"""Adds images to an existing record file without writing it again.

    .data.rec.appending/   the new images, packed whole first; removed at the end
        end.json           where the old records end: a killed append is undone from it

In: a list, its root, an existing `.rec` file. Out: the same file with the new records at its end
and an index of all; or the file as it was.
"""

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from image_classification.errors import DataError, RecordError
from image_classification.files import named_in_errors, write_text, written_beside
from image_classification.labels.label_map import LABELS_FILE, LabelMap
from image_classification.labels.lists import MAX_ID, ListEntry, read_list, write_list
from image_classification.prepare.pack import PackOptions, PackReport, pack
from image_classification.records.format import padded
from image_classification.records.index import INDEX_SUFFIX, copy_lines, write_lines
from image_classification.records.reader import RecordFile
from image_classification.samples import IntArray, UInt64Array

_COPY_BYTES = 1 << 20
_NAMED = 5
_log = logging.getLogger(__name__)


def append(
    list_path: Path,
    root: Path,
    record_path: Path,
    options: PackOptions,
    *,
    renumber: bool = False,
    workers: int | None = None,
    max_bad: int | float = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> PackReport:
    """Pack the images of a list and add them at the end of `record_path`.

    Args:
        list_path, root, options, workers, max_bad, on_progress: as for `pack`.
        record_path: the `.rec` file; its index is written again, from its ids if it has none.
        renumber: give the new images the ids after the largest one in the file.

    Returns:
        What was packed of the list; its size is that of the whole file.

    Raises:
        RecordError: the file is damaged.
        DataError: another append to the file is running, an id of the list is in it already, the
            classes contradict those of the file, or the errors of `pack`; the file is as it was.
    """
    folder = record_path.with_name(f".{record_path.name}.appending")
    new = folder / "new.rec"
    with _locked(record_path):
        _undo_killed(folder, record_path)
        keys, offsets, end = _read_existing(record_path)
        entries = read_list(list_path, label_width=options.label_width)
        if renumber:
            entries = _renumbered(entries, int(keys.max()) + 1 if len(keys) else 0)
        _check_ids(entries, keys, list_path, record_path)
        labels = _combined_labels(list_path, record_path)
        try:
            folder.mkdir(exist_ok=True)
            write_list(folder / "new.lst", entries)
            report = pack(
                folder / "new.lst",
                root,
                new,
                replace(options, slice=0, slices=1),
                workers=workers,
                max_bad=max_bad,
                on_progress=on_progress,
            )
            _copy_to_end(new, record_path, keys, offsets, end)
            if labels is not None:
                labels.write(record_path.with_name(LABELS_FILE))
        except OSError as error:
            raise DataError(
                f"{record_path} cannot be extended: {error.strerror}; it is unchanged"
            ) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return replace(report, output=str(record_path), size_bytes=record_path.stat().st_size)


@contextmanager
def _locked(record_path: Path) -> Iterator[None]:
    """Hold the lock of the record file; the kernel releases it even if this process is killed."""
    try:
        file = record_path.open("rb")
    except OSError as error:
        raise RecordError(
            f"{record_path}: the record file cannot be read: {error.strerror}"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"another append to {record_path} is running: wait until it ends, then start "
                "again; nothing was changed"
            ) from None
        except OSError as error:  # some network file systems have no locks
            _log.warning(
                "%s cannot be locked (%s): make sure that only one append runs at a time",
                record_path,
                error.strerror,
            )
        yield


def _undo_killed(folder: Path, record_path: Path) -> None:
    """Cut off what a killed append has left after the old records."""
    try:
        end = int(json.loads((folder / "end.json").read_text("utf-8"))["end"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    if record_path.stat().st_size > end:
        _log.warning("%s: removed the incomplete records of an append that was killed", record_path)
        os.truncate(record_path, end)
    (folder / "end.json").unlink()


def _read_existing(record_path: Path) -> tuple[UInt64Array, IntArray, int]:
    """Return keys and offsets of the records, and the byte where the next record may begin."""
    with RecordFile(record_path) as file:
        if not len(file):
            return np.empty(0, np.uint64), np.empty(0, np.int64), 0
        keys = file.record_headers["id"].copy() if file.keys is None else file.keys
        return keys, file.offsets, padded(file.end_of_last_record())


def _renumbered(entries: Sequence[ListEntry], first: int) -> list[ListEntry]:
    if first + len(entries) > MAX_ID:
        raise DataError(f"{len(entries)} ids from {first} on do not fit in 64 bits")
    return [entry._replace(id=first + number) for number, entry in enumerate(entries)]


def _check_ids(
    entries: Sequence[ListEntry], keys: UInt64Array, list_path: Path, record_path: Path
) -> None:
    known = set(keys.tolist())
    repeated = [entry.id for entry in entries if entry.id in known]
    if repeated:
        raise DataError(
            f"{list_path}: {len(repeated)} of its ids are in {record_path} already "
            f"({', '.join(map(str, repeated[:_NAMED]))}{', …' if len(repeated) > _NAMED else ''}); "
            "give the new images other ids with --renumber"
        )


def _combined_labels(list_path: Path, record_path: Path) -> LabelMap | None:
    """Return the list's label map if it adds classes at the end of the file's, else None."""
    old, new = LabelMap.beside(record_path), LabelMap.beside(list_path)
    if old is None or new is None or old.names[: len(new)] == new.names:
        return None
    if new.names[: len(old)] == old.names:
        return new
    raise DataError(
        f"the label maps of {list_path} and {record_path} number their classes differently: "
        f"{list(new.names)!r:.200} and {list(old.names)!r:.200}; list the new images with the "
        "classes of the record file"
    )


def _copy_to_end(
    new: Path, record_path: Path, keys: UInt64Array, offsets: IntArray, end: int
) -> None:
    """Copy the records to the end, then write the index of all; undo it if anything fails."""
    journal = new.with_name("end.json")
    write_text(journal, json.dumps({"end": end}))
    try:
        with (
            named_in_errors(record_path),
            record_path.open("r+b") as records,
            new.open("rb") as source,
        ):
            records.truncate(end)
            records.seek(end)
            shutil.copyfileobj(source, records, _COPY_BYTES)
            records.flush()
            os.fsync(records.fileno())
        with (
            written_beside(record_path.with_suffix(INDEX_SUFFIX)) as path,
            path.open("wb") as index,
        ):
            write_lines(index, keys.tolist(), offsets.tolist())
            copy_lines(index, new.with_suffix(INDEX_SUFFIX), end)
    except BaseException:
        os.truncate(record_path, end)
        raise
    journal.unlink()
