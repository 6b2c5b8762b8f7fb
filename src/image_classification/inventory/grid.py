"""The text of a table as rows of cells, whatever program wrote it.

In: CSV with any separator, text lists separated by blanks, JSON lines, JSON; UTF-8 or UTF-16.
Out: a `Grid`. What the columns mean is decided in `inventory.columns`.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from image_classification.errors import LFS_CURE, LFS_POINTER, ListError
from image_classification.inventory.rows import split_named

# Endings of image files, also of those that cannot be decoded here: they tell a path from a label.
IMAGE_NAME = re.compile(
    r"\.(jpe?g|jpe|jfif|png|gif|webp|bmp|tiff?|ppm|pgm|heic|heif|avif|jp2|dcm)$", re.IGNORECASE
)
_FILE_THEN_REST = re.compile(r"(.+?\.(?:jpe?g|jpe|jfif|png|gif|webp|bmp|tiff?|ppm))\s+(.+)", re.I)
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_FOREIGN = (
    (b"PK\x03\x04", "an Excel workbook or a zip archive", "save the sheet as CSV (UTF-8)"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook", "save the sheet as CSV (UTF-8)"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it with gunzip"),
    (b"PAR1", "a Parquet file", "write it as CSV, for example with pandas"),
    (b"version https://git-lfs", LFS_POINTER, LFS_CURE),
)
_DECLARED_SEPARATOR = re.compile(r"sep=([,;\t|])\r?\n")  # as Excel writes it
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_LINE_END = re.compile(r"\r\n|\r|\n")
_CONTROL = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")  # bytes that text does not have
_SEPARATORS = ",;\t|"
_SAMPLED = 50  # lines that decide about the separator
_MOST_CELLS, _MOST_EMPTY = 20_000_000, 20  # of a sparse grid: in all, and for each filled one


@dataclass(frozen=True)
class Grid:
    """The cells of a table.

    Attributes:
        path: the file, for messages.
        header: the names of the columns; None if the file does not name them.
        rows: the cells of every row, as text; a list in JSON is its JSON text.
        places: where each row stands, as in "line 3".
        may_have_header: whether the first row may be the header.
    """

    path: Path
    header: Sequence[str] | None
    rows: Sequence[Sequence[str]]
    places: Sequence[str]
    may_have_header: bool = False

    @property
    def width(self) -> int:
        """Number of columns: of the header, else of the widest row."""
        return len(self.header) if self.header else max(map(len, self.rows), default=0)

    def where(self, row: int) -> str:
        """Return file and line of a row, for messages."""
        return f"{self.path}, {self.places[row]}"

    def column(self, index: int) -> list[str]:
        """Return the cells of a column; "" where a row is shorter."""
        return [row[index] if index < len(row) else "" for row in self.rows]

    def name(self, index: int) -> str:
        """Return what to call a column: its name, or its number from 1."""
        return self.header[index] if self.header else str(index + 1)

    def with_header(self) -> "Grid":
        """Return the grid whose first row is the header.

        Raises:
            ListError: a row has another number of cells than the header.
        """
        header = [name.strip() for name in self.rows[0]]
        widest = max(map(len, self.rows[1:]), default=len(header))
        while len(header) > widest and not header[-1]:  # a separator at the end of the first line
            header.pop()
        for place, row in zip(self.places[1:], self.rows[1:], strict=True):
            if len(row) != len(header):
                raise ListError(
                    f"{self.path}, {place}: expected {len(header)} fields as in the first line, "
                    f"got {len(row)}: {','.join(row)[:200]!r}; quote a field that contains the "
                    "separator"
                )
        return replace(
            self,
            header=header,
            rows=self.rows[1:],
            places=self.places[1:],
            may_have_header=False,
        )


def read_grid(path: Path) -> Grid:
    """Return the cells of a table or of a text list.

    Raises:
        ListError: the file cannot be read, is not text, or is damaged.
    """
    text = read_text(path)
    if text.lstrip()[:1] in ("{", "["):
        return _grid_of_records(path, list(_json_records(path, text)))
    if path.suffix.lower() in (".jsonl", ".ndjson", ".json", ".manifest") and text.strip():
        raise ListError(f"{path}, line 1: expected one JSON object per line: {text[:100]!r}")
    return _delimited(path, text)


def is_text(path: Path) -> bool:
    """Return True for a file that can be a table, whatever its name: `HAM10000_metadata`."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return False
    return head.startswith(tuple(mark for mark, _ in _BYTE_ORDER_MARKS)) or not _CONTROL.search(
        head
    )


