"""Lists (`.lst`): which image has which class.

In: a list file, or entries. Out: `ListEntry`s, list files, and im2rec's division of a list. A line
is `ID<TAB>LABEL[<TAB>LABEL...]<TAB>PATH<LF>`, UTF-8 (names in another encoding stay byte for byte),
labels with six decimals as in MXNet 1.9.1; no header.
Source of ids, class numbers, shuffle and ratios: `tools/im2rec.py` of MXNet 1.9.1.
"""

import logging
import posixpath
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from image_classification.errors import LFS_CURE, LFS_POINTER, ListError, UsageError
from image_classification.files import BUFFER_BYTES, written_beside

SHUFFLE_SEED = 100
MAX_ID = (1 << 64) - 1
_MAX_LABEL = float(np.finfo(np.float32).max)  # what a record holds
LFS_MARK = b"version https://git-lfs"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_EXPECTED = "ID<TAB>LABEL[<TAB>LABEL...]<TAB>PATH"
ROUNDING = 1e-9
_SHOWN = 10  # labels of an image in a message
_log = logging.getLogger(__name__)


class ListEntry(NamedTuple):
    """One line of a list; a tuple, because a million of them must fit in memory.

    Attributes:
        id: image id, unique in its list, 0 to 2**64 − 1.
        labels: one class index, or several numbers.
        path: as written in the list, relative to the root that is given when packing.
    """

    id: int
    labels: tuple[float, ...]
    path: str


def label_text(label: float) -> str:
    """Return a label for people and for JSON: a whole number with all its digits, -0 as 0."""
    number = float(label) + 0.0
    return f"{number:.0f}" if number.is_integer() else f"{number:g}"


def read_list(path: Path, *, label_width: int | None = None) -> list[ListEntry]:
    """Read a list. A million lines take about 2 s and 250 MB.

    It may have a byte-order mark, CRLF, blank lines, blanks around ids and labels, whole or float
    labels, and backslashes in paths (resolved when the image is opened).

    Args:
        path: the `.lst` file.
        label_width: how many labels every line must have; None accepts any number.

    Raises:
        ListError: the file cannot be read, a line is malformed, or an id occurs twice; with the
            line number, what was found and what is expected.
    """
    entries: list[ListEntry] = []
    seen: set[int] = set()
    known_labels: dict[tuple[float, ...], tuple[float, ...]] = {}
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if number == 1 and raw.startswith(LFS_MARK):
                    raise ListError(
                        f"{path}: expected a list of images, found {LFS_POINTER}: {LFS_CURE}"
                    )
                line = raw.removeprefix(_BYTE_ORDER_MARK if number == 1 else b"").rstrip(b"\r\n")
                if not line.strip():
                    continue
                entry = _parse_line(
                    line.decode("utf-8", "surrogateescape"), f"{path}, line {number}", label_width
                )
                if entry.id in seen:
                    raise ListError(_repeated(path, number, entry.id))
                seen.add(entry.id)
                # One tuple per class instead of one per line.
                labels = known_labels.setdefault(entry.labels, entry.labels)
                entries.append(entry._replace(labels=labels))
    except OSError as error:
        raise ListError(f"{path}: the list cannot be read: {error.strerror}") from error
    return entries


def warn_of_contradictions(path: Path, entries: Sequence[ListEntry]) -> None:
    """Warn of an image that a list has several times, with different labels."""
    if len(set(map(_place, entries))) == len(entries):
        return
    first: dict[str, ListEntry] = {}
    wrong = [
        entry for entry in entries if first.setdefault(_place(entry), entry).labels != entry.labels
    ]
    if wrong:
        other = wrong[0]
        earlier = first[_place(other)]
        _log.warning(
            "%s: %s has the label %s (id %d) and the label %s (id %d)%s: keep one of the lines; an "
            "image of several classes needs a 0 or 1 for every class in one line",
            *(path, other.path, _labels_text(earlier), earlier.id, _labels_text(other), other.id),
            f", and {len(wrong) - 1} more such lines" if len(wrong) > 1 else "",
        )


def _place(entry: ListEntry) -> str:
    """Return the path as it is opened: `./a.jpg` is `a.jpg`."""
    path = entry.path.replace("\\", "/")
    return posixpath.normpath(path) if "./" in path or "//" in path else path


def _labels_text(entry: ListEntry) -> str:
    return ", ".join(map(label_text, entry.labels[:_SHOWN])) + ", …" * (len(entry.labels) > _SHOWN)


def _repeated(path: Path, number: int, identifier: int) -> str:
    with path.open("rb") as file:
        ids = (line.removeprefix(_BYTE_ORDER_MARK).split(b"\t")[0].strip() for line in file)
        text = str(identifier).encode()
        earlier = next((n for n, field in enumerate(ids, start=1) if field == text), None)
    return (
        f"{path}, line {number}: id {identifier} already occurs in "
        f"{'an earlier line' if earlier in (None, number) else f'line {earlier}'}; "
        "every image needs its own id"
    )


