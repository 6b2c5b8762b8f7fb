"""The list that is packed and the label map that goes with it, checked before a byte is written."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from image_classification.data.files import check_target
from image_classification.data.labels import LABELS_FILE, LabelMap, names_of_folders
from image_classification.data.listing import ListEntry, read_list
from image_classification.data.pack_options import PackOptions, select_part
from image_classification.data.record_writer import RECORD_SUFFIX
from image_classification.errors import DataError, UsageError

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
