"""TFRecord files, tar shards and Parquet tables, sound, mutated and cut."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from generated import edits, pictures
from generated.case import Case, Item

_NAMES = ("cat", "dog", "eel")
_SPELLINGS = (
    ("image/encoded", "image/class/label", "image/class/text"),
    ("image", "label", "label_name"),
    ("image_raw", "class", "class_name"),
)
_COMMANDS = ("preprocess", "preprocess", "check", "channel")


def _items(chance: random.Random, are_names: bool) -> list[tuple[str, int, Item]]:
    """Return (extension, class number, item) of some images."""
    found = pictures.draw(chance, chance.choice((4, 5, 6, 9)))
    classes = chance.choice((2, 3))
    return [
        (
            extension,
            number % classes,
            Item(
                f"#{number}",
                content,
                _NAMES[number % classes] if are_names else str(number % classes),
            ),
        )
        for number, (extension, content) in enumerate(found)
    ]


def _case(chance: random.Random, folder: Path, items: list[Item]) -> Case:
    root = folder / "data"
    root.mkdir()
    case = Case(chance.choice(_COMMANDS), root, items)
    if case.command == "preprocess" and chance.random() < 0.6:
        case.options = ["--max-bad", "100%"]
    return case


def make_tfrecords(chance: random.Random, folder: Path) -> Case:
    """Write a TFRecord file, or several."""
    from image_classification.records.tfrecord import encode_example, frame_tfrecord

    has_names = chance.random() < 0.6
    chosen = _items(chance, has_names)
    case = _case(chance, folder, [item for *_, item in chosen])
    has_only_names, is_vector = chance.random() < 0.3, chance.random() < 0.2
    image, label, text = chance.choice(_SPELLINGS)
    pieces = []
    edited = chance.randrange(4 * len(chosen))
    for position, (_, number, item) in enumerate(chosen):
        features: dict[str, bytes | int | Sequence[bytes] | Sequence[int]] = {image: item.content}
        if has_names and has_only_names:
            features[label] = item.label.encode()
        else:
            features[label] = [int(i == number) for i in range(3)] if is_vector else number
            if has_names:
                features[text] = item.label.encode()
        if chance.random() < 0.2:
            features["image/filename"] = b"x.jpg"
        example = encode_example(features)
        if position == edited:  # the checksums are right, the message is not
            case.items[position] = replace(item, is_touched=True)
            place = chance.choice((len(example), 40))
            example = edits.applied(example, edits.edit_bytes(example, chance, 0, place))
        pieces.append(frame_tfrecord(example))
    _mutate_and_write(case, chance, pieces, ("train.tfrecord", "data-00000-of-00001", "a.tfrec"))
    case.is_sound = case.is_sound and edited >= len(chosen)
    return case


def make_shards(chance: random.Random, folder: Path) -> Case:
    """Write a tar shard as WebDataset does."""
    are_names = chance.random() < 0.5
    chosen = _items(chance, are_names)
    case = _case(chance, folder, [item for *_, item in chosen])
    kind = chance.choice(("cls", "cls", "txt", "json"))
    form = chance.choice((tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    above = chance.choice(("", "", "./", "a/", "é/", "x" * 120 + "/", "long name " * 15))
    if len(above) > 80 and form == tarfile.USTAR_FORMAT:
        above = "a/b/"
    odd = chance.choice(("", "", "", "", "no label", "no image", "note", "folder"))
    pieces, touched = [], []
    for number, (extension, label, item) in enumerate(chosen):
        key = f"{above}{number:06d}"
        value: object = _NAMES[label] if are_names else label
        text = json.dumps({"label": value}) if kind == "json" else str(value)
        members = [(f"{key}.{extension}", item.content), (f"{key}.{kind}", text.encode())]
        if chance.random() < 0.3:
            members.reverse()
        if number == len(chosen) - 1 and odd:
            if odd == "no label":
                members = [member for member in members if member[1] == item.content]
            elif odd == "no image":
                members = [member for member in members if member[1] != item.content]
            elif odd == "note":
                members += [("__index__", b"x"), (".hidden", b"x")]
            if odd in ("no label", "no image"):
                touched.append(number)
        pieces.append(b"".join(_member(name, content, form) for name, content in members))
    for number in touched:
        case.items[number] = replace(case.items[number], is_touched=True)
    _mutate_and_write(case, chance, pieces, ("shard-000000.tar", "train.tar"), bytes(1024))
    case.is_sound = case.is_sound and not touched
    return case


def _member(name: str, content: bytes, form: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    header = member.tobuf(form, "utf-8", "surrogateescape")
    return header + content + bytes(-len(content) % 512)


def _mutate_and_write(
    case: Case, chance: random.Random, pieces: list[bytes], names: Sequence[str], end: bytes = b""
) -> None:
    """Write the pieces of each image as one or two files, mutated or not."""
    action = chance.choice(("none", "bytes", "bytes", "bytes", "cut", "join", "image", "several"))
    case.what = action
    name = chance.choice(names)
    path = case.path / name
    ends = []
    for piece in pieces:
        ends.append((ends[-1] if ends else 0) + len(piece))
    data = b"".join(pieces)
    if action == "none":
        case.is_sound = True
    elif action == "bytes":
        for _ in range(chance.choice((1, 1, 2))):
            edit = edits.edit_bytes(data, chance)
            for number in edits.touched(ends, edit):
                case.items[number] = replace(case.items[number], is_touched=True)
            data = edits.applied(data, edit)
            grown = len(edit.text) - (edit.end - edit.begin)
            ends = [e if e < edit.begin else max(edit.begin, e + grown) for e in ends]
            case.most_more += 2 if len(edit.text) > 8 else 0
        if end:  # the image and the label of a sample can get different names: both are counted
            case.most_more += sum(item.is_touched for item in case.items)
    elif action == "cut":
        place = chance.choice((chance.randrange(len(data)), chance.choice(ends)))
        kept = sum(e <= place for e in ends)
        begun = sum(begin < place for begin in (0, *ends[:-1]))
        case.items = case.items[:begun]
        case.items[kept:] = [replace(item, is_touched=True) for item in case.items[kept:]]
        data, end = data[:place], b""
    elif action == "join":
        number = chance.randrange(len(pieces))
        data += end + pieces[number]
        case.items.append(replace(case.items[number], is_touched=True))
        case.items[number] = replace(case.items[number], is_touched=True)
    elif action == "image":
        number = chance.randrange(len(pieces))
        content = chance.choice(pictures.NOT_IMAGES)
        old = case.items[number].content
        if len(content) <= len(old):  # of the same length, so that only the checksum is wrong
            content += old[len(content) :]
            begin = data.find(old)
            data = data[:begin] + content + data[begin + len(old) :]
        case.items[number] = replace(case.items[number], is_touched=True)
    else:
        half = ends[len(pieces) // 2 - 1]
        (case.path / f"z-{name}").write_bytes(data[half:] + end)
        data = data[:half]
        case.is_sound = not name.startswith("data-")  # z-data-00000-of-00001 is a shard too
    case.named += (name,)
    path.write_bytes(data + end)


def make_parquet(chance: random.Random, folder: Path) -> Case:
    """Write a Parquet table as Hugging Face does; needs pyarrow."""
    import pyarrow
    import pyarrow.parquet

    chosen = _items(chance, are_names=False)
    case = _case(chance, folder, [item for *_, item in chosen])
    case.command = chance.choice(("preprocess", "check"))
    if case.command == "check":
        case.options = []
    action = chance.choice(("none", "bytes", "bytes", "label", "image"))
    case.what = action
    images = [{"bytes": item.content, "path": f"{n}.jpg"} for n, (*_, item) in enumerate(chosen)]
    labels: list[int | None] = [number for _, number, _ in chosen]
    number = chance.randrange(len(images))
    if action == "label":
        labels[number] = chance.choice((None, -1, 2**40))
    elif action == "image":
        images[number]["bytes"] = chance.choice((None, b"", b"x"))  # type: ignore[assignment]
    if action in ("label", "image"):
        case.items[number] = replace(case.items[number], is_touched=True)
    table = pyarrow.table({"image": images, "label": labels})
    written = io.BytesIO()
    pyarrow.parquet.write_table(table, written, compression=chance.choice(("none", "snappy")))
    data = written.getvalue()
    if action == "bytes":  # pages may have no checksum
        for _ in range(chance.choice((1, 1, 2))):
            data = edits.applied(data, edits.edit_bytes(data, chance))
        case.items = [replace(item, is_touched=True) for item in case.items]
    case.is_sound = action == "none"
    case.named = ("train.parquet",)
    (case.path / "train.parquet").write_bytes(data)
    return case
