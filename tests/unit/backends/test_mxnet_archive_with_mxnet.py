"""Models written with MXNet's own Module API: our artifacts predict what MXNet predicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mxnet", reason="MXNet is not installed (Python 3.10 or 3.11, NumPy 1.23)")

import mxnet as mx
import onnxruntime

from image_classification import backends
from image_classification.backends import onnx_graph
from image_classification.backends.backbones import IMAGENET_MEAN, IMAGENET_STD
from image_classification.backends.base import ModelSpec, OptimizerSpec, World
from image_classification.backends.mxnet_archive import read_built_in, read_params
from image_classification.export import export_built_in
from tests.unit.backends.mxnet_module import predict, resnet_symbol, train_built_in

TOLERANCE = 1e-4


def small(**options: bool) -> object:
    return resnet_symbol((3, 3, 3), (16, 16, 32, 64), classes=5, height=32, **options)


def pictures(side: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (8, side, side, 3), dtype=np.uint8)


def test_the_reader_finds_what_mxnet_finds(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    arrays = {
        f"arg:{dtype}": mx.nd.array(generator.integers(0, 9, (2, 3)), dtype=dtype)
        for dtype in ("float32", "float64", "float16", "uint8", "int8", "int32", "int64")
    }
    mx.nd.save(str(tmp_path / "x.params"), arrays)
    found = read_params(tmp_path / "x.params")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array.asnumpy())


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_artifact_of_a_small_model_predicts_what_mxnet_predicts(
    tmp_path: Path, multi_label: bool
) -> None:
    module = train_built_in(tmp_path, small(multi_label=multi_label), (3, 32, 32))
    artifact = export_built_in(tmp_path, "mxnet", None, tmp_path / "ours")
    assert artifact.is_multi_label == multi_label
    assert_answers(artifact.model_file, predict(module, pictures(32)), pictures(32))


@pytest.mark.parametrize(
    ("units", "filters", "bottleneck", "backbone"),
    [
        ((2, 2, 2, 2), (64, 64, 128, 256, 512), False, "resnet18"),
        ((3, 4, 6, 3), (64, 256, 512, 1024, 2048), True, "resnet50"),
    ],
)
def test_the_artifact_of_a_large_model_predicts_what_mxnet_predicts(
    tmp_path: Path,
    units: tuple[int, ...],
    filters: tuple[int, ...],
    bottleneck: bool,
    backbone: str,
) -> None:
    symbol = resnet_symbol(units, filters, classes=3, height=64, bottleneck=bottleneck)
    module = train_built_in(tmp_path, symbol, (3, 64, 64), epochs=1)
    artifact = export_built_in(tmp_path, "mxnet", None, tmp_path / "ours")
    assert artifact.manifest["backbone"] == backbone
    assert_answers(artifact.model_file, predict(module, pictures(64)), pictures(64))


def assert_answers(graph: Path, expected: np.ndarray, images: np.ndarray) -> None:
    assert expected.std() > 0.01, "answers that are all alike prove nothing"
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    (found,) = session.run(["probabilities"], {"images": images})
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def test_weights_for_another_normalization_predict_the_same(tmp_path: Path) -> None:
    """So training goes on with the normalization of every other job."""
    module = train_built_in(tmp_path, small(), (3, 32, 32))
    model = read_built_in(tmp_path)
    spec = ModelSpec(model.backbone, model.classes, model.input_shape, IMAGENET_MEAN, IMAGENET_STD)
    engine = backends.load("mxnet").build(spec, OptimizerSpec(), World())
    engine.load_state(model.weights_for(spec.mean, spec.std))
    found = onnx_graph.probabilities_of(engine.predict_step(pictures(32)), spec)
    np.testing.assert_allclose(found, predict(module, pictures(32)), atol=TOLERANCE)
