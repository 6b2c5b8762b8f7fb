"""A model trained on records is served photographs of any size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classification.artifact import read_artifact
from tests.contract.conftest import HYPERPARAMETERS
from tests.contract.jobs import run_command, run_train, running_server, write_job

COLORS = {"blue": (40, 40, 200), "green": (40, 200, 40), "red": (200, 40, 40)}
WITHOUT_RESIZE = {name: value for name, value in HYPERPARAMETERS.items() if name != "resize"}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 × 200 pixels: all of the class's color but for 40 × 40 in the middle of another."""
    root = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(0)
    names = list(COLORS)
    for index, name in enumerate(names):
        (root / name).mkdir()
        for number in range(24):
            pixels = np.empty((160, 200, 3))
            pixels[:] = COLORS[name]
            pixels[60:100, 80:120] = COLORS[names[(index + 1) % 3]]
            pixels += generator.normal(0, 20, pixels.shape)
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(root / name / f"{name}{number:03d}.jpg", quality=95)
    return root


def channels_of(photographs: Path, root: Path, *options: str) -> dict[str, Path]:
    done = run_command("preprocess", "--input", photographs, "--output", root, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: root / name for name in ("train", "validation")}


def accuracy_of_photographs(base: Path, photographs: Path) -> float:
    done = run_command("evaluate", "--model", base / "model", "--data", photographs, "--json")
    assert done.returncode == 0, done.stderr
    return float(json.loads(done.stdout)["metrics"]["accuracy"])


def test_photographs_larger_than_the_records_are_served_as_the_records_were_validated(
    tmp_path: Path, photographs: Path
) -> None:
    channels = channels_of(photographs, tmp_path / "channels", "--resize", "40")
    base = write_job(tmp_path / "ml", WITHOUT_RESIZE | {"epochs": 4}, channels)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the images in the records have a shorter side of 40 pixels: using 40" in done.stdout
    artifact = read_artifact(base / "model")
    assert artifact.manifest["metrics"]["validation"]["accuracy"] == 1.0
    assert accuracy_of_photographs(base, photographs) == 1.0
    with running_server(base / "model") as server:
        for name in COLORS:
            image = (photographs / name / f"{name}000.jpg").read_bytes()
            answer = server.invoke(
                image, Content_Type="image/jpeg", Accept="application/json;verbose"
            )
            answered = answer.json()
            assert isinstance(answered, dict) and answered["predicted_label"] == name


def test_training_records_and_validation_image_files_end_at_one_size(
    tmp_path: Path, photographs: Path
) -> None:
    channels = channels_of(photographs, tmp_path / "channels", "--resize", "40")
    channels["validation"] = photographs
    base = write_job(tmp_path / "ml", WITHOUT_RESIZE | {"epochs": 4}, channels)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_artifact(base / "model").manifest["metrics"]["validation"]["accuracy"] == 1.0
