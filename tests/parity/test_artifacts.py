"""Artifacts of all backends are the same but for the backend's name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

import onnxruntime

from image_classification.backends.base import ModelSpec
from image_classification.backends.onnx_graph import probabilities_of
from tests.conftest import ClassFolders
from tests.contract.jobs import run_train, write_job
from tests.parity.engines import LITE, RESNET, make_batch, pair

SEVERAL = dataclasses.replace(RESNET, multi_label=True)
RESNET18 = dataclasses.replace(RESNET, backbone="resnet18", input_shape=(1, 40, 48))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("spec", [RESNET, LITE, SEVERAL, RESNET18], ids=str)
def test_equal_weights_give_equal_graphs_that_predict_what_the_engine_predicts(
    subject: str, spec: ModelSpec, temperature: float, tmp_path: Path
) -> None:
    ours, reference = pair(subject, spec)
    for name, engine in (("ours", ours), ("reference", reference)):
        engine.export(tmp_path / name, temperature)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "reference").read_bytes()
    session = onnxruntime.InferenceSession(tmp_path / "ours", providers=["CPUExecutionProvider"])
    images = make_batch(spec, 3).images
    (found,) = session.run(["probabilities"], {"images": images})
    expected = probabilities_of(ours.predict_step(images), spec, temperature)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_exported_graph_has_the_averaged_weights(subject: str, tmp_path: Path) -> None:
    spec = dataclasses.replace(RESNET, averages_weights=True)
    ours, plain = pair(subject, spec)[0], pair(subject, RESNET)[0]
    ours.train_step(make_batch(), 0.01)
    state = ours.state()
    plain.load_state({k.replace("average/", "weight/"): v for k, v in state.items()
                      if k.startswith("average/")})  # fmt: skip
    ours.export(tmp_path / "average")
    plain.export(tmp_path / "plain")
    assert (tmp_path / "average").read_bytes() == (tmp_path / "plain").read_bytes()


def test_jobs_on_two_backends_write_the_same_artifact(
    subject: str, tmp_path: Path, write_class_folders: ClassFolders
) -> None:
    channels = {
        "train": write_class_folders(tmp_path / "train", per_class=4),
        "validation": write_class_folders(tmp_path / "validation", per_class=2, seed=1),
    }
    given = {"num_layers": 20, "image_shape": "3,32,32", "epochs": 1, "mini_batch_size": 6}
    models = []
    for backend in (subject, "reference"):
        base = write_job(tmp_path / backend, given | {"backend": backend}, channels)
        done = run_train(base)
        assert done.returncode == 0, done.stdout + done.stderr
        models.append(base / "model")
    ours, reference = models
    assert _files(ours) == _files(reference)
    for name in ("labels.json", "preprocessing.json", "class_label_to_prediction_index.json"):
        assert (ours / name).read_bytes() == (reference / name).read_bytes()
    found, expected = (json.loads((model / "manifest.json").read_text()) for model in models)
    assert found.keys() == expected.keys()
    assert (found["backend"], expected["backend"]) == (subject, "reference")
    for part in ("interface", "backbone", "input", "classes"):
        assert found.get(part) == expected.get(part)
    assert (ours / "model.onnx").stat().st_size == (reference / "model.onnx").stat().st_size


def _files(model: Path) -> list[str]:
    return sorted(str(path.relative_to(model)) for path in model.rglob("*"))
