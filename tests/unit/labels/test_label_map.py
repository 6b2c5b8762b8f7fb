"""The label map says which number is which name, and nothing else decides it."""

import json
import re
from pathlib import Path

import pytest

from image_classification.errors import DataError, counted
from image_classification.inventory.rows import REPEATED, UNDECIDED
from image_classification.labels.label_map import (
    LabelMap,
    alike,
    did_you_mean,
    imagenet_labels,
    numbering_advice,
)
from image_classification.labels.tree import CIRCULAR


def test_a_label_map_survives_its_file_whatever_the_names(tmp_path: Path) -> None:
    labels = LabelMap(("a b", "ünï", '"quoted"', "10"))
    labels.write(tmp_path / "labels.json")
    assert LabelMap.read(tmp_path / "labels.json") == labels
    assert labels.to_prediction_index() == {"a b": 0, "ünï": 1, '"quoted"': 2, "10": 3}


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"labels": "abc"}', '{"labels": [1]}', '{"labels": ["a", "a"]}']
)
def test_a_file_that_is_not_a_label_map_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(content)
    with pytest.raises(DataError):
        LabelMap.read(path)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"'cow' is not in the label map.*cat, dog"):
        LabelMap(("cat", "dog")).index("cow")


def test_a_name_is_found_without_comparing_it_with_all_names() -> None:
    compared = []

    class Name(str):
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            compared.append(other)
            return str.__eq__(self, other) is True

    labels = LabelMap(tuple(Name(i) for i in range(1000)))
    assert [labels.index(str(i)) for i in range(1000)] == list(range(1000))
    assert len(compared) <= 2000  # half a million, one name after the other


def test_the_file_is_plain_json_for_other_programs(tmp_path: Path) -> None:
    LabelMap.numbered(2).write(tmp_path / "labels.json")
    assert json.loads((tmp_path / "labels.json").read_text()) == {"labels": ["0", "1"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "expected JSON.*delete it"),
        (b"{", "expected JSON.*delete it"),
        (b'["cat"]', 'expected a list under "labels".*delete it'),
        (b'{"labels": ["cat", 3]}', "class 1 is 3, expected a name.*delete it"),
        (b'{"labels": ["cat", "cat"]}', "occur twice: cat; correct it"),
        (b'{"labels": ["\\ud800"]}', "expected class names in UTF-8"),
        (b'{"labels": ["\xe9"]}', "save it as UTF-8"),
    ],
)
def test_a_label_map_that_cannot_be_used_is_named_with_the_remedy(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "labels.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        LabelMap.read(path)
    assert str(error.value).startswith(f"{path}: ") and "Error" not in str(error.value)


def test_class_names_nested_without_end_are_refused() -> None:
    with pytest.raises(DataError, match="expected class names as a JSON list"):
        LabelMap.parse("[" * 100_000)


@pytest.mark.parametrize(
    ("numbers", "advice"),
    [
        ([0, 1, 2], None),
        ([0], None),
        ([], None),
        ([-1, 5], None),
        ([0, 2_000_000], "the labels are 0, 2000000, but class numbers are below 1000000: .* ids"),
        ([1, 2, 3, 3], "the labels are 1 to 3, so no image has 0: .*subtract 1 from each label"),
        ([0, 100, 200], "0, 100, 200, so no image has 1 to 99, 101 to 199: .*the 3 classes 0 to 2"),
        ([5], "the labels are 5, so no image has 0 to 4: .*number the 1 class 0$"),
    ],
)
def test_numbers_that_do_not_count_from_0_or_leave_gaps_are_named(
    numbers: list[int], advice: str | None
) -> None:
    found = numbering_advice(numbers)
    assert found is None if advice is None else re.search(advice, found or "")


@pytest.mark.parametrize(
    ("count", "things", "said"),
    [
        (0, "images", "0 images"),
        (1, "images", "1 image"),
        (2, "images are", "2 images are"),
        (1, "images are", "1 image is"),
        (1, "hidden files or folders", "1 hidden file or folder"),
        (1, "classes", "1 class"),
        (1, REPEATED, "1 line that repeats another"),
        (1, UNDECIDED, "1 image to relabel without a new label"),
        (1, CIRCULAR, "1 link to a folder that contains it"),
    ],
)
def test_one_thing_is_counted_in_the_singular(count: int, things: str, said: str) -> None:
    assert counted(count, things) == said


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["cat", "dog"], []),
        (["Cat", "cat"], ["'Cat' and 'cat' (the same but for upper and lower case)"]),
        (["a b", "a  b"], ["'a b' and 'a  b' (the same but for blanks)"]),
        (
            ["caf\u00e9", "cafe\u0301"],
            [r"'caf\xe9' and 'cafe\u0301' (the same but for their Unicode form)"],
        ),
    ],
)
def test_names_that_are_nearly_the_same_are_told(names: list[str], said: list[str]) -> None:
    assert alike(names) == said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Dog", " (did you mean 'dog'?)"),
        ("dogs", " (did you mean 'dog'?)"),
        ("cafe\u0301", r" (did you mean 'caf\xe9' instead of 'cafe\u0301', another Unicode form?)"),
        ("zebra", ""),
    ],
)
def test_a_name_that_is_nearly_known_is_suggested(name: str, said: str) -> None:
    assert did_you_mean(name, ("dog", "caf\u00e9")) == said


def test_a_class_number_that_is_an_id_is_refused_with_the_name_of_the_data() -> None:
    with pytest.raises(
        DataError, match=r"^data: expected class numbers below 1000000, got 9999999"
    ):
        LabelMap.numbered(10_000_000, "data")


def test_the_names_of_imagenets_classes_are_unique_and_in_the_order_of_its_wordnet_ids() -> None:
    names = imagenet_labels()
    assert len(names) == len(set(names)) == 1000
    assert [names[index] for index in (0, 134, 517, 999)] == [
        "tench",
        "crane (bird)",
        "crane (machine)",
        "toilet tissue",
    ]
    LabelMap(names)
