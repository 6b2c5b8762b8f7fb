"""The table of predictions: what it has, what spreadsheets make of it, what it replaces."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from image_classification.api.predictions_file import safe_cell
from image_classification.api.results import evaluation_of
from image_classification.errors import DataError, UsageError
from image_classification.training.evaluation import Outcomes


def read(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def write(path: Path, targets: object, rows: object, keys: list[str], names: list[str]) -> Path:
    outcomes = Outcomes(tuple(keys), np.array(targets), np.array(rows, np.float32))
    return evaluation_of(outcomes, names, None, {}).write_csv(path)


def test_each_image_has_its_class_the_answer_and_all_probabilities(tmp_path: Path) -> None:
    rows = [[0.25, 0.75], [0.125, 0.875]]
    path = write(tmp_path / "new/p.csv", [1, 0], rows, ["a/1.jpg", "b, c/2.jpg"], ["cat", "dog"])
    assert read(path) == [
        ["file", "label", "predicted", "probability", "correct", "p(cat)", "p(dog)"],
        ["a/1.jpg", "dog", "dog", "0.75", "1", "0.25", "0.75"],
        ["b, c/2.jpg", "cat", "dog", "0.875", "0", "0.125", "0.875"],
    ]
    assert [file.name for file in path.parent.iterdir()] == ["p.csv"]


def test_of_more_than_1000_classes_the_five_most_probable_are_written(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(1001)]
    row = np.zeros(1001)
    row[[7, 3, 1000]] = 0.5, 0.25, 0.125
    head, line = read(write(tmp_path / "p.csv", [3], [row], ["1.jpg"], names))
    assert head[5:] == [f"{c}_{n}" for n in range(1, 6) for c in ("label", "probability")]
    assert line[:5] == ["1.jpg", "class 3", "class 7", "0.5", "0"]
    assert line[5:11] == ["class 7", "0.5", "class 3", "0.25", "class 1000", "0.125"]


def test_several_classes_of_an_image_are_joined_and_must_all_be_right(tmp_path: Path) -> None:
    targets, rows = [[1, 0, 1], [0, 1, 0]], [[0.9, 0.1, 0.6], [0.1, 0.7, 0.8]]
    path = write(tmp_path / "p.csv", targets, rows, ["1.jpg", "2.jpg"], ["a", "b", "c"])
    assert [line[1:5] for line in read(path)[1:]] == [
        ["a|c", "a|c", "0.899999976", "1"],
        ["b", "b|c", "0.800000012", "0"],
    ]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1", "'+1"),
        ("-2/1.jpg", "'-2/1.jpg"),
        ("@SUM", "'@SUM"),
        ("＝1", "'＝1"),
        ("\t=1", "\\t=1"),
        ("a\r\nb", "a\\r\\nb"),
        ("caf\udce9", "caf\\xe9"),
        ("\x1b[31m", "\\x1b[31m"),
        ("rösé 蘭 #7 (a b)", "rösé 蘭 #7 (a b)"),
    ],
)
def test_a_name_is_text_in_a_spreadsheet_and_stays_on_its_line(
    tmp_path: Path, text: str, cell: str
) -> None:
    assert safe_cell(text) == cell
    names = [text.encode("utf-8", "replace").decode(), "other"]
    lines = read(write(tmp_path / "p.csv", [0], [[0.5, 0.5]], [text], names))
    assert lines[1][0] == cell and len(lines) == 2
    assert not any(c[:1] in set("=+-@＝\t\r") for line in lines for c in line)


def test_an_existing_file_is_replaced_only_if_asked_and_only_a_table(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    outcomes = Outcomes(("1.jpg",), np.array([0]), np.array([[1.0, 0.0]], np.float32))
    found = evaluation_of(outcomes, ["a", "b"], None, {})
    found.write_csv(path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="exists: name another file, or replace it"):
        found.write_csv(path)
    assert found.write_csv(path, overwrite=True).read_bytes() == before
    other = tmp_path / "model.onnx"
    other.write_bytes(b"graph")
    with pytest.raises(UsageError, match="is not a table of predictions"):
        found.write_csv(other, overwrite=True)
    assert other.read_bytes() == b"graph"
    with pytest.raises(DataError, match="got a folder"):
        found.write_csv(tmp_path)
