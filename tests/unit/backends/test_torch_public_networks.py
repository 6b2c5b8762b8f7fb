"""Networks with public weights compute what the libraries compute that publish those weights.

A network of torchvision gets random weights and statistics, and our engine the same by the layout's
names. Their logits on the same images must agree.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch

from image_classification import backends
from image_classification.backends.backbones import BACKBONES
from image_classification.backends.base import ModelSpec, OptimizerSpec, World
from image_classification.backends.networks import (
    efficientnet,
    efficientnet_lite,
    layouts,
    mobilenet_v2,
    resnet_v1_5,
)
from image_classification.backends.torch import model

TOLERANCE = 1e-4  # of logits near 1
CLASSES = 7


@pytest.fixture(autouse=True)
def _no_first_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing an engine's first weights takes most of the time, and each test replaces them."""
    monkeypatch.setattr(model, "initial_tensor", lambda _, shape, __: np.zeros(shape, np.float32))


def theirs_of(library: Any, name: str, **options: Any) -> Any:
    """A network of theirs in evaluation mode, with random weights and statistics that matter."""
    generator = torch.Generator().manual_seed(1)
    with torch.device("meta"):  # which draws nothing
        theirs = library(name, num_classes=CLASSES, **options).eval()
    theirs.to_empty(device="cpu")
    for key, tensor in theirs.state_dict().items():
        if tensor.ndim == 1:  # a larger variance, so that rounding does not grow with the depth
            least = 1.3 if key.endswith("running_var") else 0.9
            tensor.copy_(least + 0.2 * torch.rand(tensor.shape, generator=generator))
        elif tensor.ndim > 1:
            deviation = (2 / tensor[0].numel()) ** 0.5
            tensor.uniform_(-(3**0.5) * deviation, 3**0.5 * deviation, generator=generator)
    return theirs


def assert_equal_logits(
    theirs: Any, name: str, layout: str, size: tuple[int, int] = (64, 64)
) -> None:
    row = BACKBONES[name]
    mean, std = row.normalization(3)
    spec = ModelSpec(name, CLASSES, (3, *size), mean, std)
    engine = backends.load("torch").build(spec, OptimizerSpec(), World(threads=1))
    names, chosen = layouts.source_names(name, layout), layouts.layouts(name)[layout]
    arrays = {key: tensor.numpy() for key, tensor in theirs.state_dict().items()}
    assert set(names) == {key for key in arrays if not chosen.is_further(key)}
    engine.load_state({f"weight/{ours}": arrays[key] for key, ours in names.items()})
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    normalized = ((images - np.float32(mean)) / np.float32(std)).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(np.ascontiguousarray(normalized)))
    found, scale = engine.predict_step(images), expected.abs().max().item()
    assert (expected[0] - expected[1]).abs().max() > 10 * TOLERANCE * scale, "images must matter"
    np.testing.assert_allclose(found / scale, expected.numpy() / scale, atol=TOLERANCE)


LARGE = re.compile(r"resnet(101|152)_v1.5|wide_resnet101_2|resnext101_.*")
RESNETS = [
    pytest.param(name, marks=[pytest.mark.slow] if LARGE.fullmatch(name) else [])
    for name in resnet_v1_5.PLANS
]


@pytest.mark.parametrize("name", RESNETS)
def test_a_resnet_computes_what_torchvisions_does(timm: Any, name: str) -> None:
    from torchvision import models

    theirs = theirs_of(models.get_model, name.removesuffix("_v1.5"), weights=None)
    assert_equal_logits(theirs, name, "torchvision")


@pytest.mark.parametrize("name", ["resnet18_v1.5", "resnet50_v1.5", "resnext50_32x4d"])
def test_timms_resnets_have_torchvisions_names_and_compute_the_same(timm: Any, name: str) -> None:
    theirs = theirs_of(timm.create_model, name.removesuffix("_v1.5"))
    assert_equal_logits(theirs, name, "torchvision", (97, 64))


SMALLEST = {"mobilenet_v2", "efficientnet_b0", "tf_efficientnet_b0"}
MOBILE = [
    pytest.param(name, layout, marks=[] if name in SMALLEST else [pytest.mark.slow])
    for name in (*mobilenet_v2.WIDTHS, *efficientnet.SCALES, *efficientnet_lite.SCALES)
    for layout in layouts.layouts(name)
    if layout in ("torchvision", "timm")
]


@pytest.mark.parametrize(("name", "layout"), MOBILE)
def test_a_mobile_network_computes_what_its_library_does(timm: Any, name: str, layout: str) -> None:
    """At odd and even sizes: PyTorch's and TensorFlow's padding differ at even ones."""
    from torchvision import models

    if layout == "torchvision":
        theirs = theirs_of(models.get_model, name, weights=None)
    else:
        known = name.replace("mobilenet_v2", "mobilenetv2").removesuffix("mobilenetv2")
        known = {"": "mobilenetv2_100"}.get(known, known)
        known = f"tf_{known}" if "lite" in known else known
        theirs = theirs_of(timm.create_model, known)
    assert_equal_logits(theirs, name, layout, (64, 75))


def test_every_layout_names_each_tensor_of_its_networks_once() -> None:
    for name in BACKBONES:
        for layout, chosen in layouts.layouts(name).items():
            names = layouts.source_names(name, layout)
            ours = list(names.values())
            assert len(ours) == len(set(ours)) and {"head.weight", "head.bias"} <= set(ours)
            assert not [key for key in names if chosen.is_further(key)]
