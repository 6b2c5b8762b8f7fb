"""Tables, manifests and annotations by accident or malice: an answer or an error, in bounded time.

Images are empty files: an inventory does not open them.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from image_classification.errors import DataError, ListError
from image_classification.inventory.column_kinds import ColumnOptions
from image_classification.inventory.columns import ColumnFinder
from image_classification.inventory.folders import take_inventory
from image_classification.inventory.grid import Grid, read_grid
from image_classification.inventory.matching import FileIndex
from image_classification.inventory.tags import read_class_names
from image_classification.labels.tree import LeftOut
from image_classification.labels.values import parse_class_index


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    for name in "abc":
        (root / f"{name}.jpg").touch()
    return root


def coco(root: Path, **changes: Any) -> Path:
    document: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [{"image_id": 1, "category_id": 0}, {"image_id": 2, "category_id": 1}],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
    }
    path = root / "annotations.coco.json"
    path.write_text(json.dumps(document | changes))
    return path


@pytest.mark.parametrize(
    ("entry", "rows"),
    [
        ("images", [{"id": 1, "file_name": "a.jpg"}, {"id": 1, "file_name": "b.jpg"}]),
        ("categories", [{"id": 0, "name": "cat"}, {"id": 0, "name": "dog"}]),
    ],
)
def test_two_things_with_one_id_in_coco_annotations_are_refused(
    images: Path, entry: str, rows: list[dict[str, Any]]
) -> None:
    coco(images, **{entry: rows})
    with pytest.raises(ListError, match=r"2: '.*' has the id of '.*'; give each"):
        take_inventory(images)


def test_a_group_of_categories_that_is_no_text_does_not_matter(images: Path) -> None:
    rows = [{"id": 0, "name": "cat", "supercategory": ["animal"]}, {"id": 1, "name": "dog"}]
    coco(images, categories=rows)
    assert take_inventory(images).labels.names == ("cat", "dog")


def test_names_that_share_a_number_name_no_class(images: Path, tmp_path: Path) -> None:
    (images / "table.csv").write_text("file,label\na.jpg,0\nb.jpg,1\nc.jpg,1\n")
    names = images / "class_map.json"
    names.write_text('{"cat": 0, "kitten": 0, "dog": 1}')
    assert take_inventory(images).labels.names == ("0", "1")
    with pytest.raises(DataError):
        read_class_names(names)


def test_class_numbers_with_leading_zeros_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    path.write_text('{"01": "dog", "00": "cat"}')
    assert read_class_names(path).names == ("cat", "dog")


def test_a_label_of_countless_brackets_is_text(images: Path) -> None:
    lines = [
        {"source-ref": "a.jpg", "class": "[" * 100_000},
        {"source-ref": "b.jpg", "class": "x"},
    ]
    (images / "a.manifest").write_text("\n".join(map(json.dumps, lines)))
    assert len(take_inventory(images).labels) == 2
    with pytest.raises(DataError, match="expected one class"):
        parse_class_index("[" * 100_000)


@pytest.mark.parametrize("name", ["q" * 300 + ".jpg", "a/" * 30_000 + "q.jpg"])
def test_a_name_that_no_file_can_have_is_a_missing_file(
    images: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    (images / "table.csv").write_text(f"file,label\na.jpg,cat\nb.jpg,dog\n{name},dog\n")
    assert len(take_inventory(images).entries) == 3
    assert "1 of 3 files are not in" in caplog.text


@pytest.mark.parametrize(
    "name",
    [
        *("../secret.jpg", "x/../../secret.jpg", "/../secret.jpg", "..\\secret.jpg"),
        *("{path}", "/{path}", "../../../../../../../../../../..{path}"),
    ],
)
def test_a_path_that_leads_out_of_the_folder_is_a_missing_file(
    images: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    outside = images.parent / "secret.jpg"
    outside.touch()
    name = name.format(path=outside)
    (images / "table.csv").write_text(f"file,label\na.jpg,cat\nb.jpg,dog\n{name},dog\n")
    found = take_inventory(images)
    assert "1 of 3 files are not in" in caplog.text
    (path,) = [entry.path for entry in found.entries if entry.path not in ("a.jpg", "b.jpg")]
    assert not (found.root / path).exists()


def test_a_path_of_countless_folders_is_found_by_its_end(images: Path) -> None:
    files = FileIndex(images, ["cats/a.jpg", "b.jpg"], LeftOut())
    begin = time.process_time()
    for _ in range(100):
        assert files.find("line 1", "x/" * 30_000 + "cats/a.jpg") == "cats/a.jpg"
    assert time.process_time() - begin < 5  # minutes if each end of the path is looked for


def test_objects_with_keys_of_their_own_are_refused_before_they_fill_the_memory(
    tmp_path: Path,
) -> None:
    path = tmp_path / "labels.ndjson"
    path.write_text("\n".join(json.dumps({f"{i}.jpg": "cat"}) for i in range(5_000)))
    with pytest.raises(ListError, match=r"objects with the same keys.*got 5000 keys in 5000"):
        read_grid(path)
    path.write_text("\n".join(json.dumps({"file": f"{i}.jpg", f"{i % 50}": 1}) for i in range(500)))
    assert read_grid(path).width == 51


def test_hundreds_of_columns_that_could_be_the_class_are_not_compared_in_pairs(
    images: Path,
) -> None:
    random, count = Random(5), 400
    rows = [[f"{r}.jpg", *(str(random.randrange(37)) for _ in range(count))] for r in range(1000)]
    header = ["file", *(f"f{i}q" for i in range(count))]
    grid = Grid(Path("t.csv"), header, rows, [""] * len(rows))
    finder = ColumnFinder(grid, FileIndex(images, [], LeftOut()), ColumnOptions())
    begin = time.process_time()
    with pytest.raises(ListError, match="several columns could be the class"):
        finder.find()
    assert time.process_time() - begin < 4  # 25 in pairs
