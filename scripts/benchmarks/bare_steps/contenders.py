"""A backend's training step and a bare one, on the same batch."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from image_classification import backends
from image_classification.backends.base import ModelSpec, OptimizerSpec, World
from image_classification.contract.process import framework_threads
from image_classification.samples import Batch

RATE, MOMENTUM = 0.01, 0.9


@dataclass
class Contender:
    """One kind of step and the times of its turns."""

    step: Callable[[], float]
    finish: Callable[[], None]
    first: float
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def turn(self, steps: int) -> None:
        """Run `steps` steps and record their time."""
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self.step()
        self.finish()
        self.wall.append((time.perf_counter() - wall) / steps)
        self.cpu.append((time.process_time() - cpu) / steps)


def problem(backbone: str, size: int, count: int) -> tuple[ModelSpec, Batch]:
    """Return the network to train and one batch of `count` random images of 5 classes."""
    classes, shape = 5, (3, size, size)
    spec = ModelSpec(backbone, classes, shape, (127.0,), (128.0,), dropout_rate=0.2)
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (count, size, size, 3), np.uint8)
    targets = np.eye(classes, dtype=np.float32)[draw.integers(0, classes, count)]
    keys = tuple(map(str, range(count)))
    return spec, Batch(images, targets, np.ones(count, np.float32), keys)


def pair_of(name: str, spec: ModelSpec, batch: Batch) -> dict[str, Contender]:
    """Return our step and the bare one, both after a first run."""
    world = World(threads=framework_threads())
    engine = backends.load(name, world.threads).build(spec, OptimizerSpec(momentum=MOMENTUM), world)
    module = importlib.import_module(f"bare_steps.{name}")
    # What a framework still does in the background would fall into the other's turn.
    finish = getattr(module, "finish", lambda: None)
    bare = module.build(spec, batch, RATE, MOMENTUM)
    steps = {"bare": bare, "ours": lambda: engine.train_step(batch, RATE).fetch()[0]}
    contenders = {}
    for kind, step in steps.items():
        start = time.perf_counter()
        step()
        contenders[kind] = Contender(step, finish, time.perf_counter() - start)
        step()
        finish()
    return contenders
