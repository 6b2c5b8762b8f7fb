"""Lists (.lst) and tables in the layouts that people have, sound and mutated."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from generated import edits, pictures
from generated.case import Case, Item

_NAMES = ("cat", "dog", "eel", "ace of clubs", "Ünï", "a'b")
_HEADERS = ("label", "class", "breed", "category", "target")
_FOUND = (".csv", ".tsv", ".jsonl", ".manifest")  # the only such file in a folder is its list
_FILES = ("file", "filename", "image", "path", "image_id", "id")


class _Table:
    """The text of a table in pieces: what stands before the rows, the rows, what follows.

    With `is_decisive`, another head can give the images other classes.
    """

    def __init__(
        self, name: str, head: str, rows: Sequence[str], tail: str = "", is_decisive: bool = True
    ) -> None:
        self.name, self.head, self.rows, self.tail = name, head, list(rows), tail
        self.is_decisive = is_decisive
        self.options: list[str] = []

    def encoded(self, encoding: str) -> tuple[bytes, list[int]]:
        """Return the bytes, and where each piece ends: the head, then every row."""
        pieces = [piece.encode(encoding, "surrogateescape") for piece in (self.head, *self.rows)]
        ends = []
        for piece in pieces:
            ends.append((ends[-1] if ends else 0) + len(piece))
        return b"".join(pieces) + self.tail.encode(encoding), ends


def make_list(chance: random.Random, folder: Path) -> Case:
    """Write images and a `.lst`."""
    root, found = folder / "images", pictures.draw(chance, chance.choice((4, 7, 12)))
    width = chance.choice((1, 1, 1, 2, 3))
    items, rows = [], []
    for number, (extension, content) in enumerate(found):
        # Every class occurs, and in no gap: packing names gaps, and multi-hot needs two columns.
        bits = [float((number + k) % 2) for k in range(width)]
        numbers = bits if width > 1 else [float(number % chance.choice((2, 3)))]
        name = chance.choice((f"{number}.{extension}", f"a b/{number:05d}.{extension}"))
        _write(root / name, content)
        shape = chance.choice(("{:f}", "{:g}", " {:g}", "{:.1f}"))
        labels = [shape.format(value) for value in numbers]
        rows.append("\t".join([str(number * chance.choice((1, 1))), *labels, name]))
        items.append(Item(name, content, "|".join(f"{value:g}" for value in numbers)))
    line_end = chance.choice(("\n", "\n", "\r\n"))
    listing = folder / "train.lst"
    table = _Table("train.lst", "", [row + line_end for row in rows])
    case = Case("pack", root, items, [str(listing)], named=(str(listing),), may_repeat=True)
    case.options += chance.choice(([], ["--max-bad", "100%"]))
    if width > 1:
        case.options.append("--pack-label")
    elif chance.random() < 0.4:  # by number, as there are no class names
        case.command = chance.choice(("preprocess", "check", "channel"))
        case.options = ["--list", str(listing)]
        if case.command == "channel":
            case.options = [str(folder)]
        names = sorted({item.label for item in items})
        (folder / "labels.json").write_text(json.dumps({"labels": [f"c{n}" for n in names]}))
        case.items = [replace(item, label=f"c{item.label}") for item in items]
    _finish(case, chance, table, "utf-8", listing)
    if case.command == "pack":  # it looks only at the images that the list names
        case.most_fewer = sum(item.is_touched for item in case.items)
    return case


def make(chance: random.Random, folder: Path) -> Case:
    """Write images and a table."""
    root, found = folder / "images", pictures.draw(chance, chance.choice((6, 9, 12)))
    names = chance.sample(_NAMES, chance.choice((2, 3)))
    if chance.random() < 0.2:
        names = [str(number) for number in range(len(names))]
    inside = chance.random() < 0.3
    items = []
    for number, (extension, content) in enumerate(found):
        name = f"{'sub/' if inside else ''}{number:05d}.{extension}"
        _write(root / name, content)
        items.append(Item(name, content, names[number % len(names)]))
    layout = chance.choice(_LAYOUTS)
    table, items = layout(chance, items)
    is_inside = chance.random() < 0.3 and table.name.endswith(_FOUND)
    listing = (root if is_inside else folder) / table.name
    case = Case(
        chance.choice(("preprocess", "preprocess", "check")),
        root,
        items,
        [] if is_inside and chance.random() < 0.7 else ["--list", str(listing)],
        named=(str(listing), str(folder)),
        what=layout.__name__.strip("_"),
    )
    case.options += table.options
    if case.command == "preprocess" and chance.random() < 0.7:
        case.options += ["--max-bad", "100%"]
    is_text = table.name.endswith((".csv", ".tsv", ".txt"))
    encoding = chance.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16")) if is_text else "utf-8"
    if encoding == "utf-16":
        encoding, table.head = "utf-16-le", f"\ufeff{table.head}"
    elif encoding == "utf-8-sig":
        encoding, table.head = "utf-8", f"\ufeff{table.head}"
    if is_text and chance.random() < 0.2:
        table.head = table.head.replace("\n", "\r\n")
        table.rows = [row.replace("\n", "\r\n") for row in table.rows]
    _finish(case, chance, table, encoding, listing)
    return case


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _finish(case: Case, chance: random.Random, table: _Table, encoding: str, listing: Path) -> None:
    """Write the table, mutated or not, and mark what the mutations touch."""
    action = chance.choice(("none", "edit", "edit", "edit", "lines", "cell", "image", "bytes"))
    case.what = f"{case.what} {action}".strip()
    if action == "none":
        case.is_sound = True
    elif action == "image":
        number = chance.randrange(len(case.items))
        old = case.items[number]
        if chance.random() < 0.3:
            (case.path / old.name).unlink()
        else:
            (case.path / old.name).write_bytes(chance.choice(pictures.NOT_IMAGES))
        case.items[number] = replace(old, is_touched=True)
        case.named += (old.name,)
    elif action == "lines":
        _edit_lines(case, chance, table)
    elif action == "cell":
        _edit_cells(case, chance, table)
    data, ends = table.encoded(encoding)
    if action in ("edit", "bytes"):
        for _ in range(chance.choice((1, 1, 1, 2))):
            edit = edits.edit_text(data, chance, encoding)
            if action == "bytes":
                edit = edits.edit_bytes(data, chance)
            pieces = edits.touched(ends, edit)
            for piece in pieces:
                is_all = piece == 0 and table.is_decisive
                numbers = range(len(case.items)) if is_all else [piece - 1]
                for number in numbers:
                    if 0 <= number < len(case.items):
                        case.items[number] = replace(case.items[number], is_touched=True)
            data = edits.applied(data, edit)
            grown = len(edit.text) - (edit.end - edit.begin)
            ends = [end if end < edit.begin else max(edit.begin, end + grown) for end in ends]
    # A row that is touched can name a file that is not there, while its image is not named, and a
    # header can become a row.
    case.most_more += sum(item.is_touched for item in case.items) + 1
    case.named += ("unusable images, got ",)  # names each of them as the list does
    listing.write_bytes(data)


def _edit_lines(case: Case, chance: random.Random, table: _Table) -> None:
    """Repeat, drop, join or cut whole lines."""
    number = chance.randrange(len(table.rows))
    action = chance.randrange(5)
    if action == 0:  # a line that repeats another
        table.rows.insert(chance.randrange(len(table.rows)), table.rows[number])
    elif action == 1:  # an image that the table does not name
        del table.rows[number]
        if case.command == "pack":
            del case.items[number]
        else:
            case.items[number] = replace(case.items[number], is_touched=True)
    elif action == 2:  # the first half of a line
        row = table.rows[number]
        table.rows[number] = row[: len(row) // 2] + "\n"
        case.items[number] = replace(case.items[number], is_touched=True)
    elif action == 3:  # blank lines
        table.rows.insert(number, chance.choice(("\n", "  \n", "\r\n", "\t\n")))
    else:  # another class for an image that has one
        other = table.rows[(number + 1) % len(table.rows)]
        table.rows.append(other)
        case.items = [replace(item, is_touched=True) for item in case.items]


_CELLS = (
    *("", " ", "nan", "NaN", "None", "-1", "0", "1", "1.0", "01", "true", "?", "-", "#N/A", "CAT"),
    *("cat", "dog", "ace", "of", "ace of", "cat dog", "cat,dog", "cat|dog", "cat;dog", "dog/cat"),
    *("cat ", " cat", "['cat']", '["cat", "dog"]', "{}", "e", "train", "test", "a" * 300, "cät"),
    *("00001.jpg", "sub/00002.png", "1e9", "99999999999999999999", "cat+dog", "cat & dog", "½"),
)


def _edit_cells(case: Case, chance: random.Random, table: _Table) -> None:
    """Put other text in place of the class, or the name of the file, of some rows."""
    for number in chance.sample(range(len(table.rows)), chance.choice((1, 1, 2))):
        item = case.items[number]
        old = item.label if chance.random() < 0.8 else item.name.rpartition("/")[2]
        table.rows[number] = table.rows[number].replace(old, chance.choice(_CELLS), 1)
        case.items[number] = replace(item, is_touched=True)


def _csv_text(rows: Sequence[Sequence[str]], separator: str) -> list[str]:
    lines = []
    for row in rows:
        text = io.StringIO()
        csv.writer(text, delimiter=separator, lineterminator="\n").writerow(row)
        lines.append(text.getvalue())
    return lines


def _columns(chance: random.Random, items: list[Item]) -> tuple[_Table, list[Item]]:
    """File and class, with a header, perhaps with other columns."""
    separator, ending = chance.choice(((",", "csv"), (";", "csv"), ("\t", "tsv"), ("|", "csv")))
    header = [chance.choice(_FILES), chance.choice(_HEADERS)]
    rows = [[item.name, item.label] for item in items]
    if chance.random() < 0.3:
        header.append("age")
        rows = [[*row, str(20 + i * 7 % 50)] for i, row in enumerate(rows)]
    if chance.random() < 0.2:
        header.append("split")
        rows = [[*row, ("train", "validation")[i % 3 == 2]] for i, row in enumerate(rows)]
    if chance.random() < 0.2:
        header = header[::-1]
        rows = [row[::-1] for row in rows]
    lines = _csv_text([header, *rows], separator)
    has_others = len(header) > 2
    return _Table(f"labels.{ending}", lines[0], lines[1:], is_decisive=has_others), items


def _stems(chance: random.Random, items: list[Item]) -> tuple[_Table, list[Item]]:
    """Ids without the extension."""
    header = ["id", chance.choice(_HEADERS)]
    rows = [[item.name.rpartition("/")[2].partition(".")[0], item.label] for item in items]
    lines = _csv_text([header, *rows], ",")
    return _Table("train.csv", lines[0], lines[1:], is_decisive=False), items


def _bare(chance: random.Random, items: list[Item]) -> tuple[_Table, list[Item]]:
    """File and class without a header."""
    lines = _csv_text([[i.name, i.label] for i in items], chance.choice(",,;\t|"))
    return _Table("labels.csv", "", lines, is_decisive=False), items


def _vertex(chance: random.Random, items: list[Item]) -> tuple[_Table, list[Item]]:
    """Split, address and class without a header, as Vertex AI has them."""
    splits = ("TRAIN", "TRAIN", "VALIDATION", "TEST")
    rows = [[splits[n % 4], f"gs://b/{i.name}", i.label] for n, i in enumerate(items)]
    return _Table("vertex.csv", "", _csv_text(rows, ","), is_decisive=False), items


def _measured(chance: random.Random, items: list[Item]) -> tuple[_Table, list[Item]]:
    """Columns that describe the image, as of GTSRB."""
    names = sorted({item.label for item in items})
    header = ["Width", "Height", "Roi.X1", "ClassId", "Path"]
    rows = [
        [str(30 + n), str(31 + n * 3 % 7), "5", str(names.index(item.label)), item.name]
        for n, item in enumerate(items)
    ]
    lines = _csv_text([header, *rows], chance.choice(",;"))
    kept = [replace(item, label=str(names.index(item.label))) for item in items]
    return _Table("GT-final.csv", lines[0], lines[1:]), kept


def _fifty_one(chance: random.Random, items: list[Item]) -> tuple[_Table, list[Item]]:
    """Files without their extension → class, as FiftyOne writes it."""
    names = sorted({item.label for item in items})
    rows = [
        f"{',' if n else ''}{json.dumps(item.name.rpartition('.')[0])}: {names.index(item.label)}\n"
        for n, item in enumerate(items)
    ]
    head = f'{{"classes": {json.dumps(names)}, "labels": {{'
    return _Table("fiftyone.json", head, rows, "}}"), items


def _with_flags(chance: random.Random, items: list[Item]) -> tuple[_Table, list[Item]]:
    """Columns with unusual names, which only flags name."""
    header = ["zz", "plate", "q"]
    rows = [[str(n % 2), item.name, item.label] for n, item in enumerate(items)]
    lines = _csv_text([header, *rows], ",")
    table = _Table("odd.csv", lines[0], lines[1:], is_decisive=False)
    table.options = ["--file-column", "2", "--label-column", "3"]
    return table, items


def _blanks(chance: random.Random, items: list[Item]) -> tuple[_Table, list[Item]]:
    """Path, a blank and the class."""
    return _Table("list.txt", "", [f"{item.name} {item.label}\n" for item in items]), items


def _bits(chance: random.Random, items: list[Item]) -> tuple[_Table, list[Item]]:
    """A column of 0 and 1 per class; images may have several."""
    names = sorted({item.label for item in items})
    several = chance.random() < 0.5
    if any(name.isdecimal() for name in names):
        names = [f"c{name}" for name in names]
        items = [replace(item, label=f"c{item.label}") for item in items]
    rows, kept = [], []
    for number, item in enumerate(items):
        present = {item.label, names[number % 2]} if several else {item.label}
        rows.append([item.name, *(str(int(name in present)) for name in names)])
        kept.append(replace(item, label="|".join(sorted(present))))
    lines = _csv_text([["file", *names], *rows], ",")
    return _Table("_classes.csv", lines[0], lines[1:]), kept


def _several(chance: random.Random, items: list[Item]) -> tuple[_Table, list[Item]]:
    """Several labels in a cell."""
    names = sorted({item.label for item in items})
    kept = [
        replace(item, label="|".join(sorted({item.label, names[number % 2]})))
        for number, item in enumerate(items)
    ]
    rows = [[item.name, item.label] for item in kept]
    lines = _csv_text([["file", "labels"], *rows], ",")
    return _Table("tags.csv", lines[0], lines[1:]), kept


def _json_lines(chance: random.Random, items: list[Item]) -> tuple[_Table, list[Item]]:
    key = chance.choice(("file_name", "image", "path"))
    rows = [json.dumps({key: item.name, "label": item.label}) + "\n" for item in items]
    return _Table(chance.choice(("metadata.jsonl", "data.ndjson")), "", rows), items


def _manifest(chance: random.Random, items: list[Item]) -> tuple[_Table, list[Item]]:
    """An augmented manifest of Ground Truth."""
    names = sorted({item.label for item in items})
    rows = []
    for item in items:
        number = names.index(item.label)
        metadata = {"class-name": item.label, "type": "groundtruth/image-classification"}
        row = {"source-ref": f"s3://bucket/{item.name}", "kind": number, "kind-metadata": metadata}
        rows.append(json.dumps(row, ensure_ascii=chance.random() < 0.5) + "\n")
    return _Table("output.manifest", "", rows), items


def _coco(chance: random.Random, items: list[Item]) -> tuple[_Table, list[Item]]:
    names = sorted({item.label for item in items})
    categories = [{"id": 10 + n, "name": name} for n, name in enumerate(names)]
    annotations = [
        {"id": n, "image_id": n, "category_id": 10 + names.index(item.label)}
        for n, item in enumerate(items)
    ]
    first = json.dumps({"categories": categories, "annotations": annotations})
    head = first[:-1] + ', "images": ['
    rows = [
        ("" if not n else ",") + json.dumps({"id": n, "file_name": item.name}) + "\n"
        for n, item in enumerate(items)
    ]
    return _Table("annotations.json", head, rows, "]}"), items


def _json_map(chance: random.Random, items: list[Item]) -> tuple[_Table, list[Item]]:
    """One object, file → class."""
    rows = [
        f"{'' if not n else ','}{json.dumps(item.name)}: {json.dumps(item.label)}\n"
        for n, item in enumerate(items)
    ]
    return _Table("map.json", "{", rows, "}"), items


_Layout = Callable[[random.Random, list[Item]], tuple[_Table, list[Item]]]
_LAYOUTS: tuple[_Layout, ...] = (
    _columns, _columns, _columns, _stems, _bare, _blanks, _bits, _several, _json_lines, _manifest,
    _coco, _json_map, _vertex, _measured, _fifty_one, _with_flags,
)  # fmt: skip
