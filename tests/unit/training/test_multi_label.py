"""Multiple labels per image: targets, loss, accuracy and the served answers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import onnxruntime

from image_classification import backends
from image_classification.backends.base import ModelSpec, OptimizerSpec, World
from image_classification.contract.channels import ChannelInput
from image_classification.contract.interface import INTERFACES
from image_classification.errors import ChannelError, DataError, HyperparameterError, ListError
from image_classification.labels.label_map import LabelMap
from image_classification.loading.records import RecordSource
from image_classification.records.format import RecordHeader, pack_image_record
from image_classification.records.writer import RecordWriter
from image_classification.serving.codec.accept import Accept
from image_classification.serving.codec.answers import Prediction, encode
from image_classification.training.evaluation import (
    Outcomes,
    confusions,
    metrics_of,
    per_class,
    positive_weights,
    sigmoid,
)
from image_classification.training.inputs import Inputs, open_inputs
from image_classification.training.settings import settings_of
from image_classification.training.step import smooth_labels
from tests.unit.backends.torch_cases import change, make_batch

ROWS = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]], np.uint8)


# ---- the loss


def build(**fields: Any) -> Any:
    spec: ModelSpec = change(multi_label=True, **fields)
    return backends.load("torch").build(spec, OptimizerSpec(), World(threads=1))


def multi_batch() -> Any:
    return dataclasses.replace(make_batch(size=4), targets=ROWS.astype(np.float32))


@pytest.mark.parametrize("weights", [(), (0.5, 3.0, 1.0, 2.0)])
def test_the_loss_is_the_mean_binary_cross_entropy_of_the_formula(
    weights: tuple[float, ...],
) -> None:
    loss, logits = build(positive_weights=weights).train_step(multi_batch(), 0.0).fetch()
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    present = -np.log(p) * np.array(weights or (1.0,) * 4)
    expected = np.where(ROWS, present, -np.log(1 - p)).mean()
    assert loss == pytest.approx(expected, rel=1e-5)


def test_samples_of_weight_0_are_not_in_the_loss() -> None:
    batch = multi_batch()
    part = dataclasses.replace(batch, weights=np.array([1, 1, 0, 0], np.float32))
    loss, logits = build().train_step(part, 0.0).fetch()
    p = 1 / (1 + np.exp(-logits[:2].astype(np.float64)))
    assert loss == pytest.approx(np.where(ROWS[:2], -np.log(p), -np.log(1 - p)).mean(), rel=1e-5)


def test_training_steps_learn_multiple_labels_per_image() -> None:
    engine, batch = build(), multi_batch()
    for _ in range(60):
        engine.train_step(batch, 0.1)
    _, logits = engine.train_step(batch, 0.0).fetch()
    assert ((logits > 0) == ROWS).all()


def test_the_exported_graph_gives_sigmoids(tmp_path: Path) -> None:
    engine, batch = build(), multi_batch()
    for _ in range(30):  # untrained, one class may have nearly all
        engine.train_step(batch, 0.1)
    engine.export(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (probabilities,) = session.run(["probabilities"], {"images": batch.images})
    assert np.abs(probabilities - sigmoid(engine.predict_step(batch.images))).max() < 1e-5
    assert np.abs(probabilities.sum(axis=1) - 1).max() > 0.1


def test_positive_weights_balance_images_with_and_without_a_class() -> None:
    assert positive_weights(ROWS) == (1 / 3, 3.0, 1.0, 1.0)


def test_multi_hot_rows_are_their_own_targets() -> None:
    targets = smooth_labels(ROWS.astype(np.int64), 4)
    assert targets.dtype == np.float32 and np.array_equal(targets, ROWS)


# ---- the figures


def test_accuracy_is_the_share_of_correct_decisions_over_classes() -> None:
    p = np.array(
        [[0.9, 0.2, 0.4, 0.1], [0.6, 0.1, 0.1, 0.1], [0.5, 0.5, 0.5, 0.49], [0.1, 0.9, 0, 0]],
        np.float32,
    )
    outcomes = Outcomes(("a", "b", "c", "d"), ROWS, p)
    measured = metrics_of(outcomes)
    right = np.array([[1, 1, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]])
    assert measured["accuracy"] == right.mean() == right.mean(axis=0).mean()
    q = np.clip(np.where(ROWS, p.astype(np.float64), 1 - p.astype(np.float64)), 1e-12, None)
    assert measured["loss"] == pytest.approx(-np.log(q).mean(), rel=1e-6)
    assert confusions(outcomes) == {}
    rows = per_class(outcomes, ("w", "x", "y", "z"))
    assert rows[0] == {"label": "w", "samples": 3, "recall": 2 / 3, "precision": 2 / 3}
    assert rows[3] == {"label": "z", "samples": 0, "recall": None, "precision": None}


def test_a_probability_of_nan_is_never_correct() -> None:
    outcomes = Outcomes(("a",), ROWS[:1], np.full((1, 4), np.nan, np.float32))
    assert metrics_of(outcomes)["accuracy"] == 0.0


def test_a_sigmoid_does_not_overflow() -> None:
    assert sigmoid(np.array([[-1e4, 0.0, 1e4]], np.float32)).tolist() == [[0.0, 0.5, 1.0]]


def test_a_verbose_answer_names_every_class_above_a_half() -> None:
    p = np.array([0.6, 0.2, 0.9], np.float32)
    prediction = Prediction(p, LabelMap(("cat", "dog", "hat")), is_multi_label=True)
    form = INTERFACES["mxnet"].answers
    body, _ = encode([prediction], False, Accept("application/json", is_verbose=True), form)
    assert json.loads(body)["predicted_labels"] == ["cat", "hat"]
    plain, _ = encode([prediction], False, Accept("application/json"), form)
    assert json.loads(plain) == pytest.approx(p.tolist())


# ---- the data


def write_records(path: Path, jpeg: bytes, rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with RecordWriter(path) as writer:
        for number, row in enumerate(rows):
            label = tuple(float(v) for v in row) if np.ndim(row) else float(row)
            writer.write(pack_image_record(RecordHeader(label, number), jpeg), number)
    return path


def test_records_with_a_label_for_every_class_are_read_as_rows(tmp_path: Path, jpeg: bytes) -> None:
    magic = (0xCED7230A).to_bytes(4, "little")  # makes a record of several parts
    paths = [
        write_records(tmp_path / "one.rec", jpeg, ROWS[:2]),
        write_records(tmp_path / "two.rec", b"\0" * 8 + magic + b"\0" * 3, ROWS[2:]),
    ]
    source = RecordSource(paths, is_multi_label=True)
    assert source.multi_hot is not None and np.array_equal(source.multi_hot, ROWS)
    assert source.class_indices.tolist() == [0, 4, 0, 0]
    row = source.read(2).multi_hot
    assert row is not None and row.tolist() == [1, 1, 1, 0]
    source.close()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [1, 0],
            "a 0 or 1 .* got one class number in record 0 .* leave out multi_label, .*--pack-label",
        ),
        ([[1, 0], [1, 0, 1]], "expected 2 labels .* got 3 in record 1"),
        ([[1, 0], [0, 2]], r"expected labels that are 0 or 1, got \[0.0, 2.0\] in record 1"),
    ],
)
def test_records_with_invalid_labels_are_refused(
    tmp_path: Path, jpeg: bytes, rows: list[Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        RecordSource([write_records(tmp_path / "x.rec", jpeg, rows)], is_multi_label=True)


def open_job(root: Path, *names: str, label_format: str = "", **given: object) -> Inputs:
    text = {name: str(value) for name, value in ({"multi_label": 1} | given).items()}
    settings = settings_of(INTERFACES["mxnet"].parse(text))
    channels = {name: ChannelInput(name, root / name, label_format=label_format) for name in names}
    return open_inputs(channels, settings, "train")


def test_num_classes_must_be_the_width_of_the_records(tmp_path: Path, jpeg: bytes) -> None:
    for name in ("train", "validation"):
        write_records(tmp_path / name / "x.rec", jpeg, ROWS)
    inputs = open_job(tmp_path, "train", "validation", labels="w,x,y,z")
    assert inputs.labels.names == ("w", "x", "y", "z")
    with pytest.raises(DataError, match="an image has 4 labels of 0 or 1, but there are 3 classes"):
        open_job(tmp_path, "train", "validation", num_classes=3)
    held_out = open_job(tmp_path, "train", validation_split_ratio=0.5)
    assert held_out.validation.multi_hot is not None
    assert len(held_out.training) + len(held_out.validation) == 4


def lists_and_images(root: Path, jpeg: bytes, lines: str) -> None:
    for name in ("train", "validation"):
        for number in range(3):
            path = root / name / "all" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg)
        (root / f"{name}_lst").mkdir()
        (root / f"{name}_lst" / "x.lst").write_text(lines)


def test_a_list_has_a_column_for_every_class(tmp_path: Path, jpeg: bytes) -> None:
    lists_and_images(
        tmp_path, jpeg, "0\t1\t0.0\tall/0.jpg\n1\t1\t1\tall/1.jpg\n2\t0\t0\tall/2.jpg\n"
    )
    names = ("train", "validation", "train_lst", "validation_lst")
    inputs = open_job(tmp_path, *names, num_classes=2)
    assert inputs.training.multi_hot is not None
    assert inputs.training.multi_hot.tolist() == [[1, 0], [1, 1], [0, 0]]
    assert inputs.training.key(1) == "all/1.jpg"
    (tmp_path / "train_lst" / "x.lst").write_text("0\t3\tall/0.jpg\n")
    with pytest.raises(ListError, match=r"Invalid lst file in the train channel.*columns 0 or 1"):
        open_job(tmp_path, *names, num_classes=2)


@pytest.mark.parametrize(
    ("label_format", "labels"),
    [("multi-hot", ([1, 0, 1], "[0, 1, 0]")), ("class-id", ([0, 2], [1]))],
)
def test_a_manifest_has_vectors_or_class_numbers(
    tmp_path: Path, jpeg: bytes, label_format: str, labels: tuple[object, ...]
) -> None:
    for name in ("train", "validation"):
        (tmp_path / name).mkdir()
        lines = []
        for number, label in enumerate(labels):
            (tmp_path / name / f"{number}.jpg").write_bytes(jpeg)
            lines.append(json.dumps({"source-ref": f"s3://b/{number}.jpg", "tags": label}))
        (tmp_path / name / "tags.manifest").write_text("\n".join(lines))
    inputs = open_job(tmp_path, "train", "validation", label_format=label_format, num_classes=3)
    assert inputs.training.multi_hot is not None
    assert inputs.training.multi_hot.tolist() == [[1, 0, 1], [0, 1, 0]]


def test_class_folders_cannot_give_multiple_labels(tmp_path: Path, jpeg: bytes) -> None:
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "1.jpg").write_bytes(jpeg)
    with pytest.raises(ChannelError, match=r"class folders give an image one class.* 1 \.jpg file"):
        open_job(tmp_path, "train", "train", num_classes=2)


@pytest.mark.parametrize("table", ["labels.csv", "tags.tsv", "x.jsonl", "_annotations.coco.json"])
@pytest.mark.parametrize("folder", ["", "images"])
def test_images_and_a_table_of_several_classes_are_refused_with_the_command_that_packs_them(
    tmp_path: Path, jpeg: bytes, table: str, folder: str
) -> None:
    channel = tmp_path / "train"
    (channel / folder).mkdir(parents=True)
    (channel / folder / "1.jpg").write_bytes(jpeg)
    (channel / table).write_text("file,labels\n1.jpg,cat|dog\n")
    with pytest.raises(ChannelError) as caught:
        open_job(tmp_path, "train", "train", num_classes=2)
    command = f"image-classification preprocess --input {channel} --list {channel / table} --output"
    assert command in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"multi_label": 0, "use_weighted_loss": 1}, "use_weighted_loss=1 works only with"),
        ({"top_k": 2}, "top_k=2 with multi_label=1"),
        ({"label_smoothing": 0.1}, "label_smoothing=0.1 with multi_label=1"),
    ],
)
def test_settings_that_have_no_meaning_with_multiple_labels_are_refused(
    tmp_path: Path, given: dict[str, object], message: str
) -> None:
    with pytest.raises(HyperparameterError, match=message):
        open_job(tmp_path, "train", **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"class_weights": "effective"}, "class_weights=effective with multi_label=1"),
        ({"balanced_sampling": "1"}, "balanced_sampling=True with multi_label=1"),
    ],
)
def test_settings_that_need_one_class_per_image_are_refused(
    given: dict[str, str], message: str
) -> None:
    values = INTERFACES["mxnet"].parse({"multi_label": "1"} | given)
    with pytest.raises(HyperparameterError, match=message):
        settings_of(values)
