"""The modules that one training step runs through are the ones that docs/architecture.md lists."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import FrameType

import pytest

from image_classification.backends.base import World
from image_classification.contract.interface import INTERFACES
from image_classification.labels.label_map import LabelMap
from image_classification.loading.loader import Loader
from image_classification.samples import Batch
from image_classification.training.checkpoint import Checkpoints
from image_classification.training.engine import start_engine
from image_classification.training.inputs import Inputs
from image_classification.training.journal import Journal
from image_classification.training.loop import Loop
from image_classification.training.settings import settings_of
from image_classification.training.stopping import StopRequest
from tests.unit.training.test_loop import Colors

ARCHITECTURE = Path(__file__).parents[3] / "docs" / "architecture.md"
PACKAGE = "image_classification."
MOST = 8


def listed() -> list[str]:
    text = ARCHITECTURE.read_text("utf-8")
    section = text.partition("## One training step\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| \d+ \| `([\w/]+)\.py` \|", section, re.MULTILINE)


def modules_of_a_step(**given: str) -> list[str]:
    """The package's modules whose functions run in the main thread in the second of five steps.

    It begins where the loop asks for the batch and ends where it asks for the next one. Generated
    functions, such as the constructor of a dataclass, count for the module of their class.
    """
    pytest.importorskip("torch", reason="PyTorch is not installed")
    job = {"num_layers": "20", "image_shape": "3,8,8", "backend": "torch", "epochs": "1"}
    values = INTERFACES["mxnet"].parse(job | {"mini_batch_size": "2"} | given)
    settings, source = settings_of(values), Colors()
    inputs = Inputs(source, source, None, LabelMap(("dark", "bright")))
    engine, _ = start_engine(settings, inputs, None, None, World())
    training = Loader(source, settings.preprocessing, 2, shuffle=True)
    validation = Loader(source, settings.preprocessing, 2)
    modules: dict[str, None] = {}

    def note(frame: FrameType, _event: str, _argument: object) -> None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith(PACKAGE):
            modules[name.removeprefix(PACKAGE).replace(".", "/")] = None

    whole_epoch = training.epoch

    def traced_epoch(
        number: int, first_step: int = 0, **options: Callable[[], bool]
    ) -> Iterator[Batch]:
        batches = whole_epoch(number, first_step, **options)
        for index in count():
            sys.setprofile(note if index == 1 else None)
            batch = next(batches, None)
            if batch is None:
                return
            yield batch

    training.epoch = traced_epoch  # type: ignore[method-assign,assignment]
    loop = Loop(
        engine,
        settings,
        2,
        training,
        validation,
        Journal(INTERFACES["mxnet"].lines, 1, training.steps),
        Checkpoints(None, {}),
        should_stop=StopRequest().is_set,
    )
    with training, validation:
        try:
            loop.run()
        finally:
            sys.setprofile(None)
            engine.release()
    return list(modules)


def test_a_training_step_runs_through_the_modules_that_the_documentation_lists() -> None:
    assert modules_of_a_step() == listed()


def test_a_step_that_trains_the_head_alone_runs_through_no_other_module() -> None:
    assert set(modules_of_a_step(train_only_top_layer="1")) <= set(listed())


def test_a_training_step_runs_through_few_modules() -> None:
    assert 0 < len(listed()) <= MOST
