"""When the model of the channel `model` is the job's backbone; no framework is needed to decide."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import pytest

from image_classification import backends
from image_classification.artifact import MANIFEST_FILE
from image_classification.contract.paths import JobPaths
from image_classification.errors import BackendError, ChannelError
from image_classification.labels.label_map import LabelMap
from image_classification.training.backbone import channel_backbone_folder
from image_classification.training.initial_weights import _check_backbone, channel_weights
from image_classification.training.request import JobRequest, read_request
from tests.contract.jobs import write_job


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
