"""The label map says which number is which name, and nothing else decides it."""

import json
from pathlib import Path

import pytest

from image_classification.data.labels import LabelMap
from image_classification.errors import DataError


def test_a_label_map_survives_its_file_whatever_the_names(tmp_path: Path) -> None:
    labels = LabelMap(("a b", "ünï", '"quoted"', "10"))
    labels.write(tmp_path / "labels.json")
    assert LabelMap.read(tmp_path / "labels.json") == labels
    assert labels.to_prediction_index() == {"a b": 0, "ünï": 1, '"quoted"': 2, "10": 3}


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"labels": "abc"}', '{"labels": [1]}', '{"labels": ["a", "a"]}']
)
def test_a_file_that_is_no_label_map_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(content)
    with pytest.raises(DataError):
        LabelMap.read(path)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"'cow' is not in the label map.*\['cat', 'dog'\]"):
        LabelMap(("cat", "dog")).index("cow")


def test_the_file_is_plain_json_for_other_programs(tmp_path: Path) -> None:
    LabelMap.numbered(2).write(tmp_path / "labels.json")
    assert json.loads((tmp_path / "labels.json").read_text()) == {"labels": ["0", "1"]}
