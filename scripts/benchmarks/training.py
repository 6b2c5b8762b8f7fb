"""A training step against a bare loop of the same network in the same framework.

    scripts/benchmark training [--backend NAME]... [--backbone NAME] [--json]

Both run in one process on the same batch in turns, so that whatever else the machine does meets
both alike. The bare loop is what one writes in a notebook: forward, loss, gradients, SGD with
momentum; ours adds the dropout, the samples' weights, weight decay and what else the protocol asks.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from setting.machine import machine

from image_classification import backends
from image_classification.backends.base import ModelSpec, OptimizerSpec, World
from image_classification.contract.process import framework_threads
from image_classification.errors import BackendError
from image_classification.samples import Batch

RATE, MOMENTUM = 0.01, 0.9
BareStep = Callable[[], float]


@dataclass
class Contender:
    """One kind of step and what its turns took."""

    step: Callable[[], float]
    finish: Callable[[], None]
    first: float
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def turn(self, steps: int) -> None:
        """Some steps, timed together."""
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self.step()
        self.finish()
        self.wall.append((time.perf_counter() - wall) / steps)
        self.cpu.append((time.process_time() - cpu) / steps)


def main() -> int:
    """Measure and print."""
    options = _options()
    spec, batch = _problem(options)
    contenders: dict[str, Contender] = {}
    where = {**machine(), "threads": framework_threads()}
    result: dict[str, object] = {"machine": where, "skipped": {}, "contenders": {}}
    ratios = result["ratios"] = {}
    for name in options.backend or [n for n in backends.names() if n != "reference"]:
        try:
            pair = _pair(name, spec, batch)
        except (BackendError, ModuleNotFoundError) as error:
            result["skipped"][name] = str(error)  # type: ignore[index]
            continue
        for _ in range(options.turns):
            for contender in pair.values():
                contender.turn(options.steps)
        contenders |= {f"{kind}-{name}": contender for kind, contender in pair.items()}
        ratios[name] = {kind: _ratio(pair, kind) for kind in ("wall", "cpu")}
    result["contenders"] = {name: _row(c, options.batch) for name, c in contenders.items()}
    sys.stdout.write((json.dumps(result) if options.json else table(result)) + "\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", action="append", help="default: all that are installed")
    parser.add_argument("--backbone", default="efficientnet_lite0", help="a shared backbone")
    parser.add_argument("--size", type=int, default=224, help="side in pixels")
    parser.add_argument("--batch", type=int, default=32, help="images a step")
    parser.add_argument("--steps", type=int, default=3, help="steps a turn")
    parser.add_argument("--turns", type=int, default=7, help="turns of each")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser.parse_args()


def _problem(options: argparse.Namespace) -> tuple[ModelSpec, Batch]:
    classes, shape = 5, (3, options.size, options.size)
    spec = ModelSpec(options.backbone, classes, shape, (127.0,), (128.0,), dropout_rate=0.2)
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (options.batch, options.size, options.size, 3), np.uint8)
    targets = np.eye(classes, dtype=np.float32)[draw.integers(0, classes, options.batch)]
    keys = tuple(map(str, range(options.batch)))
    return spec, Batch(images, targets, np.ones(options.batch, np.float32), keys)


def _pair(name: str, spec: ModelSpec, batch: Batch) -> dict[str, Contender]:
    """Our step and the bare one, both warm."""
    world = World(threads=framework_threads())
    engine = backends.load(name).build(spec, OptimizerSpec(momentum=MOMENTUM), world)
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


def _ratio(pair: dict[str, Contender], kind: str) -> float:
    """How many times the images ours makes a second, or a CPU-second: the median of the turns."""
    turns = zip(getattr(pair["bare"], kind), getattr(pair["ours"], kind), strict=True)
    return statistics.median(bare / ours for bare, ours in turns)


def _row(contender: Contender, images: int) -> dict[str, float]:
    return {
        "images_per_second": images / statistics.median(contender.wall),
        "cpu_seconds_per_1000": 1000 * statistics.median(contender.cpu) / images,
        "first_step_seconds": contender.first,
    }


def table(result: dict[str, object]) -> str:
    """The result for people."""
    lines = [str(result["machine"]), "", f"{'':20}{'images/s':>10}{'CPU-s/1,000':>13}{'first':>8}"]
    for name, row in result["contenders"].items():
        lines.append("{:20}{:10.1f}{:13.1f}{:8.1f}".format(name, *row.values()))
    for name, ratio in result["ratios"].items():
        lines.append(f"{name}: {ratio['wall']:.3f} × bare, {ratio['cpu']:.3f} × per CPU-second")
    lines += [f"skipped {name}: {reason}" for name, reason in result["skipped"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