def read_text(path: Path) -> str:
    """Return the text of a file; bytes that are not UTF-8 are surrogates.

    Raises:
        ListError: the file cannot be read, or is known not to be text.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ListError(f"{path}: the table cannot be read: {error.strerror}") from error
    for magic, what, cure in _FOREIGN:
        if content.startswith(magic):
            raise ListError(f"{path}: expected a table as text, but this is {what}; {cure}")
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), None)
    if encoding is None and b"\0" in content[:2]:  # UTF-16 without its mark
        encoding = "utf-16-le" if content[1:2] == b"\0" else "utf-16-be"
    if encoding is None:
        return content.decode("utf-8-sig", "surrogateescape")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ListError(
            f"{path}: byte {error.start} is not {encoding.upper()}; save the table as UTF-8"
        ) from error


def _delimited(path: Path, text: str) -> Grid:
    declared = _DECLARED_SEPARATOR.match(text)
    text = text[declared.end() :] if declared else text
    separator = declared.group(1) if declared else _separator_of(text)
    if separator is None:
        return _separated_by_blanks(path, text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows, places = [], []
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                rows.append(fields)
                places.append(f"line {reader.line_num + bool(declared)}")
    except csv.Error as error:
        raise ListError(f"{path}, line {reader.line_num}: {error}") from error
    return Grid(path, None, rows, places, may_have_header=True)


def _separator_of(text: str) -> str | None:
    """Return what separates the cells; None for blanks.

    It is the one that gives several cells, and equally many in every line; else the most frequent
    one in the first line. If a damaged first line has none, it is one that all others have: a line
    must not be taken for a single cell, the name of a file.
    """
    lines = [line for line in _LINE_END.split(text[: 1 << 20]) if line.strip()][:_SAMPLED]
    first = lines[0] if lines else ""
    counts = {mark: [line.count(mark) for line in lines] for mark in _SEPARATORS}
    present = [mark for mark in ",;\t" if first.count(mark)]
    even = [
        mark for mark in _SEPARATORS if lines and len(set(counts[mark])) == 1 and first.count(mark)
    ]
    if not present:
        if even or ("|" in first and not _FILE_THEN_REST.fullmatch(first)):
            return "|"
        if len(first.split()) > 1:
            return None
        others = [mark for mark in _SEPARATORS if lines[1:] and all(counts[mark][1:])]
        return others[0] if others else (None if " " in text else ",")
    best = [mark for mark in present if mark in even] or present
    return max(best, key=first.count)


def _separated_by_blanks(path: Path, text: str) -> Grid:
    numbered = [
        (f"line {number}", line.strip())
        for number, line in enumerate(_LINE_END.split(text), start=1)
        if line.strip() and not line.startswith("#")
    ]
    rows = [line.split() for _, line in numbered]
    if rows and len(rows[0]) == 1 and rows[0][0] in (str(len(rows) - 1), str(len(rows) - 2)):
        numbered, rows = numbered[1:], rows[1:]  # the number of images, as CelebA has it
    if rows and {len(row) for row in rows[1:]} == {len(rows[0]) + 1}:
        rows[0].insert(0, "file")  # only the other columns have names
    matches = [_FILE_THEN_REST.fullmatch(line) for _, line in numbered]
    if all(matches):  # the path or the label can contain blanks
        rows = _rows_after_file([match.groups() for match in matches if match])
    elif len({len(row) for row in rows}) > 1:
        _refuse_odd_line(path, numbered, [match is not None for match in matches])
    return Grid(path, None, rows, [place for place, _ in numbered], may_have_header=True)


def _refuse_odd_line(
    path: Path, numbered: Sequence[tuple[str, str]], are_files: Sequence[bool]
) -> None:
    """Refuse a line that does not begin with the name of a file where most others do.

    Without its name, nothing says whether the words of the other lines are one class or several.
    """
    has_header = not IMAGE_NAME.search(numbered[0][1].split()[0])
    odd = [i for i, is_file in enumerate(are_files) if not is_file and (i or not has_header)]
    if odd and 2 * len(odd) < len(numbered):
        place, line = numbered[odd[0]]
        raise ListError(
            f"{path}, {place}: expected the name of an image file and then its class, as in the "
            f"other lines, got {line[:200]!r}"
        )


def _rows_after_file(pairs: Sequence[tuple[str, ...]]) -> list[list[str]]:
    """Return the file and the rest of each line: one label of several words, or several cells.

    They are cells if a number or a split stands at the same position in every line.
    """
    cells = [rest.split() for _, rest in pairs]
    is_even = len({len(row) for row in cells}) == 1
    if is_even and any(
        all(_NUMBER.fullmatch(cell) or split_named(cell) for cell in column)
        for column in zip(*cells, strict=True)
    ):
        return [[file, *row] for (file, _), row in zip(pairs, cells, strict=True)]
    return [[file, rest] for file, rest in pairs]


def _json_records(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Yield (place, object) of JSON lines, or of the items of one JSON document."""
    lines = [
        (f"line {n}", line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()
    ]
    try:
        first = json.loads(lines[0][1])
    except (ValueError, RecursionError) as error:
        if len(lines) == 1 or path.suffix.lower() in (".jsonl", ".ndjson", ".manifest"):
            raise ListError(
                f"{path}, {lines[0][0]}: expected one JSON object per line: {error}"
            ) from error
        first = None
    if isinstance(first, dict) and (len(lines) > 1 or path.suffix.lower() != ".json"):
        for place, line in lines:
            yield place, _object(path, place, line)
        return
    yield from items_of(path, load_json(path, text))


def _object(path: Path, place: str, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ListError(f"{path}, {place}: expected one JSON object per line: {error}") from error
    if not isinstance(value, dict):
        raise ListError(f"{path}, {place}: expected one JSON object per line, got {line[:200]!r}")
    return value


def load_json(path: Path, text: str) -> Any:
    """Return the value of a JSON document; a ListError if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ListError(f"{path}: expected JSON: {error}") from error


def read_document(path: Path) -> object:
    """Return the JSON document in a file, or None: it may be JSON lines."""
    try:
        return load_json(path, read_text(path))
    except ListError:
        return None


def items_of(path: Path, document: Any) -> Iterator[tuple[str, Any]]:
    """Yield (place, object) of a list of objects, or of an object that maps files to classes."""
    if isinstance(document, dict):
        labels = document.get("labels")
        if isinstance(labels, dict):  # as FiftyOne writes it
            names = document.get("classes")
            document = {
                name: _named(value, names if isinstance(names, list) else None)
                for name, value in labels.items()
            }
        lists = [value for value in document.values() if _is_list_of_objects(value)]
        if len(lists) == 1:
            document = lists[0]
        elif document and all(isinstance(v, (str, int, float, list)) for v in document.values()):
            document = _pairs(document)
    if not _is_list_of_objects(document):
        raise ListError(
            f"{path}: expected COCO annotations, a list of objects with a file and a class, or one "
            'object {"file": "class"}, got other JSON'
        )
    for number, item in enumerate(document, start=1):
        yield f"item {number}", item


def _pairs(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a file and a label per item of {"file": label}, or of {"class": ["file", …]}."""
    lists = [value for value in document.values() if isinstance(value, list)]
    if len(lists) == len(document) and not any(map(IMAGE_NAME.search, document)):
        texts = [item for value in lists for item in value]
        if texts and all(
            isinstance(item, str) and ("/" in item or IMAGE_NAME.search(item)) for item in texts
        ):
            return [
                {"file": item, "label": name} for name, value in document.items() for item in value
            ]
    return [{"file": name, "label": value} for name, value in document.items()]


def _named(value: Any, names: Sequence[Any] | None) -> Any:
    if names is not None and isinstance(value, int) and 0 <= value < len(names):
        return str(names[value])
    return value


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _grid_of_records(path: Path, records: Sequence[tuple[str, dict[str, Any]]]) -> Grid:
    """Return JSON objects as a grid; nested objects become columns `outer.inner`.

    Raises:
        ListError: each object has keys of its own; a grid would be empty, and grow with the square
            of the file.
    """
    flat = [_flat(record) for _, record in records]
    header = list(dict.fromkeys(name for record in flat for name in record))
    cells = len(header) * len(flat)
    if cells > _MOST_CELLS and cells > _MOST_EMPTY * sum(map(len, flat)):
        raise ListError(
            f"{path}: expected objects with the same keys, such as "
            f'{{"file": "…", "label": "…"}}, got {len(header)} keys in {len(flat)} objects, for '
            f"example {', '.join(map(repr, header[:3]))}"
        )
    rows = [[record.get(name, "") for name in header] for record in flat]
    return Grid(path, header, rows, [place for place, _ in records])


def _flat(record: dict[str, Any], prefix: str = "") -> dict[str, str]:
    cells: dict[str, str] = {}
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and prefix.count(".") < 3:
            cells.update(_flat(value, f"{name}."))
        elif _is_list_of_objects(value):
            for inner in dict.fromkeys(inner for item in value for inner in item):
                found = [item[inner] for item in value if inner in item]
                cells[f"{name}.{inner}"] = json.dumps(found)
        else:
            cells[name] = _cell(value)
    return cells


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False)
