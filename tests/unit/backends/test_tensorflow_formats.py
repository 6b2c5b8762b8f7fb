"""Exports for TensorFlow's own tools: SavedModel and .keras."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import tensorflow as tf

from image_classification import artifact, backends
from image_classification.backends.base import OptimizerSpec, World
from image_classification.backends.networks import efficientnet, resnet_v1_5
from image_classification.cli import main
from image_classification.images.preprocessing import Preprocessing, preprocess
from image_classification.labels.label_map import LabelMap
from image_classification.training.output import description_of, engine_writers
from tests.unit.backends.torch_cases import SMALL, change, make_batch

PREPROCESSING = Preprocessing(height=20, width=28, resize=32, mean=(120.0,) * 3, std=(60.0,) * 3)


@pytest.fixture(scope="module")
def engine() -> Any:
    engine = backends.load("tensorflow").build(SMALL, OptimizerSpec(), World(threads=1))
    engine.train_step(make_batch(), 0.05)
    return engine


@pytest.fixture(scope="module")
def model(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    description = description_of("torch", "resnet20", "mxnet") | {
        "calibration": {"temperature": 2.0}
    }
    labels = LabelMap(("a", "b", "c", "d"))
    writers = engine_writers(engine, 2.0)
    artifact.write_artifact(folder, description, labels, PREPROCESSING, writers)
    return folder


def expected_of(engine: Any, images: np.ndarray) -> np.ndarray:
    odds = np.exp(engine.predict_step(images) / 2.0)
    return odds / odds.sum(1, keepdims=True)


def test_a_saved_model_predicts_from_images_and_encoded_images(
    engine: Any, model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "saved" / "1"
    arguments = ["--model", str(model), "--format", "saved_model", "--output", str(folder)]
    assert main(["export", *arguments]) == 0
    signatures = tf.saved_model.load(str(folder)).signatures
    images = make_batch(size=3).images
    answer = signatures["images"](images=tf.constant(images))["probabilities"]
    np.testing.assert_allclose(answer, expected_of(engine, images), atol=1e-5)
    files = []
    for size in ((60, 40), (33, 90), (28, 20)):  # width, height: smooth, so that decoders agree
        rows, columns = np.mgrid[: size[1], : size[0]] * 3.0
        picture = np.stack([rows, columns, rows + columns], 2) % 200
        buffer = io.BytesIO()
        Image.fromarray(picture.astype(np.uint8)).save(buffer, "PNG")
        files.append(buffer.getvalue())
    answer = signatures["serving_default"](image_bytes=tf.constant(files))["probabilities"]
    prepared = np.stack([preprocess(data, PREPROCESSING) for data in files])
    np.testing.assert_allclose(answer, expected_of(engine, prepared), atol=0.02)


# Keras 3.15 asks its own variables for an array without `copy`, which NumPy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_keras_file_loads_in_safe_mode_without_this_package(
    engine: Any, model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.keras"
    assert main(["export", "--model", str(model), "--format", "keras", "--output", str(path)]) == 0
    images = make_batch(size=3).images
    np.save(tmp_path / "images.npy", images)
    script = (
        "import sys, keras, numpy as np\n"
        f"model = keras.saving.load_model({str(path)!r}, compile=False, safe_mode=True)\n"
        f"images = np.load({str(tmp_path / 'images.npy')!r})\n"
        f"np.save({str(tmp_path / 'answer.npy')!r}, model(images))\n"
        "assert not any(name.startswith('image_classification') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    answer = np.load(tmp_path / "answer.npy")
    np.testing.assert_allclose(answer, expected_of(engine, images), atol=1e-5)


def test_an_existing_file_is_not_overwritten(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", str(model), "--format", "keras", "--output", str(tmp_path)]
    assert main(["export", *arguments]) == 2
    assert "exists: name another path" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_format_without_a_model_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--backbone", "resnet20", "--format", "keras", "--output", "x"]
    assert main(["export", *arguments]) == 2
    assert "belong together" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("kind", ["resnext", "tf_efficientnet_b0"])
def test_convolutions_in_groups_and_squeezes_are_layers_of_keras(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing compares the predictions of the file with the engine's."""
    plan = resnet_v1_5.Plan((1, 1, 1, 1), groups=32, group_width=4)
    monkeypatch.setitem(resnet_v1_5.PLANS, "resnext", plan)
    monkeypatch.setattr(efficientnet, "STAGES", efficientnet.STAGES[:2])
    spec = change(backbone=kind)
    built = backends.load("tensorflow").build(spec, OptimizerSpec(), World(threads=1))
    for name in ("keras", "saved_model"):
        built.write_format(name, tmp_path / f"{name}.keras", 1.0, PREPROCESSING)
        assert (tmp_path / f"{name}.keras").exists()