def _parse_line(line: str, where: str, label_width: int | None) -> ListEntry:
    fields = line.split("\t")
    if len(fields) < 3:
        raise ListError(
            f"{where}: expected {_EXPECTED}, got {len(fields)} of at least 3 fields: {line[:200]!r}"
            + ("; separate the fields with TABs, not spaces" if len(line.split()) > 2 else "")
        )
    try:
        identifier = int(fields[0])
    except ValueError:
        identifier = -1
    if not 0 <= identifier <= MAX_ID:
        raise ListError(
            f"{where}: expected a whole number from 0 as id, got {fields[0]!r}; "
            f"a line is {_EXPECTED}"
        )
    if not fields[-1].strip():
        raise ListError(
            f"{where}: expected a path as the last field, got an empty one: {line[:200]!r}"
        )
    try:
        labels = tuple(float(field) for field in fields[1:-1])
    except ValueError:
        raise ListError(
            f"{where}: expected numbers as labels (class indices), got {fields[1:-1]!r}; "
            f"a line is {_EXPECTED}"
        ) from None
    if any(not abs(label) <= _MAX_LABEL for label in labels):  # NaN too
        raise ListError(
            f"{where}: expected labels within float32 (up to 3.4e38) and not NaN, got "
            f"{', '.join(fields[1:-1])}"
        )
    if label_width is not None and len(labels) != label_width:
        raise ListError(
            f"{where}: expected {label_width} labels, got {len(labels)}: {line[:200]!r}"
        )
    return ListEntry(identifier, labels, fields[-1])


def write_list(path: Path, entries: Iterable[ListEntry]) -> None:
    """Write a list, whole or not at all, byte for byte as im2rec does.

    Raises:
        ListError: a path contains a TAB or a line break, which a list cannot express.
    """
    with written_beside(path) as partial, partial.open("wb", BUFFER_BYTES) as file:
        for identifier, labels, name in entries:
            if is_unlistable(name):
                raise ListError(f"{path}: a path must not contain a TAB or line break: {name!r}")
            columns = "\t".join([f"{label:f}" for label in labels])
            line = f"{identifier}\t{columns}\t{name}\n"
            file.write(line.encode("utf-8", "surrogateescape"))


def is_unlistable(path: str) -> bool:
    """Whether a path contains a TAB or a line break, which a list cannot express."""
    return "\t" in path or "\n" in path or "\r" in path


def shuffled(entries: Sequence[ListEntry], seed: int = SHUFFLE_SEED) -> list[ListEntry]:
    """Shuffle the entries as im2rec does; equal on every Python 3 for the same seed."""
    order = list(entries)
    random.Random(seed).shuffle(order)  # noqa: S311 - an order, not a secret
    return order


def divide_list(
    entries: Sequence[ListEntry],
    *,
    chunks: int = 1,
    train_ratio: float = 1.0,
    test_ratio: float = 0.0,
    exact_im2rec_ratios: bool = False,
) -> dict[str, list[ListEntry]]:
    """Cut a list into chunks, and each chunk into test, training and validation lists.

    With N images a chunk has C = ceil(N / chunks); the first floor(C·test) are its test list, the
    next floor(C·train) its training list and the rest its validation list. If the ratios add up to
    1 there is no validation list, and im2rec loses the images that the two floors leave over; here
    they go to the training list, unless `exact_im2rec_ratios`.

    Args:
        entries: in the order to cut.
        chunks: how many chunks, at least 1.
        train_ratio: share of the training lists; 1.0 makes one undivided list.
        test_ratio: share of the test lists.
        exact_im2rec_ratios: divide as im2rec does, with lost images and empty lists.

    Returns:
        Suffix of the file name ("", "_train", "_0_val", …) → entries, in im2rec's order of writing.

    Raises:
        UsageError: ratios or chunks that cannot be met (not when exact).
    """
    if chunks < 1:
        raise UsageError(f"expected 1 chunk or more, got {chunks}")
    if not exact_im2rec_ratios:
        _check_ratios(train_ratio, test_ratio)
    size = -(-len(entries) // chunks)
    lists: dict[str, list[ListEntry]] = {}
    for chunk in range(chunks):
        some = list(entries[chunk * size : (chunk + 1) * size])
        if not some and not exact_im2rec_ratios:
            raise UsageError(
                f"{len(entries)} images in {chunks} chunks of {size} leave chunk {chunk} empty; "
                f"use at most {-(-len(entries) // max(size, 1))} chunks"
            )
        suffix = f"_{chunk}" if chunks > 1 else ""
        lists.update(_divide(some, size, suffix, train_ratio, test_ratio, exact_im2rec_ratios))
    lost = len(entries) - sum(len(listed) for listed in lists.values())
    if lost > 0:
        _log.warning("%d of %d images are in no list, as with im2rec", lost, len(entries))
    return lists


def _check_ratios(train_ratio: float, test_ratio: float) -> None:
    if not (0 < train_ratio <= 1 and 0 <= test_ratio < 1):
        raise UsageError(
            "expected a train ratio above 0 up to 1 and a test ratio from 0 to below 1, "
            f"got {train_ratio} and {test_ratio}"
        )
    if train_ratio + test_ratio > 1 + ROUNDING:
        raise UsageError(
            f"expected ratios that add up to at most 1, got {train_ratio} + {test_ratio}; "
            f"for a test list of {test_ratio} use a train ratio of {1 - test_ratio:g} or less"
        )


def _divide(
    chunk: list[ListEntry], size: int, suffix: str, train: float, test: float, exact: bool
) -> dict[str, list[ListEntry]]:
    """Divide one chunk; `size` is C even for a shorter last chunk, as in im2rec."""
    if train == 1.0:
        return {suffix: chunk}
    test_count, train_count = int(size * test), int(size * train)
    lists: dict[str, list[ListEntry]] = {}
    if test:
        lists[f"{suffix}_test"] = chunk[:test_count]
    rest = chunk[test_count:]
    has_validation = train + test < 1.0 if exact else train + test < 1.0 - ROUNDING
    if has_validation:
        lists[f"{suffix}_val"] = rest[train_count:]
    elif not exact:
        train_count = len(rest)
    lists[f"{suffix}_train"] = rest[:train_count]
    for name, entries in lists.items():
        if not entries:
            _log.warning("the list with the suffix %s is empty: too few images", name)
    return lists
