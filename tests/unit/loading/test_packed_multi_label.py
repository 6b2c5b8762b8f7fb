"""Images of several classes in TFRecord files and tar shards: every spelling is the same labels."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from image_classification.artifact import read_artifact
from image_classification.cli import main
from image_classification.contract.channels import ChannelInput
from image_classification.contract.interface import INTERFACES
from image_classification.errors import ArtifactError, DataError, LabelError, SeveralLabelsError
from image_classification.evaluate import open_labeled
from image_classification.inventory.folders import take_inventory
from image_classification.labels.label_map import LabelMap
from image_classification.labels.lists import read_list
from image_classification.loading.packed import PackedSource, find_packed
from image_classification.prepare.channels import ChannelPlan, write_channels
from image_classification.prepare.check.subsets import find_subsets
from image_classification.records.tfrecord import encode_field
from image_classification.training.checkpoint import Checkpoint, Checkpoints
from image_classification.training.inputs import Inputs, open_inputs
from image_classification.training.settings import settings_of
from tests.contract.jobs import write_job
from tests.unit.loading.test_packed_sources import (
    JPEGS,
    feature,
    parquet,
    samples_of,
    shard,
    tfrecord,
)

pytest.importorskip("google_crc32c", reason="pip install google-crc32c")

NAMES = ("cat", "dog", "emu")
ROWS = ((1, 0, 1), (0, 0, 0), (0, 1, 0), (1, 1, 1), (0, 0, 1), (1, 0, 0))
SAMPLES = len(ROWS)


def numbers(row: Sequence[int]) -> list[int]:
    return [number for number, value in enumerate(row) if value]


def names(row: Sequence[int]) -> list[str]:
    return [NAMES[number] for number in numbers(row)]


def encoded(row: Sequence[int]) -> list[bytes]:
    return [name.encode() for name in names(row)]


def records(label: Callable[[Sequence[int]], dict[str, object]]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        examples = [{"image/encoded": JPEGS[n]} | label(row) for n, row in enumerate(ROWS)]
        tfrecord(folder / "a.tfrecord", *examples)  # type: ignore[arg-type]

    return write


def floats(folder: Path) -> None:
    image = [feature("image", 1, encode_field(1, JPEGS[n])) for n in range(SAMPLES)]
    rows = [feature("label", 2, encode_field(1, struct.pack("<3f", *row))) for row in ROWS]
    pairs = zip(image, rows, strict=True)
    tfrecord(folder / "a.tfrecord", *(encode_field(1, a + b) for a, b in pairs))


def members(ending: str, text: Callable[[Sequence[int]], str]) -> Callable[[Path], None]:
    return lambda folder: (
        shard(folder / "a.tar", *samples_of(*map(text, ROWS), ending=ending)) and None
    )


def fields(label: Callable[[Sequence[int]], object]) -> Callable[[Path], None]:
    return members("json", lambda row: json.dumps(label(row)))


UNNAMED = {
    "numbers in a record": records(lambda row: {"image/class/label": numbers(row)}),
    "numbers in the feature labels": records(lambda row: {"labels": numbers(row)}),
    "a vector in a record": records(lambda row: {"label": list(row)}),
    "a vector of floats": floats,
    "JSON numbers in .cls": members("cls", lambda row: str(numbers(row))),
    "a JSON vector in .cls": members("cls", lambda row: str(list(row))),
    "a vector of NumPy in .cls": members("cls", lambda row: str(np.array(row))),
    "floats of NumPy in .cls": members("cls", lambda row: str(np.array(row, np.float32))),
    "a tensor of torch in .cls": members("cls", lambda row: f"tensor({list(row)})"),
    "blanks in .cls": members("cls", lambda row: " ".join(map(str, row))),
    "labels in .json": fields(lambda row: {"labels": numbers(row), "width": 30}),
    "a vector in .json": fields(lambda row: {"label": list(row)}),
    "a list as .json": fields(numbers),
    "truth values": fields(lambda row: {"targets": [bool(value) for value in row]}),
}
NAMED = {
    "numbers and names in a record": records(
        lambda row: {"image/class/label": numbers(row), "image/class/text": encoded(row)}
    ),
    "names in a record": records(lambda row: {"image/class/label": encoded(row)}),
    "names in the feature label": records(lambda row: {"label": encoded(row)}),
    "bars in a record": records(lambda row: {"label": ["|".join(names(row)).encode()] * any(row)}),
    "JSON names in .cls": members("cls", lambda row: json.dumps(names(row))),
    "Python names in .cls": members("cls", lambda row: str(names(row))),
    "bars in .cls": members("cls", lambda row: "|".join(names(row)) or "[]"),
    "names in .json": fields(lambda row: {"tags": names(row)}),
    "numbers and names in .json": fields(
        lambda row: {"labels": numbers(row), "label_names": names(row)}
    ),
    "an object in .json": fields(lambda row: {"labels": dict(zip(NAMES, row, strict=True))}),
}


def open_job(root: Path, *channels: str, **hyperparameters: object) -> Inputs:
    text = {name: str(value) for name, value in hyperparameters.items()}
    settings = settings_of(INTERFACES["mxnet"].parse(text))
    given = {name: ChannelInput(name, root / name) for name in channels}
    return open_inputs(given, settings, "train")


@pytest.mark.parametrize("form", UNNAMED | NAMED)
def test_a_job_its_validation_check_preprocess_and_evaluate_read_the_same_several_labels(
    tmp_path: Path, form: str
) -> None:
    for channel in ("train", "validation"):
        (UNNAMED | NAMED)[form](tmp_path / channel)
    inputs = open_job(tmp_path, "train", "validation", multi_label=1)
    expected = LabelMap(NAMES) if form in NAMED else LabelMap.numbered(3)
    assert inputs.labels == expected
    for source in (inputs.training, inputs.validation):
        assert source.multi_hot is not None and source.multi_hot.tolist() == [*map(list, ROWS)]
        assert source.class_indices.tolist() == [0, 3, 1, 0, 2, 0]
        sample = source.read(3)
        assert sample.data == JPEGS[3] and sample.multi_hot is not None
        assert sample.multi_hot.tolist() == [1, 1, 1]
    inventory = take_inventory(tmp_path / "train")
    assert inventory.is_multi_label and inventory.labels == expected
    assert [entry.labels for entry in inventory.entries] == [tuple(map(float, r)) for r in ROWS]
    (subset,) = find_subsets(tmp_path / "train")
    assert subset.multi_hot is not None and subset.multi_hot.tolist() == [*map(list, ROWS)]
    evaluated = open_labeled(tmp_path / "train", inputs.labels, is_multi_label=True)
    assert evaluated.multi_hot is not None and evaluated.multi_hot.tolist() == [*map(list, ROWS)]


@pytest.mark.parametrize(
    "form", ["numbers in a record", "JSON names in .cls", "a vector of floats"]
)
def test_several_labels_without_multi_label_are_refused_with_the_hyperparameter(
    tmp_path: Path, form: str
) -> None:
    for channel in ("train", "training", "validation"):
        (UNNAMED | NAMED)[form](tmp_path / channel)
    message = r"expected one class, got 2 labels .*; to learn all labels, set multi_label=1$"
    if form == "a vector of floats":
        message = message.replace("2 labels", "3 labels")
    with pytest.raises(LabelError, match=message):
        open_job(tmp_path, "train", "validation")
    settings = settings_of(INTERFACES["tensorflow"].parse({}))
    channels = {name: ChannelInput(name, tmp_path / name) for name in ("training", "validation")}
    with pytest.raises(LabelError, match="give it as the channel train and set multi_label=1"):
        open_inputs(channels, settings, "training")
    with pytest.raises(LabelError, match="the model predicts one class per image"):
        open_labeled(tmp_path / "train", LabelMap(NAMES))


def test_numbers_and_a_vector_are_told_apart_by_all_images_and_the_number_of_classes(
    tmp_path: Path,
) -> None:
    def rows_of(*labels: str, **options: object) -> list[list[int]]:
        path = shard(tmp_path / "a.tar", *samples_of(*labels))
        source = PackedSource([path], is_multi_label=True, **options)  # type: ignore[arg-type]
        assert source.multi_hot is not None
        found: list[list[int]] = source.multi_hot.tolist()
        return found

    assert rows_of("[0, 1]", "[1, 0]", "[1, 1]") == [[0, 1], [1, 0], [1, 1]]
    assert rows_of("[0, 1]", "[1, 2]") == [[1, 1, 0], [0, 1, 1]]
    assert rows_of("[0, 1]", "[0, 1]", classes=3) == [[1, 1, 0], [1, 1, 0]]
    assert rows_of("[0, 1]", "[0]") == [[1, 1], [1, 0]]
    assert rows_of("[0, 1]", "[1, 0]", label_format="class-id") == [[1, 1], [1, 1]]
    assert rows_of("[0, 1]", "[0, 1]", label_format="multi-hot") == [[0, 1], [0, 1]]
    assert rows_of("2", "[0, 1]") == [[0, 0, 1], [1, 1, 0]]
    with pytest.raises(LabelError, match=r"labels \[0, 1\], .* label-format=class-id or label-"):
        rows_of("[0, 1]", "[0, 1]")
    with pytest.raises(LabelError, match=r"each once, or a 0 or 1 .* got \[1, 0, 1\] in a.tar"):
        rows_of("[1, 0, 1]", "[1, 0]")
    with pytest.raises(LabelError, match="not all images have equally many"):
        rows_of("[0, 2]", "[1]", label_format="multi-hot")
    with pytest.raises(DataError, match="found class 2, but there are 2 classes"):
        rows_of("[0, 2]", "[1]", classes=2)
    with pytest.raises(DataError, match="has 3 labels of 0 or 1, but there are 2 classes"):
        rows_of("[1, 0, 1]", "[0, 0, 1]", labels=LabelMap(("a", "b")))


def test_several_labels_that_are_no_classes_are_refused_with_the_reason(tmp_path: Path) -> None:
    for text, message in {
        "[0.3, 0.7]": r"expected class numbers \(whole numbers from 0\), .* got \[0.3, 0.7\]",
        "[0, -1]": r"got \[0, -1\]",
        '["cat", 1]': r"got \['cat', 1\]",
        "[[0, 1]]": r"got \[\[0, 1\]\]",
        "cat\ndog": r'several lines: expected one class, or several as a list \["a", "b"\]',
    }.items():
        with pytest.raises(LabelError, match=message):
            PackedSource([shard(tmp_path / "a.tar", *samples_of(text))], is_multi_label=True)
    mixed = shard(tmp_path / "a.tar", *samples_of("[0, 2]", '["cat", "dog"]'))
    with pytest.raises(LabelError, match="some images have class numbers, others names"):
        PackedSource([mixed], is_multi_label=True)
    commas = shard(tmp_path / "a.tar", *samples_of("cat, dog", "cat", '["cat", "dog"]'))
    with pytest.raises(LabelError, match=r"'cat, dog' is one class, or several\? Write .* \[\"cat"):
        PackedSource([commas], is_multi_label=True)
    tensor = tfrecord(tmp_path / "a.tfrecord", {"image": JPEGS[0], "label": b"\x08\t\x12\0\0"})
    with pytest.raises(LabelError, match=r"got bytes, .* serialized tensor; write .*int64_list"):
        PackedSource([tensor])
    columns = tfrecord(tmp_path / "a.tfrecord", {"image": JPEGS[0], "rust": 1, "scab": 0})
    with pytest.raises(LabelError, match=r"if rust, scab are classes .* one list into the feature"):
        PackedSource([columns], is_multi_label=True)


def test_vectors_with_a_single_1_are_one_class_unless_the_job_says_otherwise(
    tmp_path: Path,
) -> None:
    for channel in ("train", "validation"):
        shard(tmp_path / channel / "a.tar", *samples_of("[0, 0, 1]", "[0, 1, 0]", "[1, 0, 0]"))
    assert open_job(tmp_path, "train", "validation").training.class_indices.tolist() == [2, 1, 0]
    assert not take_inventory(tmp_path / "train").is_multi_label
    inputs = open_job(tmp_path, "train", "validation", multi_label=1)
    assert inputs.training.multi_hot is not None
    assert inputs.training.multi_hot.tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_an_image_without_a_class_is_one_only_where_images_have_several(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", *samples_of("[]", "0", "1"))
    with pytest.raises(SeveralLabelsError, match="expected one class, got no label"):
        PackedSource([path])
    source = PackedSource([path], is_multi_label=True)
    assert source.multi_hot is not None and source.multi_hot.tolist() == [[0, 0], [1, 0], [0, 1]]


def test_a_validation_channel_may_by_chance_have_one_class_per_image(tmp_path: Path) -> None:
    shard(tmp_path / "train" / "a.tar", *samples_of("[0, 2]", "[1]", "[0]"))
    shard(tmp_path / "validation" / "a.tar", *samples_of("1", "2"))
    inputs = open_job(tmp_path, "train", "validation", multi_label=1)
    assert inputs.validation.multi_hot is not None
    assert inputs.validation.multi_hot.tolist() == [[0, 1, 0], [0, 0, 1]]


def test_channels_of_several_classes_as_tfrecords_are_trained_checked_and_evaluated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx")
    folder = tmp_path / "in"
    labels = [json.dumps(names(ROWS[n % SAMPLES])) for n in range(12)]
    shard(folder / "a.tar", *samples_of(*labels))
    inventory = take_inventory(folder)
    plan = ChannelPlan(format="tfrecord", train_ratio=0.6)
    write_channels(inventory, tmp_path / "out", plan, lambda *_: None)
    source = PackedSource(find_packed(tmp_path / "out" / "train"), is_multi_label=True)
    assert source.labels == LabelMap(NAMES) and source.multi_hot is not None
    for n in range(len(source)):
        assert source.multi_hot[n].tolist() == list(
            ROWS[JPEGS.index(source.read(n).data) % SAMPLES]
        )
    settings = {"backend": "reference", "num_layers": 20, "image_shape": "3,28,28", "epochs": 1}
    settings |= {"mini_batch_size": 4, "multi_label": 1}
    given = [f"--set={name}={value}" for name, value in settings.items()]
    given += [f"--channel={name}={tmp_path / 'out' / name}" for name in ("train", "validation")]
    assert main(["train", *given, "--output", str(tmp_path / "model")]) == 0
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert manifest["classes"] == 3 and manifest["multi_label"] is True
    capsys.readouterr()
    assert main(["check", str(tmp_path / "out" / "train")]) in (0, 1)
    assert "train with multi_label=1" in capsys.readouterr().out
    shown = ["--model", str(tmp_path / "model"), "--data", str(tmp_path / "out" / "validation")]
    pytest.importorskip("onnxruntime")
    assert main(["evaluate", *shown]) == 0


def test_tables_of_hugging_face_with_lists_of_classes_become_channels_of_several_classes(
    tmp_path: Path,
) -> None:
    path = parquet(tmp_path / "a.parquet", [numbers(row) for row in ROWS])
    inventory = take_inventory(path.parent)
    assert inventory.labels == LabelMap.numbered(3) and inventory.multi_hot is not None
    assert inventory.multi_hot.tolist() == [*map(list, ROWS)]
    parquet(tmp_path / "a.parquet", [names(row) for row in ROWS])
    assert take_inventory(tmp_path).labels == LabelMap(NAMES)


@pytest.mark.parametrize("kind", ["tfrecord", "tar"])
def test_hosts_with_a_shard_each_number_the_classes_alike_and_share_no_image(
    tmp_path: Path, kind: str
) -> None:
    def write(folder: Path, first: int, labels: str) -> None:
        name = folder / f"{first}.{kind}"
        if kind == "tar":
            images = [(f"{first + n}.jpg", JPEGS[first + n]) for n in range(len(labels))]
            texts = [(f"{first + n}.cls", label.encode()) for n, label in enumerate(labels)]
            shard(name, *(member for pair in zip(images, texts, strict=True) for member in pair))
        else:
            pairs = enumerate(labels, start=first)
            tfrecord(name, *({"image": JPEGS[n], "label": text.encode()} for n, text in pairs))

    shards = ((0, "ab"), (2, "bc"), (4, "ca"))
    seen: dict[bytes, int] = {}
    for host, (first, labels) in enumerate(shards):
        root = tmp_path / str(host)
        write(root / "train", first, labels)
        write(root / "validation", 6, "abc")
        channels = {
            "train": ChannelInput("train", root / "train", is_sharded=True),
            "validation": ChannelInput("validation", root / "validation"),
        }
        settings = settings_of(INTERFACES["mxnet"].parse({}))
        inputs = open_inputs(channels, settings, "train", is_sharded=True)
        assert inputs.labels.names == ("a", "b", "c")
        for n in range(len(inputs.training)):
            sample = inputs.training.read(n)
            assert sample.data not in seen
            seen[sample.data] = sample.class_index
    written = [label for _, labels in shards for label in labels]
    assert seen == {JPEGS[n]: "abc".index(label) for n, label in enumerate(written)}


def test_user_files_that_are_git_lfs_pointers_name_git_lfs_pull(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    for name in ("train.lst", "labels.json", "manifest.json", "a.parquet", "a.tfrecord"):
        (tmp_path / name).write_text(pointer)
    with pytest.raises(DataError, match=r"train.lst: .* Git LFS pointer, .* git lfs pull"):
        read_list(tmp_path / "train.lst")
    with pytest.raises(DataError, match=r"labels.json: .* Git LFS pointer, .* git lfs pull"):
        LabelMap.read(tmp_path / "labels.json")
    with pytest.raises(ArtifactError, match=r"manifest.json: a Git LFS pointer, .* git lfs pull"):
        read_artifact(tmp_path)
    for name in ("a.parquet", "a.tfrecord"):
        with pytest.raises(DataError, match=r"a Git LFS pointer, .* git lfs pull"):
            PackedSource([tmp_path / name])


class Killed(BaseException):
    """The end of a process at any moment."""


@pytest.mark.parametrize("form", ["numbers in a record", "JSON numbers in .cls"])
def test_a_job_on_packed_files_killed_within_an_epoch_ends_with_the_weights_of_a_whole_one(
    tmp_path: Path,
    form: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("onnx")
    for channel in ("train", "validation"):
        UNNAMED[form](tmp_path / channel)
    job = {"backend": "reference", "num_layers": 20, "image_shape": "3,28,28", "epochs": 2}
    job |= {"mini_batch_size": 2, "multi_label": 1, "checkpoint_steps": 1, "num_classes": 3}
    channels = {name: tmp_path / name for name in ("train", "validation")}
    save, weights = Checkpoints.save, []
    for name, kills in (("whole", ()), ("killed", (1, 2))):
        base = write_job(tmp_path / name, job, channels)
        (base / "checkpoints").mkdir()
        for kill in kills:
            count = iter(range(kill))

            def save_or_end(self: Checkpoints, found: Checkpoint, count: Any = count) -> None:
                save(self, found)
                if next(count, None) is None:
                    raise Killed

            monkeypatch.setattr(Checkpoints, "save", save_or_end)
            with pytest.raises(Killed):
                main(["train", "--base-dir", str(base)])
        monkeypatch.setattr(Checkpoints, "save", save)
        assert main(["train", "--base-dir", str(base)]) == 0
        weights.append((base / "model" / "weights.safetensors").read_bytes())
    assert weights[0] == weights[1]
    lines = "".join(capsys.readouterr()).splitlines()
    resumed = [line.partition("Resumed ")[2] for line in lines if "Resumed " in line]
    assert resumed[0] == "in epoch 1 after step 2" and len(resumed) == 2


def test_the_name_next_to_a_vector_of_one_class_is_the_name_of_that_class(tmp_path: Path) -> None:
    classes = [2, 0, 1, 0, 2, 1]
    examples = [
        {
            "image/encoded": JPEGS[n],
            "image/class/label": [int(i == number) for i in range(3)],
            "image/class/text": NAMES[number].encode(),
        }
        for n, number in enumerate(classes)
    ]
    tfrecord(tmp_path / "a.tfrecord", *examples)
    source = PackedSource([tmp_path / "a.tfrecord"], is_multi_label=None)
    assert source.labels is not None and source.labels.names == NAMES
    assert source.class_indices.tolist() == classes
