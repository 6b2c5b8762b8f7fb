"""The names of the image files that were packed into a record file, from the list next to it.

In: a record file, and `x.lst` next to `x.rec` as im2rec, `pack` and `preprocess` leave it. Out: the
path of each record's image as the list has it. A record has only a number, its id; the list is
believed only where id and label agree for every record. The names are shown, never opened.
"""

import logging
import re
from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from image_classification.labels.tree import class_name
from image_classification.records.reader import RecordFile
from image_classification.samples import BoolArray, IntArray

_LONGEST_PATH = 4096  # bytes; Linux opens no longer one
_BYTES_PER_RECORD, _LEAST_BYTES = 1024, 1 << 20
_MOST_BYTES = 1 << 28  # 256 MiB: five million lines of 50 bytes
_SHARD = re.compile(r"(-\d{5}-of-\d{5}|\.part\d{3,5})$")  # as `pack` and `im2rec --part` name them
_MARK = b"\xef\xbb\xbf"  # of the byte order
_TOLERANCE = 1e-5  # a list has six decimals
_log = logging.getLogger(__name__)


class RecordNames:
    """The paths of the images of one record file, from its list; `_NO_NAMES` knows none.

    They are kept as bytes and two positions per record: 16 bytes and at most the line of the list.
    """

    def __init__(self, content: bytes = b"", spans: IntArray | None = None) -> None:
        self._content = content
        self._spans = np.zeros((0, 2), np.int64) if spans is None else spans

    def __bool__(self) -> bool:
        return len(self._spans) > 0

    def path(self, number: int) -> str | None:
        """Return the path of record `number` as the list has it, or None if it is not known."""
        if not self:
            return None
        begin, end = self._spans[number].tolist()
        path = self._content[begin:end].decode("utf-8", "surrogateescape")
        return path or None  # a record without an image

    def key(self, record: str, number: int) -> str:
        """Return `record`, with the path of its image in parentheses if that is known.

        Args:
            record: `file.rec#<image id>`.
            number: of the record in its file.
        """
        path = self.path(number)
        return record if path is None else f"{record} ({class_name(path)})"


_NO_NAMES = RecordNames()


def find_names(
    file: RecordFile, has_image: BoolArray | None = None, reported: set[Path] | None = None
) -> RecordNames:
    """Return the names of the records of a file; none without a list next to it that fits.

    A list that does not fit is reported in one warning.

    Args:
        file: the record file.
        has_image: bool (records,), the records that hold an image; None: all.
        reported: the lists that a warning is not to name again, as many shards can share one; the
            list of this file is added if it does not fit.
    """
    reported = set() if reported is None else reported
    listing = _list_of(file.path)
    if listing is None or not len(file):
        return _NO_NAMES
    try:
        return _read_names(file, listing, has_image)
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        if listing in reported:
            return _NO_NAMES
        reported.add(listing)
        _log.warning(
            "%s does not name the images of %s: %s; messages name the records by their ids",
            *(listing, file.path.name, reason),
        )
        return _NO_NAMES


def _list_of(path: Path) -> Path | None:
    """Return the list of a record file; shards can share one."""
    stems = (path.stem, _SHARD.sub("", path.stem))
    lists = (path.with_name(f"{stem}.lst") for stem in dict.fromkeys(stems))
    return next(filter(Path.is_file, lists), None)


def _read_names(file: RecordFile, listing: Path, has_image: BoolArray | None) -> RecordNames:
    """Return the names; a ValueError says why the list does not fit."""
    headers = file.record_headers
    numbers = np.arange(len(file)) if has_image is None else np.flatnonzero(has_image)
    record_ids = headers["id"][numbers]
    most = min(_MOST_BYTES, _LEAST_BYTES + _BYTES_PER_RECORD * len(file))
    with listing.open("rb") as opened:
        content = opened.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most:,} bytes for {len(file)} records")
    ids, labels, begins, ends = array("Q"), array("d"), array("q"), array("q")
    for identifier, label, begin, end in _lines(content):
        ids.append(identifier)
        labels.append(label)
        begins.append(begin)
        ends.append(end)
    listed = np.array(ids, np.uint64)
    order = np.argsort(listed, kind="stable")
    listed = listed[order]
    if len(np.unique(listed)) < len(listed) or len(np.unique(record_ids)) < len(record_ids):
        raise ValueError("an id occurs twice")
    places = np.minimum(np.searchsorted(listed, record_ids), max(0, len(listed) - 1))
    missing = np.ones(len(numbers), bool) if not len(listed) else listed[places] != record_ids
    if missing.any():
        raise ValueError(f"it has no line with the id {record_ids[missing][0]}")
    lines = order[places]
    expected, found = np.array(labels)[lines], file.record_labels()[numbers]
    wrong = ~np.isclose(found, expected, rtol=1e-6, atol=_TOLERANCE)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"its label of the id {record_ids[first]} is {expected[first]:g}, but that of the "
            f"record is {found[first]:g}"
        )
    first, last = np.array(begins, np.int64)[lines], np.array(ends, np.int64)[lines]
    if len(listed) > len(numbers):  # the list of several shards, each of which would keep all of it
        content = b"".join(content[b:e] for b, e in zip(first.tolist(), last.tolist(), strict=True))
        lengths = last - first
        last = np.cumsum(lengths)
        first = last - lengths
    spans = np.zeros((len(file), 2), np.int64)
    spans[numbers, 0], spans[numbers, 1] = first, last
    return RecordNames(content, spans)


def _lines(content: bytes) -> Iterator[tuple[int, float, int, int]]:
    """Yield id, first label, and where the path begins and ends; a ValueError for another line."""
    start, number = len(_MARK) if content.startswith(_MARK) else 0, 0
    while start < len(content):
        number += 1
        stop = content.find(b"\n", start)
        stop = len(content) if stop < 0 else stop
        line = content[start:stop].rstrip(b"\r")
        if line.strip():
            identifier, _, rest = line.partition(b"\t")
            label, _, path = rest.partition(b"\t")
            path = path[path.rfind(b"\t") + 1 :]
            try:
                read = int(identifier), float(label)
            except ValueError:
                read = (-1, 0.0)
            if not 0 <= read[0] < 1 << 64 or not path.strip() or len(path) > _LONGEST_PATH:
                raise ValueError(f"line {number} is not ID<TAB>LABEL<TAB>PATH")
            end = start + len(line)
            yield *read, end - len(path), end
        start = stop + 1
