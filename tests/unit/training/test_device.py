"""A job that should compute on a GPU and cannot ends before it reads data, with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from image_classification import cli, devices
from image_classification.devices.builds import Build
from image_classification.devices.machine import Gpu, Machine
from image_classification.training import engine, group, job

TORCH = Build("PyTorch", "2.13.0+cu130", (13, 0), "torch")
OLD = Machine(2, "535.183.01", (12, 2), (Gpu("NVIDIA A10G", (8, 6), 2**34),) * 2)


def test_every_place_that_decides_asks_the_same_function() -> None:
    assert {engine.device_of, group.device_of, job.device_of} == {devices.device_of}


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job without an image, on a machine with two GPUs and a driver that is too old."""
    for folder in ("input/data/train/a", "input/data/train/b", "input/config"):
        (tmp_path / folder).mkdir(parents=True)
    files = {
        "hyperparameters.json": {
            "num_classes": "2",
            "backend": "torch",
            "num_training_samples": "2",
        },
        "inputdataconfig.json": {"train": {"ContentType": "application/x-image"}},
    }
    for name, content in files.items():
        (tmp_path / "input" / "config" / name).write_text(json.dumps(content))
    monkeypatch.setattr(devices, "device_files", lambda: 2)
    monkeypatch.setattr(devices, "this_machine", lambda: OLD)
    monkeypatch.setattr(devices, "installed_build", lambda _: TORCH)
    monkeypatch.delenv("IMAGE_CLASSIFICATION_DEVICE", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    return tmp_path


@pytest.mark.parametrize("gpus", [0, 2])
def test_a_driver_that_is_too_old_is_in_the_failure_file(
    base: Path, monkeypatch: pytest.MonkeyPatch, gpus: int
) -> None:
    """In one process, and before a process for each of two GPUs is started."""
    monkeypatch.setattr(group, "device_files", lambda: gpus)
    assert cli.main(["train", "--base-dir", str(base)]) == 2
    said = (base / "output" / "failure").read_text()
    assert said.startswith("ClientError: this machine has 2 NVIDIA GPUs (NVIDIA A10G), but its")
    assert (
        "driver 535.183.01 (CUDA 12.2) is too old: PyTorch 2.13.0+cu130 is built for CUDA" in said
    )
    assert "use the image train-tensorflow-cu12" in said
    assert "IMAGE_CLASSIFICATION_DEVICE=cpu" in said and len(said) <= 1024


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # an open folder
def test_a_job_that_is_told_to_compute_on_the_cpu_reads_its_data(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(group, "device_files", lambda: 2)
    monkeypatch.setenv("IMAGE_CLASSIFICATION_DEVICE", "cpu")
    assert cli.main(["train", "--base-dir", str(base)]) == 2
    said = (base / "output" / "failure").read_text()
    assert "GPU" not in said and "image" in said
    assert capsys.readouterr().out.count("IMAGE_CLASSIFICATION_DEVICE=cpu: computing on the") == 1
