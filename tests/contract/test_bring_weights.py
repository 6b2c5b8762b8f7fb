"""A public file of weights is converted, trained on and served; answers are those of its network.

The network is torchvision's ResNet-18, written here in a few lines of PyTorch.
"""

from __future__ import annotations

import importlib.util
import io
import json
import socket
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch
from safetensors.torch import save_file
from torch.nn import functional

from image_classification.artifact import read_artifact
from image_classification.cli import main
from image_classification.labels.label_map import imagenet_labels
from image_classification.weights.download import PUBLISHED
from tests.contract.jobs import running_server

CLASSES = 5
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def torchvision_resnet18() -> dict[str, Any]:
    """Random weights with torchvision's names and shapes."""
    state: dict[str, Any] = {}
    generator = torch.Generator().manual_seed(0)

    def convolution(name: str, norm: str, width_in: int, width: int, kernel: int) -> None:
        scale = (2 / (width_in * kernel**2)) ** 0.5
        shape = (width, width_in, kernel, kernel)
        state[f"{name}.weight"] = scale * torch.randn(shape, generator=generator)
        for tensor, low in (("weight", 0.8), ("bias", -0.1), ("running_mean", -0.1)):
            state[f"{norm}.{tensor}"] = low + 0.2 * torch.rand(width, generator=generator)
        state[f"{norm}.running_var"] = 0.8 + 0.4 * torch.rand(width, generator=generator)
        state[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    convolution("conv1", "bn1", 3, 64, 7)
    width_in = 64
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            convolution(f"{name}.conv1", f"{name}.bn1", width_in, width, 3)
            convolution(f"{name}.conv2", f"{name}.bn2", width, width, 3)
            if width_in != width:
                convolution(f"{name}.downsample.0", f"{name}.downsample.1", width_in, width, 1)
            width_in = width
    state["fc.weight"] = 0.005 * torch.randn((CLASSES, 512), generator=generator)
    state["fc.bias"] = torch.randn(CLASSES, generator=generator)
    return state


def logits_of(state: dict[str, Any], x: Any) -> Any:
    """What torchvision's ResNet-18 computes of normalized images."""

    def norm(name: str, x: Any) -> Any:
        names = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(state[f"{name}.{tensor}"] for tensor in names))

    def convolved(name: str, x: Any, stride: int = 1) -> Any:
        kernel = state[f"{name}.weight"]
        return functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    x = functional.relu(norm("bn1", convolved("conv1", x, 2)))
    x = functional.max_pool2d(x, 3, 2, 1)
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = functional.relu(norm(f"{name}.bn1", convolved(f"{name}.conv1", x, stride)))
            y = norm(f"{name}.bn2", convolved(f"{name}.conv2", y))
            if f"{name}.downsample.0.weight" in state:
                shortcut = convolved(f"{name}.downsample.0", x, stride)
                x = norm(f"{name}.downsample.1", shortcut)
            x = functional.relu(x + y)
    return functional.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    return torchvision_resnet18()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, state: dict[str, Any]) -> Path:
    """The weights in the formats of PyTorch's users, and as a hub's folder and archive."""
    folder = tmp_path_factory.mktemp("public")
    torch.save(state, folder / "zip.pth")
    torch.save({"state_dict": state}, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file(state, folder / "public.safetensors", {"format": "pt"})
    hub = folder / "hub"
    hub.mkdir()
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    places = {name: names[place % 3] for place, name in enumerate(state)}
    for name in names:
        save_file({t: state[t] for t, n in places.items() if n == name}, hub / name)
    (hub / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with tarfile.open(folder / "hub.tar.gz", "w:gz", compresslevel=0) as archive:
        archive.add(hub, "snapshot")
    return folder


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory, files: Path) -> Path:
    """The folder of the image's weights, with those of the zip."""
    folder = tmp_path_factory.mktemp("weights")
    words = ["weights", "resnet18_v1.5", "--from", str(files / "zip.pth"), "--output", str(folder)]
    assert main([*words, "--license", "BSD-3-Clause"]) == 0
    return folder


@pytest.mark.parametrize("name", ["legacy.pth", "public.safetensors", "hub", "hub.tar.gz"])
def test_every_format_gives_the_same_weights_with_their_origin(
    files: Path, converted: Path, name: str, tmp_path: Path
) -> None:
    words = ["weights", "resnet18_v1.5", "--from", str(files / name), "--output", str(tmp_path)]
    assert main(words) == 0
    path = tmp_path / "resnet18_v1.5.safetensors"
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "nothing is left beside it"
    found, expected = load_file(path), load_file(converted / path.name)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], array) for key, array in expected.items())
    with safe_open(path, "numpy") as file:
        said = file.metadata()
    assert (said["source"], said["license"]) == ("unknown", "unknown")
    original = "model.safetensors.index.json" if name.startswith("hub") else name
    assert (said["file"], said["layout"]) == (original, "torchvision")
    assert len(said["sha256"]) == 64


