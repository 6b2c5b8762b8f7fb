"""Models of the closed MXNet built-in: served, and trained on; MXNet is not needed."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classification import backends
from image_classification.backends import onnx_graph
from image_classification.backends.base import ModelSpec, OptimizerSpec, World
from image_classification.backends.mxnet_archive import read_built_in
from tests.contract import jobs
from tests.contract.conftest import HYPERPARAMETERS
from tests.contract.jobs import run_command, run_train, running_server, write_job
from tests.unit.backends.built_in_archive import write_archive


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """model.tar.gz of a ResNet-20 with three classes."""
    folder = tmp_path / "built-in"
    write_archive(folder, classes=3)
    path = tmp_path / "channel" / "model.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, file.name)
    return path


def test_the_server_answers_from_an_archive_as_its_network_computes(
    archive: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    done = run_command(
        "export", "--from-mxnet", archive, "--backend", jobs.BACKEND or "torch", "--output", model
    )
    assert done.returncode == 0, done.stderr
    assert "ignoring the aspect ratio" in done.stdout + done.stderr
    built_in = read_built_in(tmp_path / "built-in")
    spec = ModelSpec("resnet20", 3, (3, 32, 32), built_in.mean, (1.0,) * 3)
    engine = backends.load("reference").build(spec, OptimizerSpec(), World())
    engine.load_state(built_in.weights)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    with running_server(model) as server:
        answer = server.invoke(file.getvalue(), Content_Type="image/png")
    (expected,) = onnx_graph.probabilities_of(engine.predict_step(pixels[None]), spec)
    np.testing.assert_allclose(answer.json(), expected, rtol=0, atol=1e-4)
    assert json.loads((model / "preprocessing.json").read_text())["mode"] == "squash"


def test_a_job_continues_from_an_archive_with_its_head(
    archive: Path, tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    channels = small_channels | {"model": archive.parent}
    given = HYPERPARAMETERS | {"learning_rate": 0.0, "epochs": 1}
    base = write_job(tmp_path / "ml", given, channels)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "an archive of the MXNet built-in, weights after epoch 7" in done.stdout
    assert "starting from its weights, head included" in done.stdout


def test_an_archive_of_another_depth_is_refused_with_what_to_set(
    archive: Path, tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    channels = small_channels | {"model": archive.parent}
    done = run_train(write_job(tmp_path / "ml", HYPERPARAMETERS | {"num_layers": 32}, channels))
    assert done.returncode == 2
    failure = (tmp_path / "ml/output/failure").read_text()
    assert failure.startswith("ClientError: channel model: its artifact has the backbone resnet20")


def test_a_damaged_archive_is_refused_and_nothing_is_written(archive: Path, tmp_path: Path) -> None:
    params = tmp_path / "built-in" / "image-classification-0007.params"
    params.write_bytes(params.read_bytes()[:-100])
    done = run_command("export", "--from-mxnet", params.parent, "--output", tmp_path / "model")
    assert done.returncode == 2
    assert "image-classification-0007.params, byte " in done.stderr and "truncated" in done.stderr
    assert not (tmp_path / "model").exists()
