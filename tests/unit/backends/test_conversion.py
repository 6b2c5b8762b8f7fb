"""Public files become weights of a backbone, tensor for tensor; what does not fit is named."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from image_classification.backends import networks
from image_classification.backends.backbones import BACKBONES
from image_classification.backends.conversion import recognize
from image_classification.backends.networks.layouts import layouts, neutral_array, source_names
from image_classification.backends.pretrained import (
    UNKNOWN,
    find_pretrained,
    has_weights,
    read_weights,
    similar_files,
)
from image_classification.errors import ArtifactError
from image_classification.weights import opened
from tests.unit.backends.built_in_archive import params_bytes

CLASSES = 7
NAME = "resnet18_v1.5"


def public(backbone: str = NAME, layout: str = "torchvision") -> dict[str, np.ndarray]:
    """Random tensors with the names and axes of a layout."""
    network = networks.network(backbone, (3, 224, 224))
    shapes = network.tensor_shapes() | {
        "head.weight": (CLASSES, network.width),
        "head.bias": (CLASSES,),
    }
    generator = np.random.default_rng(0)
    tensors = {}
    for theirs, ours in source_names(backbone, layout).items():
        shape = shapes[ours]
        if layouts(backbone)[layout].is_keras:
            axes = (
                (2, 3, 0, 1) if shape[1:2] == (1,) else {2: (1, 0), 4: (2, 3, 1, 0)}.get(len(shape))
            )
            shape = tuple(shape[axis] for axis in axes) if axes else shape
            if "conv_preds/kernel" in theirs:  # MobileNet V1 has a 1×1 convolution as its head
                shape = (1, 1, *shape)
        tensors[theirs] = generator.random(shape, np.float32)
    return tensors


def saved(tmp_path: Path, tensors: Mapping[str, np.ndarray], name: str = "x") -> Path:
    path = tmp_path / f"{name}.safetensors"
    save_file(dict(tensors), path)
    return path


def refused(path: Path, backbone: str = NAME) -> str:
    with pytest.raises(ArtifactError) as caught:
        read_weights(path, BACKBONES[backbone])
    return str(caught.value)


@pytest.mark.parametrize(
    ("backbone", "layout"),
    [
        ("resnet18_v1.5", "torchvision"),
        ("resnet18_v1.5", "transformers"),
        ("efficientnet_lite0", "timm"),
        ("efficientnet_lite2", "pypi"),
        ("resnet50", "gluon"),
        ("efficientnet_b0", "torchvision"),
        ("tf_efficientnet_b0", "keras"),
        ("tf_efficientnet_b0", "transformers"),
        ("mobilenet_v2", "timm"),
        ("tf_mobilenet_v1_025", "keras"),
        ("tf_mobilenet_v1_025", "transformers"),
    ],
)
def test_every_tensor_of_a_layout_arrives_under_its_neutral_name(
    tmp_path: Path, backbone: str, layout: str
) -> None:
    tensors = public(backbone, layout)
    found = read_weights(saved(tmp_path, tensors), BACKBONES[backbone])
    assert (found.layout, found.source, found.license) == (layout, UNKNOWN, UNKNOWN)
    for theirs, ours in source_names(backbone, layout).items():
        expected = neutral_array(backbone, layout, ours, tensors[theirs])
        assert np.array_equal(found.weights[ours], expected), theirs
    with opened(tmp_path / "x.safetensors") as (_, file):
        assert backbone in recognize(file)


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model.", "_orig_mod."])
def test_the_prefixes_of_pytorchs_wrappers_are_taken_off(tmp_path: Path, prefix: str) -> None:
    tensors = {prefix + name: array for name, array in public().items()}
    assert read_weights(saved(tmp_path, tensors), BACKBONES[NAME]).layout == "torchvision"
    del tensors[f"{prefix}bn1.bias"]
    assert f"missing: {prefix}bn1.bias" in refused(saved(tmp_path, tensors))


def test_counters_are_left_out_and_half_precision_is_widened(tmp_path: Path) -> None:
    tensors = {name: array.astype(np.float16) for name, array in public().items()}
    tensors["bn1.num_batches_tracked"] = np.array(7, np.int64)
    found = read_weights(saved(tmp_path, tensors), BACKBONES[NAME])
    assert found.unused == ("bn1.num_batches_tracked",)
    assert {array.dtype for array in found.weights.values()} == {np.dtype(np.float32)}


def test_a_file_without_a_head_is_accepted_and_half_a_head_is_not(tmp_path: Path) -> None:
    tensors = public()
    del tensors["fc.weight"]
    assert "missing: fc.weight" in refused(saved(tmp_path, tensors))
    del tensors["fc.bias"]
    found = read_weights(saved(tmp_path, tensors), BACKBONES[NAME])
    assert "head.weight" not in found.weights and len(found.weights) == len(tensors)


def test_missing_extra_and_misshapen_tensors_are_listed_by_the_files_own_names(
    tmp_path: Path,
) -> None:
    tensors = public()
    del tensors["layer1.0.bn1.weight"]
    tensors["adapter.weight"] = np.ones(3, np.float32)
    tensors["fc.bias"] = np.ones(9, np.float32)
    tensors["conv1.weight"] = np.ones((64, 1, 7, 7), np.float32)
    message = refused(saved(tmp_path, tensors))
    assert "these are not the weights of resnet18_v1.5" in message
    assert "missing: layer1.0.bn1.weight" in message
    assert "extra: adapter.weight" in message
    assert "conv1.weight (64, 1, 7, 7) instead of (64, 3, 7, 7)" in message
    assert "fc.bias for another number of classes" in message


def test_the_network_whose_weights_they_are_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path, public("resnet34_v1.5"))
    assert "they are resnet34_v1.5's, so use that name" in refused(path)
    assert "they are resnet34_v1.5's, so use that name" in refused(path, "resnet50")


def test_a_message_is_short_however_many_tensors_do_not_fit(tmp_path: Path) -> None:
    tensors = {f"{'x' * 500}{number}": np.ones(1, np.float32) for number in range(2000)}
    message = refused(saved(tmp_path, tensors))
    assert len(message) < 2500 and "and 1994 more" in message
    assert "known for resnet18_v1.5 are the names of this project, torchvision" in message


def test_a_tensor_of_the_wrong_size_is_refused_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = public()
    tensors["fc.weight"] = np.ones((200_000, 512), np.float16)  # of more classes than any data
    path = saved(tmp_path, tensors)
    monkeypatch.setattr("image_classification.weights.tensors.RegularFile.array", None)
    assert "fc.weight (200000, 512) instead of (classes, 512)" in refused(path)


def test_gluons_older_files_number_the_layers_of_a_stage(tmp_path: Path) -> None:
    outside = {
        "features.0": "batchnorm0",
        "features.1": "conv0",
        "features.2": "batchnorm1",
        "features.9": "batchnorm2",
        "output": "dense0",
    }
    older = {}
    tensors = public("resnet50", "gluon") | {"features.0.gamma": np.ones(3, np.float32)}
    for name, array in tensors.items():
        layer, _, tensor = name.rpartition(".")
        if layer not in outside:
            _, stage, block, layer = layer.split(".")
            kind = "batchnorm" if layer.startswith("bn") else "conv"
            first = (3 * int(block)) + (kind == "conv" and int(block) > 0)
            number = 3 if layer == "downsample" else first + int(layer[-1]) - 1
            older[f"resnetv20_stage{int(stage) - 4}_{kind}{number}_{tensor}"] = array
        else:
            older[f"resnetv20_{outside[layer]}_{tensor}"] = array
    (tmp_path / "old.params").write_bytes(params_bytes(older))
    (tmp_path / "new.params").write_bytes(params_bytes(tensors))
    old, new = (
        read_weights(tmp_path / f"{n}.params", BACKBONES["resnet50"]) for n in ("old", "new")
    )
    assert old.unused == ("resnetv20_batchnorm0_gamma",)
    assert all(np.array_equal(old.weights[name], array) for name, array in new.weights.items())


def test_the_hash_in_a_files_name_is_checked(tmp_path: Path) -> None:
    path = saved(tmp_path, public())
    path = path.rename(tmp_path / "resnet18-f37072fd.pth")
    assert "was altered: its SHA-256 begins with" in refused(path)


@pytest.mark.parametrize("name", ["resnet18-20210831.pth", "resnet18_v2-ecdbc167.params", "x.pth"])
def test_a_date_and_gluons_hash_in_a_name_are_not_that_hash(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path, public()).rename(tmp_path / name)
    assert read_weights(path, BACKBONES[NAME]).file == name


def test_only_files_of_weights_with_the_exact_name_count(tmp_path: Path) -> None:
    row = BACKBONES[NAME]
    for name in (
        "resnet18_v1.5.md",
        "resnet18_v1.5.txt",
        "resnet18.pth",
        "resnet18_v1.safetensors",
    ):
        (tmp_path / name).touch()
    assert not has_weights(row, tmp_path)
    assert similar_files(row, tmp_path) == ["resnet18.pth", "resnet18_v1.safetensors"]
    for name in ("params", "weights.h5", "h5", "bin", "pt", "pth", "safetensors"):
        (tmp_path / f"resnet18_v1.5.{name}").touch()
        assert has_weights(row, tmp_path)
    assert find_pretrained(row, tmp_path) == tmp_path / "resnet18_v1.5.safetensors"


def test_a_folder_with_the_name_of_the_backbone_counts(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    path = saved(tmp_path / NAME, public(), "model")
    assert find_pretrained(BACKBONES[NAME], tmp_path) == path


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        (
            "conv1.weight",
            lambda array: array.astype(np.int8),
            r"conv1.weight has integers \(int8\)",
        ),
        ("bn1.bias", lambda array: array > 0, r"bn1.bias has integers \(uint8\)"),
        ("bn1.running_var", np.negative, "bn1.running_var has negative numbers"),
        ("bn1.bias", lambda array: array.astype(np.float64) * 1e300, "not finite"),
    ],
    ids=["quantized", "boolean", "negative variance", "beyond float32"],
)
@pytest.mark.filterwarnings("error")
def test_numbers_that_no_weights_have_are_refused(
    tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray], reason: str
) -> None:
    tensors = public()
    tensors[name] = change(tensors[name])
    assert re.search(reason, refused(saved(tmp_path, tensors)))


def test_a_head_without_classes_is_refused(tmp_path: Path) -> None:
    tensors = public()
    tensors |= {"fc.weight": tensors["fc.weight"][:0], "fc.bias": tensors["fc.bias"][:0]}
    assert "fc.weight (0, 512) instead of (classes, 512)" in refused(saved(tmp_path, tensors))
