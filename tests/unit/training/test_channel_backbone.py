"""When the model of the channel `model` is the job's backbone; no framework is needed to decide."""

from __future__ import annotations

import json
import logging
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from image_classification import backends
from image_classification.artifact import MANIFEST_FILE
from image_classification.contract.channels import ChannelInput
from image_classification.contract.paths import JobPaths
from image_classification.errors import BackendError, ChannelError, HyperparameterError
from image_classification.export import export_built_in
from image_classification.labels.label_map import LabelMap
from image_classification.training.backbone import (
    channel_backbone_folder,
    is_artifact,
    model_path,
)
from image_classification.training.initial_weights import _check_backbone, channel_weights
from image_classification.training.request import JobRequest, read_request
from tests.contract.jobs import write_job
from tests.unit.backends.built_in_archive import write_archive


@pytest.fixture
def saved_model(tmp_path: Path) -> Path:
    """As a job of the TensorFlow built-in has it; its content does not matter here."""
    (tmp_path / "base" / "1").mkdir(parents=True)
    (tmp_path / "base" / "1" / "saved_model.pb").write_bytes(b"graph")
    return tmp_path / "base"


def request(tmp_path: Path, model: Path, channel: str = "training", **given: Any) -> JobRequest:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    (tmp_path / "images").mkdir(exist_ok=True)
    channels = {channel: tmp_path / "images", "model": model}
    return read_request(JobPaths(write_job(folder, given, channels)))


def test_a_saved_model_is_the_backbone_of_the_backend_that_can_start_from_it(
    tmp_path: Path, saved_model: Path
) -> None:
    def backbone(**given: Any) -> str:
        return request(tmp_path, saved_model, **given).settings.backbone.name

    assert backbone(backend="tensorflow") == "saved_model"
    assert backbone(backend="tensorflow", backbone="resnet20") == "resnet20"
    assert backbone(backend="torch") == backbone(backend="mxnet") == "efficientnet_lite0"
    mxnet = {"num_classes": 2, "num_training_samples": 8, "num_layers": 20}
    assert backbone(backend="tensorflow", channel="train", **mxnet) == "resnet20"


def test_the_preprocessing_is_that_of_the_channel_backbone(
    tmp_path: Path, saved_model: Path
) -> None:
    images = request(tmp_path, saved_model, backend="tensorflow").settings.preprocessing
    assert (images.mean, images.std) == ((0.0,) * 3, (255.0,) * 3)


def test_an_artifact_in_the_channel_is_not_a_backbone(tmp_path: Path, saved_model: Path) -> None:
    (saved_model / MANIFEST_FILE).write_text(json.dumps({}))
    assert request(tmp_path, saved_model, backend="tensorflow").settings.backbone.name != (
        "saved_model"
    )
    asked = request(tmp_path, saved_model, backend="tensorflow", backbone="saved_model")
    with pytest.raises(
        ChannelError, match="no job can start from it; give this job the SavedModel"
    ):
        with channel_backbone_folder(asked.settings.backbone, asked.channels["model"]):
            pass


def test_the_head_of_a_saved_model_cannot_be_kept(tmp_path: Path, saved_model: Path) -> None:
    asked = request(tmp_path, saved_model, backend="tensorflow", reinitialize_top_layer="False")
    with pytest.raises(ChannelError, match="no job can continue from the head"):
        channel_weights(asked.settings, LabelMap(("a", "b")), asked.channels["model"])


def tuned(saved_model: Path, *names: str, **info: Any) -> Path:
    """As a job of the built-in leaves it."""
    given = {"image_size": [32, 32], "finetuned": True, **info}
    (saved_model / "__model_info__.json").write_text(json.dumps(given))
    (saved_model / "labels_info.json").write_text(json.dumps({"labels": names}))
    return saved_model


@pytest.mark.parametrize(
    ("names", "rule", "order"),
    [
        (("a", "b", "c"), "Auto", [0, 1, 2]),
        (("c", "a", "b"), "False", [1, 2, 0]),
        (("a", "b", "c"), "True", None),
        (("a", "b"), "Auto", None),
        (("a", "a", "b"), "Auto", None),
        ((), "Auto", None),
    ],
)
def test_the_head_that_the_built_in_fine_tuned_is_kept_where_the_classes_agree(
    tmp_path: Path,
    saved_model: Path,
    names: tuple[str, ...],
    rule: str,
    order: list[int] | None,
) -> None:
    model = tuned(saved_model, *names)
    asked = request(tmp_path, model, backend="tensorflow", reinitialize_top_layer=rule)
    found = channel_weights(asked.settings, LabelMap(("a", "b", "c")), asked.channels["model"])
    assert (found.head_order if found else None) == order


def test_a_fine_tuned_model_is_never_dropped_in_silence(tmp_path: Path, saved_model: Path) -> None:
    asked = request(tmp_path, tuned(saved_model, "a", "b"), backend="torch")
    with pytest.raises(ChannelError, match="fine-tuned, which backend=torch cannot go on from"):
        channel_weights(asked.settings, LabelMap(("a", "b")), asked.channels["model"])


