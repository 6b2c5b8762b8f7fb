"""Tar shards as WebDataset writes them: where each image is, and the label next to it.

In: a tar of members such as `0001.jpg` and `0001.cls`, which belong together if their paths are
equal up to the first dot of the file name. Out: a `PackedImage` for each. Labels are text or JSON;
pickles are not read. Sources: POSIX.1-2017, `pax`, and GNU tar's manual (headers); webdataset
`webdataset/tariterators.py` (grouping).
"""

import json
import logging
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from image_classification.errors import LabelError, RecordError, counted
from image_classification.records.format import Mapped, Span
from image_classification.records.packed_labels import (
    PackedImage,
    PackedLabel,
    label_of_list,
    label_of_text,
    label_of_value,
)

_IMAGES = (
    "jpg",
    "jpeg",
    "jpe",
    "jfif",
    "png",
    "webp",
    "gif",
    "bmp",
    "tif",
    "tiff",
    "avif",
    "ppm",
    "pgm",
)
# The first that a sample has counts.
_TEXTS = ("cls", "cls.txt", "class", "label", "target", "labels", "classes", "txt")
_NUMBERS = ("label", "cls", "class", "class_id", "label_id", "target", "class_index")
_NAMES = ("class_name", "label_name", "classname", "category", "class_text", "label_text")
_LISTS = ("labels", "classes", "tags", "label_ids", "class_ids", "targets", "categories")
_NAME_LISTS = ("label_names", "class_names", "classnames", "label_texts")
_PICKLES = ("pyd", "pkl", "pickle", "pth", "pt")
_MOST_TEXT = 2**20  # bytes of a label
_BLOCK = 512
_MOST_END = 2**20  # bytes after the end that are looked at; tar fills up to 10,240
_FILE, _LONG_NAME, _EXTENDED = b"0\x007", b"L", b"x"
_PEEKED = 50  # members that decide whether a tar is a shard
_log = logging.getLogger(__name__)


def is_shard(path: Path, data: Mapped) -> bool:
    """Return whether a tar has an image with a label among its first members."""
    endings: dict[str, set[str]] = {}
    try:
        for name, _ in islice(_members(path, data), _PEEKED):
            key, ending = _split(name)
            endings.setdefault(key, set()).add(ending)
    except RecordError:
        return False
    labels = {*_TEXTS, "json", *_PICKLES}
    return any(found & labels and any(map(_is_image, found)) for found in endings.values())


def scan_shard(path: Path, data: Mapped) -> Iterator[PackedImage]:
    """Yield where each image is, and its label.

    Members without an image or without a label are counted in a warning.

    Raises:
        RecordError: a damaged tar, or a sample with several images.
        LabelError: a label that is neither numbers nor names.
    """
    left_out: Counter[str] = Counter()
    key, members = "", dict[str, Span]()
    for name, span in _members(path, data):
        found, ending = _split(name)
        if found != key:
            yield from _sample(path, data, key, members, left_out)
            key, members = found, {}
        if ending in members:
            raise RecordError(f"{path}: {name!r} occurs twice in a sample; write the shard again")
        members[ending] = span
    yield from _sample(path, data, key, members, left_out)
    if left_out:
        counts = ", ".join(counted(count, reason) for reason, count in left_out.items())
        _log.warning("%s: left out %s", path, counts)


def _sample(
    path: Path, data: Mapped, key: str, members: Mapping[str, Span], left_out: Counter[str]
) -> Iterator[PackedImage]:
    if not members:
        return
    images = [ending for ending in members if _is_image(ending)]
    plain = [ending for ending in images if ending in _IMAGES] or images
    if len(plain) > 1:
        raise RecordError(
            f"{path}: the sample {key!r} has {len(plain)} images ({', '.join(plain)}): expected one"
        )
    label = _label(path, data, key, members)
    if not plain:
        left_out["samples without an image"] += 1
    elif label.is_missing:
        left_out["images without a label"] += 1
    else:
        yield PackedImage(members[plain[0]], (0, 0), f"{key}.{plain[0]}", label)


def _label(path: Path, data: Mapped, key: str, members: Mapping[str, Span]) -> PackedLabel:
    """Return the class or the classes of a sample, as far as it has them."""
    label, ending = PackedLabel(), next((ending for ending in _TEXTS if ending in members), None)
    if "json" in members:
        where = f"{path}: {key}.json"
        label = _json_label(where, _content(data, members["json"]), ending in (None, "txt"))
    if ending is not None and (ending != "txt" or label.is_missing):
        where = f"{path}: {key}.{ending}"
        try:
            text = _content(data, members[ending]).decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise LabelError(
                f"{where} is not text in UTF-8; write the class as a number or a name"
            ) from error
        written = label_of_text(where, text)
        if written.several is None:
            if "\n" in written.name:
                raise LabelError(
                    f'{where} has several lines: expected one class, or several as a list ["a", '
                    '"b"] or [0, 2]'
                )
            number = label.number if written.number is None else written.number
            written = PackedLabel(number, written.name or label.name)
        label = written
    if label.is_missing and (pickles := [e for e in members if e in _PICKLES]):
        raise LabelError(
            f"{path}: {key}.{pickles[0]} is a pickle, which is not read because it can contain "
            "code; write the class as text into a member .cls (several as a list, [0, 2])"
        )
    return label


