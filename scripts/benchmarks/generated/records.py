"""Record files and their indexes: sound, mutated, cut, joined, with odd labels and ids."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Sequence
from pathlib import Path

from generated import edits, pictures
from generated.case import Case, Item

_MAGIC = 0xCED7230A
_MAGIC_BYTES = struct.pack("<I", _MAGIC)


def frame(payload: bytes) -> bytes:
    """Frame a payload as one record, split where it contains the magic at a multiple of 4."""
    places = [at for at in range(0, len(payload) - 3, 4) if payload[at : at + 4] == _MAGIC_BYTES]
    begins, ends = [0, *(at + 4 for at in places)], [*places, len(payload)]
    parts = []
    for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        kind = 0 if not places else 1 if not number else 3 if number == len(places) else 2
        part = payload[begin:end]
        head = struct.pack("<II", _MAGIC, kind << 29 | len(part))
        parts.append(head + part + bytes(-len(part) % 4))
    return b"".join(parts)


def image_record(content: bytes, label: float | Sequence[float], number: int) -> bytes:
    """Return the record of an image with one label, or with several."""
    if isinstance(label, (int, float)):
        return frame(struct.pack("<IfQQ", 0, label, number, 0) + content)
    head = struct.pack("<IfQQ", len(label), 0, number, 0)
    return frame(head + struct.pack(f"<{len(label)}f", *label) + content)


_ODD_LABELS: tuple[float | tuple[float, ...], ...] = (
    *(-1, 0.5, math.nan, math.inf, -math.inf, 1e30, 2**24, 255, -0.0, 1e-40, 70_000),
    *((1,), (0, 1), (1, 0, 1), (math.nan, 1), (5, 2), (2, 5, 1, 0.1, 0.1, 0.5, 0.5), (2, 5), ()),
)
_BOX = (0.1, 0.1, 0.5, 0.5)


def _labels_of_a_kind(chance: random.Random, count: int) -> list[tuple[float, ...]]:
    """Return labels that all images have in one form: bits, boxes, or numbers."""
    kind = chance.randrange(3)
    if kind == 0:
        return [(float(i % 2), float(i % 3 == 0), 1.0) for i in range(count)]
    if kind == 1:
        return [(2, 5, *(float(i % 3), *_BOX) * (i % 3)) for i in range(count)]
    return [(30.5 + i, 20.0, 1.0) for i in range(count)]


def make(chance: random.Random, folder: Path) -> Case:
    """Write a record file, or a channel of several."""
    count = chance.choice((1, 2, 3, 5, 8, 13))
    classes = chance.choice((2, 2, 3, 5))
    found = pictures.draw(chance, count)
    labels = [chance.randrange(classes) for _ in range(count)]
    ids = list(range(count))
    if chance.random() < 0.2:
        ids = [chance.choice((0, 7, 2**32, 2**63, _MAGIC)) + i * 3 for i in range(count)]
    contents = [content for _, content in found]
    if chance.random() < 0.2:  # padding that holds the magic, which splits the record
        spot = chance.randrange(count)
        contents[spot] += bytes(-len(contents[spot]) % 4) + _MAGIC_BYTES * chance.randint(1, 3)
    frames = [image_record(*row) for row in zip(contents, map(float, labels), ids, strict=True)]
    path = folder / "data" / "train.rec"
    path.parent.mkdir()
    command = chance.choice(("channel", "channel", "check", "extract", "salvage"))
    target = path.parent if command == "channel" else path
    items = [
        Item(f"train.rec#{i}", content, str(label))
        for i, content, label in zip(ids, contents, labels, strict=True)
    ]
    case = Case(command, target, items, named=(str(path), str(path.with_suffix(".idx"))))
    data, ends = b"".join(frames), []
    for one in frames:
        ends.append((ends[-1] if ends else 0) + len(one))
    begins = [0, *ends[:-1]]
    index = b"".join(b"%d\t%d\n" % pair for pair in zip(ids, begins, strict=True))
    action = chance.choice(
        (
            *("none", "bytes", "bytes", "bytes", "header", "cut", "boundary", "index"),
            *("not-image", "labels", "kinds"),
        )
    )
    case.what = action
    if action == "none":
        # `check` also names labels and images that are no fault of the file.
        case.is_sound = True
    elif action == "bytes":
        for _ in range(chance.choice((1, 1, 2, 4))):
            data = _mutated(case, data, edits.edit_bytes(data, chance), ends)
    elif action == "header":
        begin = chance.choice(begins)
        place = begin + chance.choice((0, 4, 7, 8, 12, 16, 24))
        edit = edits.edit_bytes(data, chance, place, min(place + 4, len(data)))
        data = _mutated(case, data, edit, ends)
    elif action == "cut":
        place = chance.randrange(len(data))
        data = _mutated(case, data, edits.Edit(place, len(data), b""), ends)
        begun = sum(begin < place for begin in begins)
        case.items = case.items[:begun]  # a file that ends between two records is sound
        if place in (0, *ends):
            case.items = [Item(i.name, i.content, i.label) for i in case.items]
        else:
            case.most_more = 0
    elif action == "boundary":  # whole records are missing: only the index shows it
        kept = chance.randrange(count + 1)
        data = data[: begins[kept] if kept < count else len(data)]
        case.items = case.items[:kept]
    elif action == "index":
        index = edits.applied(index, edits.edit_bytes(index, chance))
    elif action == "labels":
        for number in chance.sample(range(count), chance.choice((1, 1, count))):
            odd = chance.choice(_ODD_LABELS)
            frames[number] = image_record(contents[number], odd, ids[number])
            case.items[number] = Item(items[number].name, contents[number], "", True)
        data = b"".join(frames)
    elif action == "kinds":
        several = _labels_of_a_kind(chance, count)
        data = b"".join(map(image_record, contents, several, ids))
        for number, numbers in enumerate(several):
            text = "|".join(f"{value:g}" for value in numbers)
            case.items[number] = Item(items[number].name, contents[number], text)
    else:
        number = chance.randrange(count)
        content = chance.choice(pictures.NOT_IMAGES)
        frames[number] = image_record(content, float(labels[number]), ids[number])
        data = b"".join(frames)
        case.items[number] = Item(case.items[number].name, content, str(labels[number]), True)
    if action == "none" and command == "channel" and chance.random() < 0.7:
        half = begins[count // 2]  # in two files
        (path.parent / "train-2.rec").write_bytes(data[half:])
        data, index = data[:half], b""
    path.write_bytes(data)
    if action == "index" or chance.random() < 0.5:
        path.with_suffix(".idx").write_bytes(index)
    return case


def _mutated(case: Case, data: bytes, edit: edits.Edit, ends: list[int]) -> bytes:
    """Apply an edit, and mark what it touches."""
    for number in edits.touched(ends, edit):
        old = case.items[number] if number < len(case.items) else None
        if old is not None:
            case.items[number] = Item(old.name, old.content, old.label, True)
    case.most_more += 2 if len(edit.text) > 8 else 0
    ends[:] = [
        end if end < edit.begin else max(edit.begin, end + len(edit.text) - (edit.end - edit.begin))
        for end in ends
    ]
    return edits.applied(data, edit)
