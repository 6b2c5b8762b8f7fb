"""A network of timm with brought weights: trained on, exported and served, from every way in."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch
from safetensors.torch import save_file

from image_classification.artifact import read_artifact
from image_classification.cli import main
from tests.contract.jobs import running_server

NAME = "mobilenetv3_small_050"
CLASSES = 4
MEAN, STD = 0.5, 0.25


@pytest.fixture(scope="module")
def network() -> Any:
    """timm's network with random weights and statistics."""
    for name in ("torchvision", "timm"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install timm==1.0.31 torchvision==0.28.0")
    from image_classification.backends.torch import timm_models

    torch.manual_seed(0)
    model = timm_models.load(f"timm/{NAME}").create_model(NAME, num_classes=CLASSES)
    for tensor in model.state_dict().values():
        if tensor.ndim == 1 and tensor.is_floating_point():
            tensor.add_(0.1 * torch.rand(tensor.shape))
    return model.eval()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, network: Any) -> Path:
    """The folder of a timm model, as its hub has it."""
    folder = tmp_path_factory.mktemp("hub")
    save_file(network.state_dict(), folder / "model.safetensors")
    images = {"input_size": [3, 64, 64], "mean": [MEAN] * 3, "std": [STD] * 3, "crop_pct": 1.0}
    config = {"architecture": NAME, "num_classes": CLASSES, "pretrained_cfg": images}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def train(output: Path, images: Path, *words: str) -> dict[str, Any]:
    """Train a head; returns the manifest. The rest of the network is as it was brought."""
    given = {"backbone": f"timm/{NAME}", "epochs": 1, "train_only_top_layer": "True"}
    command = ["train", "--output", str(output), f"--channel=training={images}", *words]
    assert main([*command, *(f"--set={name}={value}" for name, value in given.items())]) == 0
    return read_artifact(output).manifest


@pytest.mark.parametrize("way", ["channel weights", "channel model", "--weights", "folder"])
def test_a_job_starts_from_weights_of_timm_whichever_way_they_arrive(
    network: Any,
    hub: Path,
    way: str,
    small_channels: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("IMAGE_CLASSIFICATION_WEIGHTS_DIR", str(tmp_path / "weights"))
    words = ["--set=image_shape=3,64,64"]
    if way == "--weights":
        torch.save({"state_dict": network.state_dict()}, tmp_path / "mine.pth")
        words.append(f"--weights={tmp_path / 'mine.pth'}")
    elif way == "folder":
        command = ["weights", f"timm/{NAME}", "--from", str(hub), "--license", "MIT"]
        assert main([*command, "--output", str(tmp_path / "weights")]) == 0
        words.append("--set=use_pretrained_model=1")
    else:
        words = [f"--channel={way.partition(' ')[2]}={hub}"]
    manifest = train(tmp_path / "model", small_channels["train"], *words)
    assert manifest["backbone"] == f"timm/{NAME}"
    assert f"weights of timm/{NAME}" in manifest["started_from"].lower()
    weights = load_file(tmp_path / "model" / "weights.safetensors")
    assert weights["head.weight"].shape[0] == 3
    brought = network.state_dict()
    for name in ("conv_stem.weight", "blocks.1.0.bn1.running_mean", "conv_head.bias"):
        assert np.array_equal(weights[f"trunk.{name}"], brought[name].numpy()), name
    preprocessing = read_artifact(tmp_path / "model").preprocessing
    if way != "--weights":  # a file alone says nothing of the images
        assert (preprocessing.height, preprocessing.mean[0]) == (64, 255 * MEAN)
    with running_server(tmp_path / "model") as server:
        answer = server.invoke(image_bytes(64), **{"Content-Type": "application/x-image"})
    assert len(answer.json()["probabilities"]) == 3


def image_bytes(side: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def test_served_answers_of_brought_weights_are_those_of_timm(
    network: Any, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "weights"
    monkeypatch.setenv("IMAGE_CLASSIFICATION_WEIGHTS_DIR", str(folder))
    assert main(["weights", f"timm/{NAME}", "--from", str(hub), "--output", str(folder)]) == 0
    output = tmp_path / "model"
    assert main(["export", "--backbone", f"timm/{NAME}", "--output", str(output)]) == 0
    with running_server(output) as server:
        answer = server.invoke(image_bytes(64), **{"Content-Type": "application/x-image"})
    pixels = np.asarray(Image.open(io.BytesIO(image_bytes(64))), np.float32) / 255
    with torch.inference_mode():
        images = torch.from_numpy((pixels - MEAN) / STD).permute(2, 0, 1)[None]
        expected = torch.softmax(network(images), 1)[0].numpy()
    np.testing.assert_allclose(answer.json()["probabilities"], expected, atol=1e-4)
