"""Networks with public weights compute what the libraries compute that publish those weights.

A network of torchvision gets random weights and statistics, and our engine the same by the layout's
names. Their logits on the same images must agree.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch

from image_classification import backends
from image_classification.backends import networks
from image_classification.backends.backbones import BACKBONES
from image_classification.backends.base import ModelSpec, OptimizerSpec, World
from image_classification.backends.networks import layouts
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
    theirs: Any, name: str, layout: str, size: tuple[int, int] = (64, 75)
) -> None:
    row = BACKBONES[name]
    mean, std = row.normalization(3)
    spec = ModelSpec(name, CLASSES, (3, *size), mean, std)
    engine = backends.load("torch").build(spec, OptimizerSpec(), World(threads=1))
    names, chosen = layouts.source_names(name, layout), layouts.layouts(name)[layout]
    arrays = {key: tensor.numpy() for key, tensor in theirs.state_dict().items()}
    assert set(names) == {key for key in arrays if not chosen.is_further(key)}
    engine.load_state(
        {
            f"weight/{ours}": layouts.neutral_array(name, layout, ours, arrays[key])
            for key, ours in names.items()
        }
    )
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    normalized = ((images - np.float32(mean)) / np.float32(std)).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(np.ascontiguousarray(normalized)))
    found, scale = engine.predict_step(images), expected.abs().max().item()
    assert (expected[0] - expected[1]).abs().max() > 10 * TOLERANCE * scale, "images must matter"
    np.testing.assert_allclose(found / scale, expected.numpy() / scale, atol=TOLERANCE)


NETWORKS = [
    (name, layout)
    for name in BACKBONES
    for layout in layouts.layouts(name)
    if layout in ("torchvision", "timm")
]


def library_of(timm: Any, name: str, layout: str) -> tuple[Any, str, dict[str, Any]]:
    """The function of a library that makes the network, and its name there."""
    from torchvision import models

    known = name.removesuffix("_v1.5")
    if layout == "torchvision":
        return models.get_model, known, {"weights": None}
    known = "mobilenetv2_100" if known == "mobilenet_v2" else known.replace("t_v2_", "tv2_")
    return timm.create_model, f"tf_{known}" if "lite" in known else known, {}


@pytest.mark.parametrize(("name", "layout"), NETWORKS)
def test_a_network_has_the_names_and_shapes_of_its_librarys(
    timm: Any, name: str, layout: str
) -> None:
    library, known, options = library_of(timm, name, layout)
    with torch.device("meta"):  # which has shapes and no numbers
        theirs = library(known, num_classes=CLASSES, **options).state_dict()
    network = networks.network(name, (3, 64, 64))
    shapes = network.tensor_shapes()
    shapes |= {"head.weight": (CLASSES, network.width), "head.bias": (CLASSES,)}
    names, chosen = layouts.source_names(name, layout), layouts.layouts(name)[layout]
    found = {key: tuple(tensor.shape) for key, tensor in theirs.items()}
    expected = {key: shapes[ours] for key, ours in names.items()}
    assert {key: shape for key, shape in found.items() if not chosen.is_further(key)} == expected


QUICK = {
    ("resnet18_v1.5", "torchvision"),
    ("resnet50_v1.5", "torchvision"),
    ("resnext50_32x4d", "torchvision"),
    ("mobilenet_v2", "torchvision"),
    ("efficientnet_b0", "torchvision"),
    ("tf_efficientnet_b0", "timm"),
}
SLOW = {
    ("resnet152_v1.5", "torchvision"),
    ("wide_resnet50_2", "torchvision"),
    ("mobilenet_v2_140", "timm"),
    ("efficientnet_b5", "torchvision"),
    ("efficientnet_b5", "timm"),
    ("efficientnet_lite4", "timm"),
}


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow])
        for case in NETWORKS
        if case in QUICK | SLOW or "EVERY_NETWORK" in os.environ
    ],
)
def test_a_network_computes_what_its_librarys_does(timm: Any, name: str, layout: str) -> None:
    """At odd and even sizes: PyTorch's and TensorFlow's padding differ at even ones.

    EVERY_NETWORK in the environment adds those that have the layers of these, but more of them.
    """
    library, known, options = library_of(timm, name, layout)
    assert_equal_logits(theirs_of(library, known, **options), name, layout)


def test_timms_resnets_have_torchvisions_names_and_compute_the_same(timm: Any) -> None:
    name = "resnet50_v1.5"
    theirs = theirs_of(timm.create_model, "resnet50")
    assert_equal_logits(theirs, name, "torchvision")


def test_every_layout_names_each_tensor_of_its_networks_once() -> None:
    for name in BACKBONES:
        for layout, chosen in layouts.layouts(name).items():
            names = layouts.source_names(name, layout)
            ours = list(names.values())
            assert len(ours) == len(set(ours)) and {"head.weight", "head.bias"} <= set(ours)
            assert not [key for key in names if chosen.is_further(key)]
