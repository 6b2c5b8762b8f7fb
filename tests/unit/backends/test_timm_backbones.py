"""Backbones named timm/<name>: any model of the timm library, in the same classifier."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from image_classification import backends
from image_classification.backends.base import ModelSpec, OptimizerSpec, World
from image_classification.errors import BackendError
from image_classification.samples import Batch

SPEC = ModelSpec(
    "timm/mobilenetv3_small_050", 3, (3, 64, 64), (123.675, 116.28, 103.53), (58.4, 57.1, 57.4)
)


def build(spec: ModelSpec = SPEC) -> Any:
    return backends.load("torch").build(spec, OptimizerSpec(), World(threads=1))


def batch() -> Batch:
    images = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    targets = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]
    return Batch(images, targets, np.ones(6, np.float32), tuple("abcdef"))


def test_a_timm_backbone_trains_and_predicts(timm: Any) -> None:
    engine = build()
    losses = [engine.train_step(batch(), 0.05).fetch()[0] for _ in range(8)]
    assert losses[-1] < losses[0]
    assert engine.predict_step(batch().images).shape == (6, 3)


def test_parameters_keep_timms_names_after_a_prefix_and_the_head_has_ours(timm: Any) -> None:
    names = {name.removeprefix("weight/") for name in build().state() if name[:7] == "weight/"}
    theirs = timm.create_model("mobilenetv3_small_050", num_classes=0).state_dict()
    saved = {f"trunk.{name}" for name in theirs if "num_batches_tracked" not in name}
    assert names == saved | {"head.weight", "head.bias"}


def test_the_same_seed_gives_the_same_weights(timm: Any) -> None:
    first, second = build().state(), build().state()
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_a_frozen_timm_backbone_keeps_every_weight(timm: Any) -> None:
    engine = build(ModelSpec(**{**vars(SPEC), "train_only_head": True}))
    before = engine.state()
    engine.train_step(batch(), 0.1)
    after = engine.state()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"weight/head.weight", "weight/head.bias", "optimizer/steps"}


def test_a_timm_backbone_is_exported(timm: Any, tmp_path: Path) -> None:
    build().export(tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").stat().st_size > 1_000_000
    assert output_names(tmp_path / "model.onnx") == ["probabilities", "features"]  # a layer follows


def test_a_timm_backbone_that_ends_with_a_mean_has_a_map(timm: Any, tmp_path: Path) -> None:
    build(ModelSpec(**{**vars(SPEC), "backbone": "timm/resnet10t"})).export(tmp_path / "model.onnx")
    assert output_names(tmp_path / "model.onnx")[2:] == ["class_activation_map"]


def output_names(path: Path) -> list[str]:
    return [output.name for output in onnx.load(path).graph.output]


@pytest.mark.parametrize(
    ("name", "size", "resize", "interpolation", "mean", "std"),
    [
        ("resnet50", 224, 235, "bicubic", 123.675, 58.395),
        ("resnet50.tv_in1k", 224, 256, "bilinear", 123.675, 58.395),
        ("vit_tiny_patch16_224", 224, 248, "bicubic", 127.5, 127.5),
        ("inception_v3", 299, 341, "bicubic", 127.5, 127.5),
        ("efficientnet_b4", 320, 365, "bicubic", 123.675, 58.395),
    ],
)
def test_size_crop_and_normalization_are_those_of_the_models_own_configuration(
    timm: Any, name: str, size: int, resize: int, interpolation: str, mean: float, std: float
) -> None:
    row = backends.catalog("torch").find(f"timm/{name}")
    assert (row.input_size, row.resize, row.interpolation) == (size, resize, interpolation)
    assert (row.mean[0], row.std[0]) == (mean, std)


def test_every_model_of_timm_has_a_row(timm: Any) -> None:
    find = backends.catalog("torch").find
    rows = [find(f"timm/{name}") for name in timm.list_models()]
    assert len(rows) > 1000
    assert all(0 < row.input_size < 1500 and len(row.mean) == 3 for row in rows)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("resnet5o", r"did you mean 'timm/resnet50"), ("resnet50.a1_in1", "'timm/resnet50.a1_in1k'")],
)
def test_a_name_that_timm_does_not_have_names_the_nearest(timm: Any, name: str, hint: str) -> None:
    with pytest.raises(BackendError, match=hint):
        backends.catalog("torch").find(f"timm/{name}")


def test_an_unknown_timm_model_is_a_backend_error(timm: Any) -> None:
    with pytest.raises(BackendError, match="no_such_model"):
        build(ModelSpec(**{**vars(SPEC), "backbone": "timm/no_such_model"}))


def test_an_input_size_that_timm_rejects_is_a_backend_error(timm: Any) -> None:
    with pytest.raises(BackendError, match="3,64,64"):
        build(ModelSpec(**{**vars(SPEC), "backbone": "timm/vit_tiny_patch16_224"}))


def test_without_timm_the_error_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['timm'] = None\n"
        "from image_classification.backends import load\n"
        "from image_classification.backends.base import *\n"
        "spec = ModelSpec('timm/resnet18', 2, (3, 64, 64), (0.0,), (1.0,))\n"
        "try: load('torch').build(spec, OptimizerSpec(), World())\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("BackendError")
    assert "sagemaker-image-classification[timm]" in run.stdout
