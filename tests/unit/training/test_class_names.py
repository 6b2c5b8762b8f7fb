"""A job finds its class names wherever they are given, and contradictions are errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from image_classification.contract.channels import ChannelInput
from image_classification.contract.interface import INTERFACES
from image_classification.errors import DataError, HyperparameterError
from image_classification.labels.label_map import LabelMap
from image_classification.labels.lists import ListEntry, read_list
from image_classification.records.format import RecordHeader, pack_image_record
from image_classification.records.writer import RecordWriter
from image_classification.training.inputs import Inputs, open_inputs
from image_classification.training.settings import settings_of


def open_job(channels: Mapping[str, Path], **hyperparameters: object) -> Inputs:
    interface = INTERFACES["mxnet"]
    given = {"num_classes": 2, "num_training_samples": 4, **hyperparameters}
    text = {name: str(value) for name, value in given.items() if value is not None}
    settings = settings_of(interface.parse(text))
    inputs = {name: ChannelInput(name, path) for name, path in channels.items()}
    return open_inputs(inputs, settings, "train")


@pytest.fixture
def records(tmp_path: Path, jpeg: bytes) -> dict[str, Path]:
    """Return channels of four records of two classes, as im2rec makes them: without names."""
    channels = {}
    for name in ("train", "validation"):
        channels[name] = tmp_path / name
        channels[name].mkdir()
        with RecordWriter(channels[name] / "data.rec") as writer:
            for number in range(4):
                writer.write(pack_image_record(RecordHeader(number % 2, number), jpeg), number)
    return channels


def test_records_without_names_are_numbered(
    records: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    assert open_job(records).labels.names == ("0", "1")
    assert "set the hyperparameter labels to name them" in caplog.text


@pytest.mark.parametrize(
    "text", ["cat,dog", " cat , dog ", '["cat", "dog"]', '"[\\"cat\\", \\"dog\\"]"']
)
def test_a_hyperparameter_names_the_classes(records: dict[str, Path], text: str) -> None:
    assert open_job(records, labels=text).labels.names == ("cat", "dog")


@pytest.mark.parametrize(
    "place", ["train/labels.json", "train/nested/labels.json", "validation/labels.json"]
)
def test_a_labels_file_is_found_anywhere_in_any_channel(
    records: dict[str, Path], tmp_path: Path, place: str
) -> None:
    LabelMap(("cat", "dog")).write(tmp_path / place)
    assert open_job(records).labels.names == ("cat", "dog")


def test_a_list_next_to_records_names_the_classes_by_their_folders(
    records: dict[str, Path],
) -> None:
    (records["train"] / "train.lst").write_text("0\t0\tcat/1.jpg\n1\t1\tdog/2.jpg\n")
    assert open_job(records).labels.names == ("cat", "dog")
    assert open_job(records, labels="feline,canine").labels.names == ("feline", "canine")
    (records["train"] / "train.lst").write_text("no list\n")
    assert open_job(records).labels.names == ("0", "1")


def test_origins_that_differ_are_an_error_that_names_both(records: dict[str, Path]) -> None:
    LabelMap(("cat", "dog")).write(records["train"] / "labels.json")
    assert open_job(records, labels="cat,dog").labels.names == ("cat", "dog")
    with pytest.raises(DataError) as raised:
        open_job(records, labels="dog,cat")
    for part in (
        "hyperparameter labels has ['dog', 'cat']",
        "train/labels.json has ['cat', 'dog']",
    ):
        assert part in str(raised.value)
    LabelMap(("dog", "cat")).write(records["validation"] / "labels.json")
    with pytest.raises(DataError, match=r"contradict.*channel train.*channel validation"):
        open_job(records)


def test_a_labels_file_of_another_program_is_an_error_with_the_remedy(
    records: dict[str, Path],
) -> None:
    (records["train"] / "labels.json").write_text('{"classes": ["cat"], "labels": {"a": 0}}')
    with pytest.raises(DataError, match=r'labels\.json: expected a list under "labels".*remove it'):
        open_job(records)


def test_a_number_of_names_other_than_num_classes_is_an_error(records: dict[str, Path]) -> None:
    with pytest.raises(DataError, match="labels has 3 names, but num_classes is 2"):
        open_job(records, labels="a,b,c")


@pytest.mark.parametrize("text", ["a,,b", "[1, 2]", "[", "[]", '["a", ""]'])
def test_a_malformed_hyperparameter_is_refused(records: dict[str, Path], text: str) -> None:
    with pytest.raises(HyperparameterError, match="labels: expected class names"):
        open_job(records, labels=text)


@pytest.fixture
def folders(tmp_path: Path, jpeg: bytes) -> dict[str, Path]:
    channels = {name: tmp_path / "folders" / name for name in ("train", "validation")}
    for folder in channels.values():
        for name in ("cat", "dog"):
            (folder / name).mkdir(parents=True)
            (folder / name / "1.jpg").write_bytes(jpeg)
    return channels


def test_a_label_map_orders_class_folders_and_must_have_their_names(
    folders: dict[str, Path],
) -> None:
    inputs = open_job(folders, labels="dog,cat")
    assert inputs.labels.names == ("dog", "cat")
    assert inputs.training.class_indices.tolist() == [1, 0]
    with pytest.raises(DataError, match=r"1 missing or without an image: \['eel'\]"):
        open_job(folders, labels="dog,eel")


def test_a_class_may_be_absent_from_validation_and_counts_as_0_images(
    folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    (folders["validation"] / "dog" / "1.jpg").unlink()
    for names in (None, "cat,dog"):
        inputs = open_job(folders, labels=names)
        assert inputs.validation.class_indices.tolist() == [0]
        assert inputs.class_counts["validation"] == [1, 0]
        assert "Channel validation: no images of dog: they count as 0 images" in caplog.text
        caplog.clear()


def test_a_class_that_only_validation_has_is_an_error_with_the_cure(
    folders: dict[str, Path], jpeg: bytes
) -> None:
    (folders["validation"] / "Dogs").mkdir()
    (folders["validation"] / "Dogs" / "1.jpg").write_bytes(jpeg)
    with pytest.raises(
        DataError, match=r"1 unknown: \['Dogs'\] \(did you mean 'dog'\?\)"
    ) as raised:
        open_job(folders)
    assert "rename the unknown folders, move them away, or train a model" in str(raised.value)


def test_a_class_may_be_absent_from_training_only_if_a_labels_file_is_there(
    folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DataError, match=r"1 missing .*put a labels\.json with all 3 names into"):
        open_job(folders, labels="cat,dog,eel", num_classes=3)
    for folder in folders.values():
        LabelMap(("cat", "dog", "eel")).write(folder / "labels.json")
    assert open_job(folders, num_classes=3).class_counts["train"] == [1, 1, 0]
    assert "Channel train: no images of eel: the model cannot learn them" in caplog.text


@pytest.mark.parametrize(
    "lines",
    [
        "0\t0\ta/1.jpg\n1\t0\tb/2.jpg\n",  # a class in two folders
        "0\t0\ta/1.jpg\n1\t1\ta/2.jpg\n",  # a folder of two classes
        "0\t0\t1.jpg\n1\t1\tb/2.jpg\n",  # an image without a folder
        "0\t0\ta/1.jpg\n1\t2\tb/2.jpg\n",  # class 1 does not occur
        "0\t0.5\ta/1.jpg\n",
        "",
    ],
)
def test_folders_with_several_classes_each_name_no_class(tmp_path: Path, lines: str) -> None:
    (tmp_path / "x.lst").write_text(lines)
    assert not LabelMap.from_folders(read_list(tmp_path / "x.lst"))


def test_folders_in_a_windows_list_name_the_classes() -> None:
    entries = [ListEntry(0, (1.0,), r"data\dog\1.jpg"), ListEntry(1, (0.0,), "data/cat/2.jpg")]
    assert LabelMap.from_folders(entries) == LabelMap(("cat", "dog"))
