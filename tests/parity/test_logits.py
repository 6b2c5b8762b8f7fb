"""Equal weights give equal logits with every backend."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from image_classification import backends
from image_classification.backends.backbones import BACKBONES, SMALL_DEPTHS
from image_classification.backends.base import ModelSpec, State
from image_classification.backends.networks import efficientnet, mobilenet, resnet_v1_5
from tests.parity.engines import build, make_batch

TOLERANCE = 1e-4


def spec_of(name: str) -> ModelSpec:
    """The published input of the small networks, 64 pixels for the others: NumPy is slow."""
    row = BACKBONES[name]
    is_small = name in {f"resnet{depth}" for depth in SMALL_DEPTHS}
    side = 32 if is_small else 64
    mean, std = row.normalization(3)
    return ModelSpec(name, 5, (3, side, side), mean, std, seed=1)


def with_moved_statistics(state: State, least_variance: float = 1.0) -> State:
    """BatchNorms that do something: fresh ones have mean 0, variance 1, scale 1 and shift 0.

    In an untrained EfficientNet-B7 rounding grows from block to block, unless variances are larger.
    """
    generator = np.random.default_rng(2)
    moved = {}
    for name, value in state.items():
        if name.startswith("weight/") and value.ndim == 1:
            value = (value + 0.1 * generator.random(value.shape)).astype(np.float32)
            if name.endswith(".running_var"):
                value += np.float32(least_variance - 1)
        moved[name] = value
    return moved


# Of the networks that other tests compare with the libraries that publish them, one of each kind;
# test_steps has small ones of more kinds.
OF_EACH_KIND = {"resnet18_v1.5", "mobilenet_v2", "tf_mobilenet_v1_025", "tf_efficientnet_b0"}
COMPARED = {
    *resnet_v1_5.PLANS,
    *mobilenet.WIDTHS,
    *mobilenet.V1_WIDTHS,
    *efficientnet.SCALES,
    *("efficientnet_lite3", "efficientnet_lite4"),
} - OF_EACH_KIND
NAMES = [
    pytest.param(name, marks=[pytest.mark.thorough] if name in COMPARED else [])
    for name in BACKBONES
]


@pytest.mark.parametrize("name", NAMES)
def test_equal_weights_give_equal_logits(subject: str, name: str) -> None:
    if subject == "torch" and name in COMPARED:
        pytest.skip("tests/unit/backends compares it with the library that publishes it")
    spec = spec_of(name)
    reference = build("reference", spec)
    is_deepest = name.endswith("efficientnet_b7")
    state = with_moved_statistics(reference.state(), 1.2 if is_deepest else 1.0)
    images = make_batch(spec, 2).images
    # Untrained deep networks have features of hundreds: a head to match keeps logits near 1.
    reference.load_state(state)
    scale = np.abs(reference.predict_step(images)).max()
    state["weight/head.weight"] = (state["weight/head.weight"] / scale).astype(np.float32)
    reference.load_state(state)
    expected = reference.predict_step(images)
    ours = build(subject, spec)
    ours.load_state(state)
    found = ours.predict_step(images)
    assert found.dtype == np.float32 and found.shape == (2, 5)
    assert np.abs(expected[0] - expected[1]).max() > 10 * TOLERANCE, "the images must matter"
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", [name for name in BACKBONES if "lite" in name])
def test_pretrained_weights_give_equal_logits(subject: str, name: str) -> None:
    row = BACKBONES[name]
    weights = backends.load("reference").pretrained_state(row, None)
    if weights is None:
        pytest.skip(f"{row.weights_package} is not installed (extra: pretrained)")
    spec = dataclasses.replace(spec_of(name), classes=1000, input_shape=(3, 96, 96))
    engines = [build(backend, spec) for backend in (subject, "reference")]
    for engine in engines:
        engine.load_state(weights)
    images = make_batch(spec, 2).images
    found, expected = (engine.predict_step(images) for engine in engines)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


def test_pretrained_weights_are_the_same_arrays(subject: str) -> None:
    row = BACKBONES["efficientnet_lite0"]
    found, expected = (backends.load(b).pretrained_state(row, None) for b in (subject, "reference"))
    if found is None or expected is None:
        pytest.skip(f"{row.weights_package} is not installed (extra: pretrained)")
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", ["resnet20", "efficientnet_lite0"])
def test_the_same_seed_gives_the_same_first_weights(subject: str, name: str) -> None:
    found, expected = (build(b, spec_of(name)).state() for b in (subject, "reference"))
    weights = {key for key in expected if key.startswith("weight/")}
    assert weights == {key for key in found if key.startswith("weight/")}
    for key in weights:
        assert found[key].dtype == np.float32, key
        assert np.array_equal(found[key], expected[key]), key


@pytest.mark.parametrize("shape", [(1, 33, 47), (3, 64, 39)])
@pytest.mark.parametrize("name", ["resnet20", "efficientnet_lite0"])
def test_odd_sizes_and_gray_images_are_padded_in_the_same_way(
    subject: str, name: str, shape: tuple[int, int, int]
) -> None:
    spec = ModelSpec(name, 3, shape, (120.0,) * shape[0], (60.0,) * shape[0], seed=2)
    engines = [build(backend, spec) for backend in (subject, "reference")]
    found, expected = (engine.predict_step(make_batch(spec, 3).images) for engine in engines)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE * np.abs(expected).max())
