"""A record file mapped into memory, and where its records begin: by its index, or by a scan."""

from __future__ import annotations

import logging
import mmap
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from image_classification.data.record_format import Mapped
from image_classification.data.record_index import find_disagreement, read_index
from image_classification.data.record_scan import Damage, find_records
from image_classification.data.record_writer import INDEX_SUFFIX
from image_classification.data.samples import IntArray
from image_classification.errors import RecordError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundRecords:
    """Where the records of a file are; the fields are those of `RecordFile`."""

    offsets: IntArray
    keys: npt.NDArray[np.uint64] | None = None
    index_path: Path | None = None
    index_problem: str | None = None
    damages: list[Damage] = field(default_factory=list)


def map_file(path: Path) -> Mapped:
    """The bytes of a file; RecordError if it cannot be read."""
    try:
        with path.open("rb") as file:
            if not file.seek(0, 2):
                return b""  # an empty file cannot be mapped
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise RecordError(f"{path}: the record file cannot be read: {error.strerror}") from error


def locate_records(mapped: Mapped, path: Path, index: Path | None, *, resync: bool) -> FoundRecords:
    """Where the records are: by `index`, by the index beside the file, else by a scan.

    Args:
        mapped: the file's bytes.
        path: of the file, for messages and the index beside it.
        index: one that must be right, or None.
        resync: skip damaged places instead of raising.

    Raises:
        RecordError: the file is damaged, or a given index is wrong.
    """
    beside = path.with_suffix(INDEX_SUFFIX)
    index_path = index or (beside if beside.is_file() and beside != path else None)
    problem = None
    if index_path is not None:
        try:
            content = read_index(index_path)
            problem = find_disagreement(mapped, content.offsets)
            if problem is None:
                return FoundRecords(content.offsets, content.keys, index_path)
            problem = f"{index_path}: {problem}"
        except RecordError as error:
            if index is not None:
                raise
            problem = str(error)
        message = f"{problem}; it does not belong to {path}"
        if index is not None:
            raise RecordError(f"{message}; delete it, the file can be read without")
        _log.warning("%s; the index is ignored and the record file is scanned", message)
    offsets, damages = find_records(mapped, path, resync=resync)
    return FoundRecords(offsets, None, index_path, problem, damages)
