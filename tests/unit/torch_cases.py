"""A small network, batches for it, and what differs between two states."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from image_classification.backends.base import ModelSpec, State
from image_classification.data.samples import Batch

SMALL = ModelSpec("resnet20", 4, (3, 20, 28), (120.0,), (60.0,), seed=3)


def change(spec: ModelSpec = SMALL, **fields: Any) -> ModelSpec:
    return dataclasses.replace(spec, **fields)


def make_batch(spec: ModelSpec = SMALL, size: int = 6, seed: int = 0) -> Batch:
    channels, height, width = spec.input_shape
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (size, height, width, channels), dtype=np.uint8)
    targets = np.eye(spec.classes, dtype=np.float32)[np.arange(size) % spec.classes]
    return Batch(images, targets, np.ones(size, np.float32), tuple(str(i) for i in range(size)))


def differences(first: State, second: State) -> set[str]:
    assert first.keys() == second.keys()
    return {name for name in first if not np.array_equal(first[name], second[name])}
