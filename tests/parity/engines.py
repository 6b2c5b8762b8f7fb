"""Two engines that begin alike, batches for them, and when two results count as equal."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from image_classification import backends
from image_classification.backends.base import Engine, ModelSpec, OptimizerSpec, State, World
from image_classification.samples import Batch

RESNET = ModelSpec("resnet20", 4, (3, 20, 28), (120.0,), (60.0,), seed=3)
LITE = dataclasses.replace(RESNET, backbone="efficientnet_lite0", input_shape=(3, 65, 50))

RELATIVE = 1e-3  # of the largest value of an array; float32 against float64
NOISE = 1e-4  # of the largest change of any array: gradients that cancel to nothing are only noise
LAST_BITS = 4 * float(np.finfo(np.float32).eps)  # of the largest value


def build(
    backend: str, spec: ModelSpec = RESNET, settings: OptimizerSpec | None = None, **optimizer: Any
) -> Engine:
    settings = settings or OptimizerSpec(**optimizer)
    return backends.load(backend).build(spec, settings, World(threads=1))


def pair(backend: str, spec: ModelSpec = RESNET, **optimizer: Any) -> tuple[Engine, Engine]:
    """(engine of the backend, engine of the reference) with equal weights.

    BatchNorms shift by 3 (standard deviations), so that one activation in 400 is cut off instead
    of half of them: close to a kink float32 and float64 may fall on different sides, and among the
    millions of values of one step some would.
    """
    ours, reference = build(backend, spec, **optimizer), build("reference", spec, **optimizer)
    weights = of_weights(reference.state())
    for name in weights:
        if name.endswith(".bias") and name != "weight/head.bias":
            weights[name] = np.full_like(weights[name], 3)
    for engine in (ours, reference):
        engine.load_state(weights)
    return ours, reference


def of_weights(state: State) -> State:
    return {name: value for name, value in state.items() if name.startswith("weight/")}


def make_batch(spec: ModelSpec = RESNET, size: int = 8, seed: int = 0) -> Batch:
    """Images whose classes differ in brightness, so that training has something to learn."""
    channels, height, width = spec.input_shape
    generator = np.random.default_rng(seed)
    classes = generator.permutation(size) % spec.classes
    images = generator.integers(0, 160, (size, height, width, channels), dtype=np.uint8)
    images += (classes * 30).astype(np.uint8)[:, None, None, None]
    targets = np.eye(spec.classes, dtype=np.float32)[classes]
    return Batch(images, targets, np.ones(size, np.float32), tuple(str(i) for i in range(size)))


def assert_same_change(ours: State, reference: State, before: State) -> None:
    """All arrays changed alike since `before` (an absent slot was zero there).

    Each must agree within RELATIVE of its own largest change; or be noise beside the largest
    change of its kind (weights, one slot of the optimizer); or differ in a value's last bits.
    """
    assert ours.keys() == reference.keys()
    changes = {
        name: (
            np.asarray(ours[name], np.float64) - before.get(name, 0),
            np.asarray(reference[name], np.float64) - before.get(name, 0),
        )
        for name in ours
    }
    largest: dict[str, float] = {}
    for name, (_, expected) in changes.items():
        largest[_kind(name)] = max(largest.get(_kind(name), 0.0), float(np.abs(expected).max()))
    for name, (found, expected) in changes.items():
        allowed = RELATIVE * np.abs(expected).max() + NOISE * largest[_kind(name)]
        allowed += LAST_BITS * np.abs(reference[name]).max()
        difference = np.abs(found - expected).max()
        assert difference <= allowed, f"{name}: {difference:.3g} apart, {allowed:.3g} allowed"


def _kind(name: str) -> str:
    statistic = name.rpartition(".")[2] if ".running_" in name else ""
    return "/".join(name.split("/")[:-1]) + statistic
