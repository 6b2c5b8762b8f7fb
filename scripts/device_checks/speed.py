"""A whole job against a bare loop of the same network, the engine alone and the loader alone.

The four take turns: after each epoch of the job, the others run for as many steps. So a machine or
a GPU that changes its speed changes that of all. The job's first epoch warms up and does not count.
With mixup, only the job and the bare loop run: the others do not mix.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from bare_steps import torch as bare_steps

from device_checks import networks, pictures
from device_checks.one import Given
from device_checks.rows import Rows
from image_classification.backends import step as steps_of_backends
from image_classification.backends.base import Engine, ModelSpec
from image_classification.backends.torch import optimizer
from image_classification.contract.paths import JobPaths
from image_classification.samples import Batch, UInt8Array
from image_classification.training.checkpoint import Checkpoints, History
from image_classification.training.engine import start_engine
from image_classification.training.final_settings import final_settings, identity_of
from image_classification.training.inputs import open_inputs
from image_classification.training.journal import Journal
from image_classification.training.loaders import open_loaders
from image_classification.training.loop import Loop
from image_classification.training.request import JobRequest, read_request

_RATE, _MOMENTUM = 0.01, 0.9
_TURN_SECONDS = 8.5
_LEAST_SHARE, _MOST_WAIT = 0.95, 0.02
_MEMORY_OF_BATCH = 32 << 30  # bytes of a GPU for which a batch of 256 is usual
_BARE, _ENGINE, _LOADER, _JOB = "bare loop", "engine", "loader", "job"


@dataclass
class Turns:
    """Images per second of each contender, one number per turn that counts."""

    rates: dict[str, list[float]] = field(default_factory=dict)
    waits: list[float] = field(default_factory=list)

    def add(self, name: str, rate: float) -> None:
        self.rates.setdefault(name, []).append(rate)

    def share(self, name: str) -> float:
        """Return a contender's speed as a share of the bare loop's: the median of the turns."""
        pairs = zip(self.rates[name], self.rates[_BARE], strict=True)
        return statistics.median(own / bare for own, bare in pairs)


def run(given: Given) -> None:
    rows, backbone = given.rows, given.size("resnet50", "resnet20")
    spec, size = networks.spec_of(backbone, 1000), _batch_size(given)
    has = optimizer.precision_names(bare_steps.device())
    precision = steps_of_backends.precision_of("auto", has, "PyTorch", bare_steps.device())
    batch = networks.batch_of(_images(given, spec, size))
    bare = bare_steps.deferred(spec, batch, _RATE, _MOMENTUM, precision)
    steps = _steps(bare, given)
    rows.note("network, precision, batch size", f"{backbone}, {precision}, {size}")
    rows.note("steps per turn", steps)
    photos = pictures.files(given, given.size(256, 6))
    train = pictures.class_folders(given.work / "train", photos, size * steps, networks.CLASSES)
    held = pictures.class_folders(given.work / "held", photos, networks.CLASSES, networks.CLASSES)
    for name, added in (("", {}), ("with mixup", {"mixup_alpha": "0.2"})):
        base = given.work / f"job {name}".strip()
        base.mkdir()
        paths = JobPaths(base, {"train": train, "validation": held}, base / "model")
        turns = given.size(3, 1) + 1
        hyperparameters = {
            "backbone": backbone,
            "mini_batch_size": str(size),
            "epochs": str(turns),
            "learning_rate": str(_RATE),
            "augmentation_type": "crop",
            **added,
        }
        request = read_request(paths, hyperparameters)
        found = _take_turns(request, bare, batch, steps, is_whole=not name)
        _note(rows, name, found)
        rows.expect(f"turns that count {name}".strip(), len(found.rates[_JOB]), turns - 1)


def _note(rows: Rows, name: str, found: Turns) -> None:
    with_name = f" {name}" if name else ""
    for contender, rates in found.rates.items():
        text = ", ".join(f"{rate:.0f}" for rate in rates)
        rows.note(f"images/s{with_name}: {contender}", text)
    for contender in sorted(found.rates.keys() - {_BARE, _JOB}):
        rows.note(f"{contender} / bare loop{with_name}", found.share(contender))
    rows.goal(f"job / bare loop{with_name}", found.share(_JOB), "≥", _LEAST_SHARE, is_speed=True)
    rows.goal(
        f"share of the job's time that waits for data{with_name}",
        statistics.median(found.waits),
        "<",
        _MOST_WAIT,
        is_speed=True,
    )


def _batch_size(given: Given) -> int:
    """Return 256, or less on a GPU with little memory."""
    if given.cpu:
        return 8
    memory = torch.cuda.get_device_properties(0).total_memory
    size = 256
    while size > 16 and memory < _MEMORY_OF_BATCH * size // 256:
        size //= 2
    return size


def _images(given: Given, spec: ModelSpec, size: int) -> UInt8Array:
    photos = pictures.files(given, given.size(64, 6))
    images = pictures.inputs(photos, networks.preprocessing_of(spec))
    return images[[index % len(images) for index in range(size)]]


def _steps(bare: Callable[[], torch.Tensor], given: Given) -> int:
    """Return 100 steps, or as many as a slow GPU takes in a turn."""
    if given.cpu:
        return 3
    for _ in range(5):
        bare()
    bare_steps.finish()
    seconds = _seconds(bare, 10) / 10
    return max(20, min(100, int(_TURN_SECONDS / seconds)))


def _seconds(step: Callable[[], object], steps: int) -> float:
    began = time.perf_counter()
    for _ in range(steps):
        step()
    bare_steps.finish()
    return time.perf_counter() - began


def _take_turns(
    request: JobRequest, bare: Callable[[], object], batch: Batch, steps: int, *, is_whole: bool
) -> Turns:
    """Run the job; after each of its epochs but the first, run the bare loop, or all others."""
    settings = request.settings
    inputs = open_inputs(request.channels, settings, request.interface.training_channel)
    settings = final_settings(settings, inputs)
    world, found = networks.world(), Turns()
    engine, _ = start_engine(settings, inputs, None, None, world)
    on_cpu = engine.device == "cpu"
    with (
        open_loaders(settings, inputs, world, on_cpu=on_cpu) as own,
        open_loaders(settings, inputs, world, on_cpu=on_cpu) as others,
    ):
        identity = identity_of(request.interface.name, settings, inputs)
        loop = Loop(
            engine=engine,
            settings=settings,
            classes=len(inputs.labels),
            training=own.training,
            validation=own.validation,
            journal=Journal(request.interface.lines, settings.epochs, own.training.steps),
            checkpoints=Checkpoints(request.paths.checkpoints, identity),
            world=world,
        )

        def observe(history: History) -> None:
            turn = len(history.epochs) - 1
            if not turn:
                return
            found.add(_JOB, history.epochs[-1].images_per_second)
            found.waits.append(history.epochs[-1].wait_share)
            found.add(_BARE, steps * len(batch) / _seconds(bare, steps))
            if is_whole:
                found.add(_ENGINE, steps * len(batch) / _engine_seconds(engine, batch, steps))
                found.add(_LOADER, _loader_rate(others.training.epoch(turn)))

        loop.run([observe])
    engine.release()
    return found


def _engine_seconds(engine: Engine, batch: Batch, steps: int) -> float:
    return _seconds(lambda: engine.train_step(batch, _RATE), steps)


def _loader_rate(batches: Iterable[Batch]) -> float:
    began, images = time.perf_counter(), 0
    for batch in batches:
        images += len(batch)
    return images / (time.perf_counter() - began)