def _json_label(where: str, content: bytes, with_lists: bool) -> PackedLabel:
    """Return the label in a JSON document; `with_lists` also those in fields for several."""
    try:
        value: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise LabelError(f"{where}: expected JSON, but {error}") from error
    name, names = "", list[str]()
    if isinstance(value, dict):
        fields = {str(field).lower(): entry for field, entry in value.items()}
        name = next((fields[key] for key in _NAMES if isinstance(fields.get(key), str)), "")
        listed = (fields.get(key) for key in (*_NAME_LISTS, *_NAMES) if with_lists)
        names = next((entry for entry in listed if isinstance(entry, list)), [])
        keys = (*_NUMBERS, *(_LISTS if with_lists else ()))
        value = next((fields[key] for key in keys if fields.get(key) is not None), names or None)
        if isinstance(value, dict):
            value = _present(where, value)
    if value is None or value == "":
        return PackedLabel(name=name)
    if isinstance(value, list):
        texts = [text for text in names if isinstance(text, str)]
        return label_of_list(where, value, texts)
    label = label_of_value(where, value)
    return label if label.several is not None else label._replace(name=label.name or name)


def _present(where: str, value: Mapping[str, Any]) -> list[str]:
    """Return the names with a 1 in an object that has a 0 or 1 for each class."""
    if not all(isinstance(entry, int) and entry in (0, 1) for entry in value.values()):
        raise LabelError(f"{where}: expected a 0 or 1 for each class, got {value!r:.100}")
    return [key for key, entry in value.items() if entry]


def _content(data: Mapped, span: Span) -> bytes:
    return bytes(data[span[0] : min(span[1], span[0] + _MOST_TEXT)])


def _is_image(ending: str) -> bool:
    return ending.rpartition(".")[2] in _IMAGES


def _split(name: str) -> tuple[str, str]:
    """Return the key of a member, and its ending in lower case."""
    folder, base = posixpath.split(name.removeprefix("./"))
    stem, _, ending = base.partition(".")
    return posixpath.join(folder, stem), ending.lower()


def _members(path: Path, data: Mapped) -> Iterator[tuple[str, Span]]:
    """Yield name, begin and end of the files in a tar, without hidden ones and metadata (`__…`)."""
    position, long_name = 0, ""
    while position < len(data):
        header = bytes(data[position : position + _BLOCK])
        if not header.strip(b"\0") and len(header) == _BLOCK:
            if bytes(data[position : position + _MOST_END]).strip(b"\0"):
                raise RecordError(
                    f"{path}: more data follows after its end at byte {position}: several tars "
                    "were joined; give them as files of their own"
                )
            return
        try:
            unsigned = sum(header) - sum(header[148:156]) + 8 * 0x20
            if len(header) < _BLOCK or _octal(header[148:156]) != unsigned:
                raise ValueError
            size = _octal(header[124:136])
        except ValueError:
            raise RecordError(
                f"{path}: not a tar, or damaged: expected the header of a file at byte {position}"
            ) from None
        begin = position + _BLOCK
        end = begin + size
        if end > len(data):
            raise RecordError(
                f"{path}: truncated: the file at byte {position} in it has {size} bytes, but "
                f"{len(data) - begin} follow; copy it again"
            )
        kind = header[156:157]
        if kind == _LONG_NAME:
            long_name = _content(data, (begin, end)).rstrip(b"\0").decode("utf-8", "replace")
        elif kind == _EXTENDED:
            long_name = _extended_name(_content(data, (begin, end))) or long_name
        else:
            if kind in _FILE:
                name = long_name or _header_name(header)
                if not posixpath.basename(name).startswith((".", "__")):
                    yield name, (begin, end)
            long_name = ""
        position = begin + -(-size // _BLOCK) * _BLOCK
    _log.warning("%s: no mark of an end: is it truncated? Compare its size with the origin's", path)


def _header_name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0].decode("utf-8", "replace")
    if header[257:263] == b"ustar\0" and header[345]:
        prefix = header[345:500].partition(b"\0")[0].decode("utf-8", "replace")
        return f"{prefix}/{name}"
    return name


def _extended_name(content: bytes) -> str:
    """Return the path in a pax header, `LENGTH path=NAME` and a line end; "" without one."""
    position = 0
    while position < len(content):
        length = content[position : position + 20].partition(b" ")[0]
        if not length.isdigit() or not int(length):
            break
        record = content[position + len(length) + 1 : position + int(length) - 1]
        if record.startswith(b"path="):
            return record[5:].decode("utf-8", "replace")
        position += int(length)
    return ""


def _octal(field: bytes) -> int:
    """Return a number of a header: octal text, or base 256 for sizes from 8 GiB.

    Raises:
        ValueError: neither; also a sign, as a negative size would lead back to an earlier member.
    """
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0") or b"0"
    if not digits.isdigit():
        raise ValueError
    return int(digits, 8)
