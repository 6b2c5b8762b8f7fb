"""A small network, batches for it, and what differs between two states."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from image_classification.backends.base import ModelSpec, State
from image_classification.samples import Batch

SMALL = ModelSpec("resnet20", 4, (3, 20, 28), (120.0,), (60.0,), seed=3)


STEP_WITHOUT_MEMORY = """
import resource
import numpy as np
from image_classification import backends
from image_classification.backends.base import ModelSpec, OptimizerSpec, World
from image_classification.samples import Batch

shape = (3, 224, 224)
spec = ModelSpec("resnet20", 2, shape, (127.0,) * 3, (128.0,) * 3)
engine = backends.load("torch").build(spec, OptimizerSpec(), World())
images = np.zeros((64, 224, 224, 3), np.uint8)
targets = np.tile(np.float32((1, 0)), (64, 1))
batch = Batch(images, targets, np.ones(64, np.float32), ("",) * 64)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20),) * 2)
for step in (lambda: engine.train_step(batch, 0.1), lambda: engine.predict_step(images)):
    try:
        step()
    except MemoryError as error:
        print("MemoryError:", error)
"""
"""A program: a training step and a prediction with 100 MB left, and what they raise."""


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
