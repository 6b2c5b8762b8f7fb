"""`make build PRETRAINED=… WEIGHTS=DIR`: an image with the weights of a public file."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from image_classification import backends
from image_classification.backends.backbones import BACKBONES
from image_classification.backends.base import ModelSpec, OptimizerSpec, World
from image_classification.backends.networks import layouts
from tests.conftest import REPOSITORY
from tests.container.engine import docker, run
from tests.contract.jobs import write_job

BACKBONE = "mobilenet_v2"
VERSION = "0.0.0-weights"


@pytest.fixture(scope="module")
def public_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file as torchvision publishes it, with random weights."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    mean, std = BACKBONES[BACKBONE].normalization(3)
    spec = ModelSpec(BACKBONE, 1000, (3, 64, 64), mean, std)
    state = backends.load("torch").build(spec, OptimizerSpec(), World(threads=1)).state()
    names = layouts.source_names(BACKBONE, "torchvision")
    tensors = {name: torch.from_numpy(state[f"weight/{ours}"]) for name, ours in names.items()}
    folder = tmp_path_factory.mktemp("public")
    torch.save(tensors, folder / f"{BACKBONE}.pth")
    return folder


@pytest.fixture(scope="module")
def image_with_weights(public_weights: Path) -> Iterator[str]:
    settings = {"VERSION": VERSION, "PRETRAINED": BACKBONE, "WEIGHTS": str(public_weights)}
    built = subprocess.run(
        [REPOSITORY / "scripts" / "build", "train"],
        env=os.environ | settings | {"BACKEND": "torch", "DEVICE": "cpu"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    name = f"image-classification-train:{VERSION}-torch"
    yield name
    docker("image", "rm", name)


def test_an_image_built_with_a_public_file_has_it_as_safetensors_and_starts_jobs_from_it(
    image_with_weights: str, public_weights: Path, channels: dict[str, Path], tmp_path: Path
) -> None:
    folder = "/opt/image-classification/weights"
    listed = run(image_with_weights, "ls", folder).stdout.split()
    assert f"{BACKBONE}.safetensors" in listed and not [n for n in listed if n.endswith(".pth")]
    script = (
        "from safetensors.numpy import load_file; import numpy; "
        f"tensors = load_file('{folder}/{BACKBONE}.safetensors').values(); "
        "print(len(tensors), sum(numpy.abs(t.astype(numpy.float64)).sum() for t in tensors))"
    )
    count, total = run(image_with_weights, "python3", "-c", script).stdout.split()
    import torch

    expected = torch.load(public_weights / f"{BACKBONE}.pth", weights_only=True)
    assert int(count) > 100
    sums = sum(np.abs(t.numpy().astype(np.float64)).sum() for t in expected.values())
    assert float(total) == pytest.approx(sums, rel=1e-6)
    hyperparameters = {
        "backbone": BACKBONE,
        "use_pretrained_model": 1,
        "image_shape": "3,32,32",
        "epochs": 1,
        "mini_batch_size": 8,
    }
    base = write_job(tmp_path / "ml", hyperparameters, channels)
    done = run(image_with_weights, "train", volumes={base: "/opt/ml"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"weights of {BACKBONE}" in done.stdout + done.stderr, done.stdout
