"""A job's channels become sources: lists, shards, manifests, multiple labels."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from image_classification.contract.channels import ChannelInput
from image_classification.contract.interface import INTERFACES
from image_classification.errors import ChannelError, DataError, ListError
from image_classification.records.format import RecordHeader, pack_image_record
from image_classification.records.writer import RecordWriter
from image_classification.training.inputs import Inputs, open_inputs
from image_classification.training.settings import settings_of

LINES = "0\t0.000000\tcat/1.jpg\n1\t1\tdog/2.jpg\n\n2\t1.0\tdog/3.jpg\n"


def open_job(
    root: Path, *names: str, interface: str = "mxnet", **hyperparameters: object
) -> Inputs:
    text = {name: str(value) for name, value in hyperparameters.items()}
    settings = settings_of(INTERFACES[interface].parse(text))
    channels = {name: ChannelInput(name, root / name) for name in names}
    return open_inputs(channels, settings, INTERFACES[interface].training_channel)


def write_images(folder: Path, jpeg: bytes) -> None:
    for name in ("cat/1.jpg", "dog/2.jpg", "dog/3.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg)


@pytest.fixture
def listed(tmp_path: Path, jpeg: bytes) -> Path:
    """The four channels of images and lists."""
    for name in ("train", "validation"):
        write_images(tmp_path / name, jpeg)
        (tmp_path / f"{name}_lst").mkdir()
        (tmp_path / f"{name}_lst" / "any.lst").write_text(LINES)
    return tmp_path


ALL = ("train", "validation", "train_lst", "validation_lst")


def test_a_list_gives_each_image_its_class(listed: Path, jpeg: bytes) -> None:
    inputs = open_job(listed, *ALL, num_classes=2, num_training_samples=3)
    assert inputs.labels.names == ("cat", "dog")
    assert inputs.training.class_indices.tolist() == [0, 1, 1]
    assert inputs.training.key(2) == "dog/3.jpg"
    sample = inputs.training.read(2)
    assert (sample.class_index, sample.data) == (1, jpeg)
    assert not inputs.packed


def test_paths_in_a_list_can_begin_with_more_folders(listed: Path) -> None:
    lines = LINES.replace("\tcat", "\ttrain/cat").replace("\tdog", "\t./data/train/dog")
    (listed / "train_lst" / "any.lst").write_text(lines)
    inputs = open_job(listed, *ALL)
    assert [inputs.training.key(i) for i in range(3)] == ["cat/1.jpg", "dog/2.jpg", "dog/3.jpg"]


def test_a_missing_image_of_the_list_is_an_error_about_that_image(listed: Path) -> None:
    (listed / "train" / "dog" / "3.jpg").unlink()
    inputs = open_job(listed, *ALL)
    with pytest.raises(DataError, match=r"train/dog/3.jpg cannot be read: No such file"):
        inputs.training.read(2)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("0 0 cat/1.jpg\n", "separate the fields with TABs"),
        ("0\tcat\tcat/1.jpg\n", "expected numbers as labels"),
        ("0\t0.5\tcat/1.jpg\n", "expected one class number"),
        ("", "got an empty file"),
    ],
)
def test_a_bad_list_names_channel_and_line(listed: Path, lines: str, reason: str) -> None:
    (listed / "train_lst" / "any.lst").write_text(lines)
    with pytest.raises(ListError, match=f"Invalid lst file in the train channel: .*{reason}"):
        open_job(listed, *ALL)


def test_a_list_channel_has_exactly_one_list(listed: Path) -> None:
    (listed / "train_lst" / "other.lst").write_text(LINES)
    with pytest.raises(ChannelError, match=r"channel train_lst: expected exactly one .lst file"):
        open_job(listed, *ALL)


def test_a_class_of_the_list_beyond_num_classes_is_refused(listed: Path) -> None:
    (listed / "train_lst" / "any.lst").write_text(LINES.replace("1.0", "2"))
    with pytest.raises(DataError, match="num_classes is 2"):
        open_job(listed, *ALL, num_classes=2)


def test_a_labels_file_names_the_classes_of_a_list(listed: Path) -> None:
    (listed / "train_lst" / "labels.json").write_text('{"labels": ["feline", "canine"]}')
    assert open_job(listed, *ALL).labels.names == ("feline", "canine")


def test_one_image_per_class_leaves_none_to_hold_out_and_the_cure_is_named(
    tmp_path: Path, jpeg: bytes
) -> None:
    for name in ("cat/1.jpg", "dog/2.jpg"):
        (tmp_path / "train" / name).parent.mkdir(parents=True)
        (tmp_path / "train" / name).write_bytes(jpeg)
    with pytest.raises(ChannelError, match="each of the 2 images is alone in its class; add"):
        open_job(tmp_path, "train", validation_split_ratio=0.5)


@pytest.mark.parametrize("has_index", [True, False])
def test_shards_of_a_channel_are_one_source_with_and_without_indices(
    tmp_path: Path, jpeg: bytes, has_index: bool
) -> None:
    for name in ("train", "validation"):
        (tmp_path / name).mkdir()
        for shard in range(3):
            path = tmp_path / name / f"part-{shard}.rec"
            with RecordWriter(path) as writer:
                for number in range(4):
                    header = RecordHeader(number % 2, 4 * shard + number)
                    writer.write(pack_image_record(header, jpeg), header.id)
            if not has_index:
                path.with_suffix(".idx").unlink()
    inputs = open_job(tmp_path, "train", "validation", num_classes=2)
    assert len(inputs.training) == 12
    assert inputs.training.key(5) == "part-1.rec#5"


def manifest_channels(tmp_path: Path, jpeg: bytes, labels: list[object]) -> Path:
    for name in ("train", "validation"):
        write_images(tmp_path / name, jpeg)
        paths = ("cat/1.jpg", "dog/2.jpg", "dog/3.jpg")
        lines = [
            json.dumps({"source-ref": f"s3://bucket/pets/{path}", "pets": label})
            for path, label in zip(paths, labels, strict=True)
        ]
        (tmp_path / name / "pets.manifest").write_text("\n".join(lines))
    return tmp_path


def test_a_manifest_next_to_the_images_gives_their_classes(tmp_path: Path, jpeg: bytes) -> None:
    root = manifest_channels(tmp_path, jpeg, [0, "1", 1.0])
    inputs = open_job(root, "train", "validation", num_classes=2)
    assert inputs.training.class_indices.tolist() == [0, 1, 1]
    assert inputs.labels.names == ("0", "1")
    assert np.array_equal(inputs.validation.class_indices, inputs.training.class_indices)


def test_records_with_several_labels_name_the_hyperparameter_to_set(
    tmp_path: Path, jpeg: bytes
) -> None:
    (tmp_path / "train").mkdir()
    with RecordWriter(tmp_path / "train" / "faces.rec") as writer:
        writer.write(pack_image_record(RecordHeader((1.0, 0.0), 0), jpeg), 0)
    message = (
        "got 2 in record 0 .*each image has a 0 or 1 for every class and a single 1: .*_label=1$"
    )
    with pytest.raises(DataError, match=message):
        open_job(tmp_path, "train", validation_split_ratio=0.5)


BOX = (2.0, 5.0, 1.0, 0.1, 0.1, 0.5, 0.5)


@pytest.mark.parametrize("given", [{}, {"multi_label": 1}, {"multi_label": 1, "num_classes": 2}])
@pytest.mark.parametrize(
    ("labels", "named"),
    [
        ([(4.0, 5.0), (0.0, 0.0), (0.0, 0.0), (1.0, 4.0)], "inspect .*faces.rec --extract DIR"),
        ([(4.0, 5.0), 0.0, 0.0, (1.0, 4.0)], "inspect .*faces.rec --extract DIR"),
        ([BOX, (*BOX, *BOX[2:]), BOX], "labels for object detection"),
        ([(13.0, 25.0), (4.0, 25.0)], "neither one class nor a 0 or 1 for every class"),
    ],
)
def test_records_for_other_tasks_are_recognized_and_no_hyperparameter_is_advised(
    tmp_path: Path, jpeg: bytes, labels: list[Any], named: str, given: dict[str, int]
) -> None:
    (tmp_path / "train").mkdir()
    indexes = {(4.0, 5.0), (1.0, 4.0)}
    with RecordWriter(tmp_path / "train" / "faces.rec") as writer:
        for number, label in enumerate(labels):
            content = b"" if label in indexes else jpeg
            writer.write(pack_image_record(RecordHeader(label, number), content), number)
    with pytest.raises(DataError, match=named) as caught:
        open_job(tmp_path, "train", validation_split_ratio=0.5, **given)
    message = str(caught.value)
    assert "multi_label=1" not in message and "must match the data" not in message


def pack_numbers(folder: Path, jpeg: bytes, *numbers: int) -> None:
    folder.mkdir()
    with RecordWriter(folder / "data.rec") as writer:
        for index, number in enumerate(numbers):
            writer.write(pack_image_record(RecordHeader(number, index), jpeg), index)


def put(jpeg: bytes, *paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg)


ONE_CLASS = "expected at least two classes, but all {} images are of the class {}; "


@pytest.mark.parametrize(("interface", "channel"), [("mxnet", "train"), ("tensorflow", "training")])
def test_folders_of_one_class_are_an_error_in_both_interfaces(
    tmp_path: Path, jpeg: bytes, interface: str, channel: str
) -> None:
    put(jpeg, tmp_path / channel / "images" / "1.jpg", tmp_path / channel / "images" / "2.jpg")
    with pytest.raises(ChannelError, match=ONE_CLASS.format(2, "'images'") + "add images of an"):
        open_job(tmp_path, channel, interface=interface, validation_split_ratio=0.5)


def test_a_folder_around_the_class_folders_is_named_with_the_folder_to_give(
    tmp_path: Path, jpeg: bytes
) -> None:
    put(jpeg, *(tmp_path / "train" / "flowers" / name / "1.jpg" for name in ("daisy", "rose")))
    with pytest.raises(ChannelError, match=r"if its 2 subfolders \(daisy, rose\) are the classes"):
        open_job(tmp_path, "train", validation_split_ratio=0.5)


def test_a_list_records_and_a_manifest_of_one_class_are_errors(listed: Path, jpeg: bytes) -> None:
    for name in ("train", "validation"):
        (listed / f"{name}_lst" / "any.lst").write_text("0\t0\tcat/1.jpg\n1\t0\tdog/2.jpg\n")
    with pytest.raises(ChannelError, match=ONE_CLASS.format(2, "'0'") + ".*number of its class"):
        open_job(listed, *ALL)
    for name, numbers in (("train", (1, 1)), ("validation", (0, 1))):
        pack_numbers(listed / f"{name}-rec", jpeg, *numbers)
    channels = {
        name: ChannelInput(name, listed / f"{name}-rec") for name in ("train", "validation")
    }
    settings = settings_of(INTERFACES["mxnet"].parse({"num_classes": "2"}))
    with pytest.raises(ChannelError, match=ONE_CLASS.format(2, "'1'")):
        open_inputs(channels, settings, "train")
    manifest_channels(listed, jpeg, [0, 0, 0])
    with pytest.raises(ChannelError, match=ONE_CLASS.format(3, "'0'")):
        open_job(listed, "train", "validation")


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((1, 2, 3), "4 classes; the labels are 1 to 3, so no image has 0: .*subtract 1"),
        ((0, 7, 9), "10 classes; the labels are 0, 7, 9, so no image has 1 to 6, 8: .*0 to 2"),
    ],
)
def test_numbers_that_do_not_count_from_0_are_named_in_the_log_and_by_num_classes(
    tmp_path: Path,
    jpeg: bytes,
    caplog: pytest.LogCaptureFixture,
    numbers: tuple[int, ...],
    said: str,
) -> None:
    for name in ("train", "validation"):
        pack_numbers(tmp_path / name, jpeg, *numbers)
        (tmp_path / f"{name}-images").mkdir()
    open_job(tmp_path, "train", "validation")
    assert re.search(f"Channel train: {said}", caplog.text)
    with pytest.raises(DataError, match="must match the data; " + said.partition("; ")[2]):
        open_job(tmp_path, "train", "validation", num_classes=3)


def test_numbers_of_a_list_that_do_not_count_from_0_are_named_by_num_classes(
    listed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("train", "validation"):
        lines = LINES.replace("\t1.0\t", "\t2\t").replace("\t0.000000\t", "\t1\t")
        (listed / f"{name}_lst" / "any.lst").write_text(lines.replace("dog/2", "cat/2"))
        (listed / name / "cat" / "2.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"num_classes is 2; .*the labels are 1 to 2, .*subtract 1"):
        open_job(listed, *ALL, num_classes=2)
    open_job(listed, *ALL)
    assert "Channel train: 3 classes; the labels are 1 to 2, so no image has 0" in caplog.text


def test_split_folders_are_recognized_although_their_images_lie_deep_and_have_any_name(
    tmp_path: Path, jpeg: bytes
) -> None:
    for split in ("train", "val"):
        for name in ("cat/web/2024/1.jpe", "dog/ours/2024/1"):
            put(jpeg, tmp_path / "train" / split / name)
    inputs = open_job(tmp_path, "train")
    assert inputs.labels.names == ("cat", "dog")
    assert (len(inputs.training), len(inputs.validation)) == (2, 2)


def test_class_folders_named_like_lists_records_and_manifests_are_classes(
    tmp_path: Path, jpeg: bytes
) -> None:
    names = ("a.lst", "b.manifest", "c.rec", "labels.json")
    put(jpeg, *(tmp_path / "train" / name / f"{n}.jpg" for name in names for n in range(2)))
    assert open_job(tmp_path, "train", validation_split_ratio=0.5).labels.names == names


def test_a_class_without_a_usable_file_ends_the_job_before_it_trains(
    tmp_path: Path, jpeg: bytes
) -> None:
    put(jpeg, *(tmp_path / "train" / name / "1.jfif" for name in ("cat", "dog")))
    put(b"\x01\x02", tmp_path / "train" / "owl" / "1.raw")
    with pytest.raises(DataError, match=r"no file of these can be used: 'owl' \(1 \.raw file "):
        open_job(tmp_path, "train", validation_split_ratio=0.5)


def test_classes_whose_names_are_nearly_the_same_are_logged(
    tmp_path: Path, jpeg: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    put(jpeg, *(tmp_path / "train" / name / f"{n}.jpg" for name in ("Cat", "cat") for n in (1, 2)))
    open_job(tmp_path, "train", validation_split_ratio=0.5)
    assert "Classes 'Cat' and 'cat' (the same but for upper and lower case): are th" in caplog.text