def test_a_fine_tuned_head_of_other_classes_cannot_be_kept(
    tmp_path: Path, saved_model: Path
) -> None:
    model = tuned(saved_model, "a", "b")
    asked = request(tmp_path, model, backend="tensorflow", reinitialize_top_layer="False")
    with pytest.raises(HyperparameterError, match="but its 2 classes are a, b: give the job the"):
        channel_weights(asked.settings, LabelMap(("a", "c")), asked.channels["model"])
    (model / "__model_info__.json").write_text(json.dumps({"image_size": [32, 32]}))
    asked = request(tmp_path, model, backend="tensorflow", reinitialize_top_layer="False")
    with pytest.raises(ChannelError, match="does not have a classification layer"):
        channel_weights(asked.settings, LabelMap(("a", "b")), asked.channels["model"])


def test_a_saved_model_that_is_ignored_is_reported_with_the_reason(
    tmp_path: Path, saved_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for given, reason in (
        ({"backend": "torch"}, "backend=torch cannot start from"),
        (
            {"backend": "tensorflow", "backbone": "resnet20"},
            "backbone=resnet20 does not start from (backbone=saved_model does)",
        ),
    ):
        asked = request(tmp_path, saved_model, use_pretrained_model="False", **given)
        assert channel_weights(asked.settings, LabelMap(("a",)), asked.channels["model"]) is None
        assert reason in caplog.text


def test_an_artifact_of_another_backbone_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    asked = request(tmp_path, tmp_path / "model", backend="torch", backbone="resnet20")
    for theirs, remedy in (
        ("resnet32", r"set backbone=resnet32$"),
        ("keras/VGG16", r"set backbone=keras/VGG16 and backend=tensorflow$"),
        ("saved_model", "the SavedModel of the earlier job"),
    ):
        with pytest.raises(ChannelError, match=remedy):
            _check_backbone(theirs, asked.settings)


@pytest.mark.parametrize(
    ("backend", "backbone", "remedy"),
    [
        ("torch", "keras/ResNet50", "set backend=tensorflow, which has it"),
        ("tensorflow", "gluon/resnet18_v1", "set backend=mxnet, which has it"),
        ("tensorflow", "timm/resnet50", r"did you mean 'resnet50'\?"),
    ],
)
def test_a_backbone_of_another_backend_says_which_to_set(
    backend: str, backbone: str, remedy: str
) -> None:
    with pytest.raises(BackendError, match=remedy):
        backends.catalog(backend).find(backbone)


def pack(folder: Path, path: Path, top: str = ".") -> Path:
    """An archive of `folder` below `top`: a ZIP or a .tar.gz, by its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as packed:
            for file in sorted(folder.iterdir()):
                packed.write(file, f"{top}/{file.name}")
    else:
        with tarfile.open(path, "w:gz") as tar:
            tar.add(folder, top)
    return path


@pytest.mark.parametrize(
    ("name", "top"),
    [
        ("model.tar.gz", "."),
        ("model.tar.gz", "model"),
        ("built-in.zip", "."),
        ("built-in.tgz", "job/model"),
        ("output/model.tar.gz", "."),
    ],
)
def test_a_model_is_found_in_the_channel_in_every_form_that_commands_take(
    tmp_path: Path, name: str, top: str
) -> None:
    write_archive(tmp_path / "built-in", classes=2)
    pack(tmp_path / "built-in", tmp_path / "channel" / name, top)
    mxnet = {"num_classes": 2, "num_training_samples": 8, "num_layers": 20}
    job = request(tmp_path, tmp_path / "channel", channel="train", image_shape="3,32,32", **mxnet)
    found = channel_weights(job.settings, LabelMap(("a", "b")), job.channels["model"])
    assert found is not None and "head included" in found.description
    path = model_path(job.channels["model"])
    assert path == job.channels["model"].path / name and not is_artifact(path)


def test_several_archives_in_the_channel_are_an_error_that_names_them(tmp_path: Path) -> None:
    for name in ("a.tar.gz", "b.zip"):
        (tmp_path / "channel").mkdir(exist_ok=True)
        (tmp_path / "channel" / name).write_bytes(b"")
    with pytest.raises(ChannelError, match=r"expected one model.tar.gz, found \['a.tar.gz', 'b.z"):
        model_path(ChannelInput("model", tmp_path / "channel"))


@pytest.mark.parametrize("form", ["folder", "top folder", "archive", "ZIP with a top folder"])
def test_export_converts_a_built_in_model_in_every_form(tmp_path: Path, form: str) -> None:
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "model" / "1"
    write_archive(folder, classes=3)
    path = {
        "folder": lambda: folder,
        "top folder": lambda: tmp_path / "model",
        "archive": lambda: pack(folder, tmp_path / "m.tar.gz"),
        "ZIP with a top folder": lambda: pack(folder, tmp_path / "m.zip", "model"),
    }[form]()
    artifact = export_built_in(path, "reference", None, tmp_path / "out")
    assert len(artifact.labels) == 3