def test_an_untouched_published_network_answers_with_imagenets_class_names(
    state: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, output, file = (
        tmp_path / "weights",
        tmp_path / "model",
        tmp_path / "public.safetensors",
    )
    head = {"fc.weight": torch.zeros((1000, 512)), "fc.bias": torch.zeros(1000)}
    save_file({**state, **head}, file, {"format": "pt"})
    words = ["weights", "resnet18_v1.5", "--from", str(file), "--output", str(weights)]
    assert main([*words, "--source", PUBLISHED["resnet18_v1.5"].address]) == 0
    monkeypatch.setenv("IMAGE_CLASSIFICATION_WEIGHTS_DIR", str(weights))
    assert main(["export", "--backbone", "resnet18_v1.5", "--output", str(output)]) == 0
    assert read_artifact(output).labels.names == imagenet_labels()


def test_class_names_that_do_not_fit_the_head_are_a_warning_and_not_used(
    state: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "weights" / "resnet18_v1.5"
    folder.mkdir(parents=True)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(
        json.dumps({"pretrained_cfg": {}, "label_names": ["cat", "dog", "bird"]})
    )
    monkeypatch.setenv("IMAGE_CLASSIFICATION_WEIGHTS_DIR", str(folder.parent))
    output = tmp_path / "model"
    assert main(["export", "--backbone", "resnet18_v1.5", "--output", str(output)]) == 0
    assert f"The weights have 3 class names for {CLASSES} classes: not used" in (
        capsys.readouterr().err
    )
    assert read_artifact(output).labels.names[:2] == ("0", "1")


def test_served_answers_are_those_of_the_network_that_the_weights_are_of(
    state: dict[str, Any],
    converted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("IMAGE_CLASSIFICATION_WEIGHTS_DIR", str(converted))
    output = tmp_path / "model"
    assert main(["export", "--backbone", "resnet18_v1.5", "--output", str(output)]) == 0
    manifest = read_artifact(output).manifest
    assert (manifest["source"], manifest["license"]) == ("unknown", "BSD-3-Clause")
    assert read_artifact(output).labels.names[0] == "0"  # nothing says that it is ImageNet's
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    with running_server(output) as server:
        answer = server.invoke(buffer.getvalue(), **{"Content-Type": "application/x-image"})
    crop = (pixels[16:240, 16:240] - np.float32(MEAN)) / np.float32(STD)
    with torch.inference_mode():
        images = torch.from_numpy(crop.transpose(2, 0, 1)[None].astype(np.float32))
        expected = torch.softmax(logits_of(state, images), 1)[0].numpy()
    np.testing.assert_allclose(answer.json()["probabilities"], expected, atol=1e-4)


@pytest.mark.slow
def test_served_answers_of_a_resnet50_file_are_those_of_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torchvision", "timm"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install timm==1.0.31 torchvision==0.28.0")
    from image_classification.backends.torch import timm_models

    timm_models.load("timm/resnet50")  # imports torchvision, also beside a CPU build of PyTorch
    import torchvision

    torch.manual_seed(0)
    network = torchvision.models.resnet50(num_classes=CLASSES).eval()
    for name, tensor in network.state_dict().items():
        if "bn3.weight" in name:
            tensor.fill_(0.3)
        elif name.endswith("running_var"):
            tensor.uniform_(0.9, 1.1)
        elif name == "fc.weight":
            tensor.mul_(20)
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    folder, output = tmp_path / "weights", tmp_path / "model"
    monkeypatch.setenv("IMAGE_CLASSIFICATION_WEIGHTS_DIR", str(folder))
    words = ["--from", str(tmp_path / "mine.pth"), "--output", str(folder)]
    assert main(["weights", "resnet50_v1.5", *words]) == 0
    assert main(["export", "--backbone", "resnet50_v1.5", "--output", str(output)]) == 0
    with running_server(output) as server:
        found, expected = [], []
        for seed in range(3):
            pixels = np.random.default_rng(seed).integers(0, 256, (256, 256, 3), np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels // (seed + 1)).save(buffer, "png")
            answer = server.invoke(buffer.getvalue(), **{"Content-Type": "application/x-image"})
            found.append(answer.json()["probabilities"])
            crop = (pixels[16:240, 16:240] // (seed + 1) - np.float32(MEAN)) / np.float32(STD)
            with torch.inference_mode():
                images = torch.from_numpy(crop.transpose(2, 0, 1)[None].astype(np.float32))
                expected.append(torch.softmax(network(images), 1)[0].numpy())
    assert np.ptp(expected, axis=0).max() > 0.05, "the images must matter"
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["zip.pth", "hub.tar.gz"])
def test_a_job_in_network_isolation_trains_a_new_head_on_the_weights_of_a_file(
    name: str,
    state: dict[str, Any],
    files: Path,
    small_channels: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "socket", lambda *_, **__: pytest.fail("a job uses no network"))
    given = {
        "image_shape": "3,64,64",
        "epochs": 1,
        "train_only_top_layer": "True",
        "reinitialize_top_layer": "Auto",
    }
    words = ["train", "--output", str(tmp_path / "model"), "--weights", str(files / name)]
    words += [f"--channel=training={small_channels['train']}"]
    words += [f"--set={name}={value}" for name, value in given.items()]
    assert main(words) == 0
    artifact = read_artifact(tmp_path / "model")
    assert artifact.manifest["backbone"] == "resnet18_v1.5"
    file = "model.safetensors.index.json" if name == "hub.tar.gz" else name
    started = f"weights of resnet18_v1.5 in {file} (license: unknown) with a new head"
    assert artifact.manifest["started_from"] == started
    weights = load_file(tmp_path / "model" / "weights.safetensors")
    assert np.array_equal(weights["stem.conv.weight"], state["conv1.weight"].numpy())
    assert weights["head.weight"].shape == (3, 512)


def test_a_converted_file_is_converted_again_and_keeps_its_origin(
    converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGE_CLASSIFICATION_WEIGHTS_DIR", str(converted))
    assert main(["weights", "resnet18_v1.5", "--output", str(tmp_path)]) == 0
    found = []
    for folder in (tmp_path, converted):
        with safe_open(folder / "resnet18_v1.5.safetensors", "numpy") as file:
            found.append((file.metadata(), {name: file.get_tensor(name) for name in file.keys()}))
    (metadata, tensors), (expected_metadata, expected) = found
    assert metadata == expected_metadata and metadata["license"] == "BSD-3-Clause"
    assert tensors.keys() == expected.keys()
    assert all(np.array_equal(tensors[name], array) for name, array in expected.items())


def test_weights_copied_into_the_folder_are_checked_and_never_stamped_with_another_license(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IMAGE_CLASSIFICATION_WEIGHTS_DIR", str(tmp_path))
    for name in ("resnet18_v1.5", "resnet50"):
        (tmp_path / f"{name}.safetensors").write_bytes((files / "public.safetensors").read_bytes())
    assert main(["weights", "resnet18_v1.5", "--output", str(tmp_path / "new")]) == 0
    with safe_open(tmp_path / "new" / "resnet18_v1.5.safetensors", "numpy") as file:
        assert file.metadata()["license"] == "unknown"
    assert main(["weights", "resnet50", "--output", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert "ClientError: " in error and "they are resnet18_v1.5's, so use that name" in error


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--from", "absent.pth"], "absent.pth cannot be read"),
        (["--license", "MIT", "--output", "x"], "describes the file of --from: add --from FILE"),
        ([], "--output DIR is required without --from FILE"),
        (["resnet18", "--from", "absent.pth"], "the weights of one backbone, got"),
        (["--from", "x", "--download"], "not allowed with argument"),
        (["--from", "s3://bucket/x.pth"], "is an address: expected a file on this machine"),
        (["--from", "x.pth", "--output", __file__], "a folder that can be written"),
    ],
)
def test_impossible_words_are_an_error_with_the_cure(
    words: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words if "--output" in words or not words else [*words, "--output", str(tmp_path)]
    try:
        code = main(["weights", "resnet18_v1.5", *words])
    except SystemExit as error:
        code = int(error.code or 0)
    assert code == 2 and reason in capsys.readouterr().err
