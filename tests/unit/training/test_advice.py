"""A legal but hopeless job gets one line of advice for each reason, and a sound one gets none."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from image_classification.contract import process
from image_classification.contract.interface import INTERFACES
from image_classification.contract.paths import JobPaths
from image_classification.errors import HyperparameterError
from image_classification.labels.label_map import LabelMap
from image_classification.training.evaluation import Outcomes, constant_share
from image_classification.training.final_settings import log_advice, log_settings
from image_classification.training.request import read_request
from image_classification.training.settings import settings_of
from tests.unit.training.test_loop import prepare_loop

HOPEFUL = {"epochs": 10, "num_layers": 50, "use_pretrained_model": 1, "mini_batch_size": 32}


def advice(
    caplog: pytest.LogCaptureFixture,
    samples: int = 5_000,
    validated: int = 500,
    classes: int = 5,
    interface: str = "mxnet",
    **given: object,
) -> list[str]:
    """Return the lines of a job with these images and hyperparameters."""
    hopeful = HOPEFUL if interface == "mxnet" else {"train_only_top_layer": 1, "epochs": 10}
    values = INTERFACES[interface].parse({**hopeful, **given})
    request: Any = SimpleNamespace(
        values=values,
        settings=settings_of(values),
        channels={},
        is_sharded=False,
        cluster=SimpleNamespace(hosts=("algo-1",)),
    )
    inputs: Any = SimpleNamespace(
        training_samples=samples, validation=range(validated), labels=range(classes)
    )
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        log_advice(request, inputs)
    return [record.getMessage() for record in caplog.records]


def test_a_sound_job_gets_no_advice(caplog: pytest.LogCaptureFixture) -> None:
    assert advice(caplog) == []
    assert advice(caplog, 10_000, use_pretrained_model=0) == []
    assert advice(caplog, interface="tensorflow", learning_rate=0.001) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"use_pretrained_model": 0}, "random weights with 999 images per class: below 1,000"),
        ({"use_pretrained_model": 0}, "preset=transfer"),
        ({"mini_batch_size": 5_000}, "mini_batch_size=5000 is larger than the 4995 training"),
        ({"epochs": 1, "mini_batch_size": 270}, "updates the weights only 19 times"),
        ({"epochs": 4, "mini_batch_size": 2_000}, "updates the weights only 12 times"),
        ({"validated": 5}, "Only 5 validation images: each changes the accuracy by 20%"),
        (
            {"learning_rate": 0.9},
            "learning_rate=0.9 with optimizer=sgd and momentum=0.9 is so high",
        ),
        ({"momentum": 1}, "with optimizer=sgd and momentum=1 is so high"),
        ({"optimizer": "adam"}, "learning_rate=0.1 with optimizer=adam is so high that training"),
        ({"learning_rate": 0}, "is so low that the weights hardly change: 0.1 is usual"),
        ({"optimizer": "rmsprop", "learning_rate": 1e-8}, "hardly change: 0.001 is usual"),
        ({"warmup_epochs": 10}, "warmup_epochs=10 with epochs=10: the job ends before"),
        ({"interface": "tensorflow", "batch_size": 1_000, "samples": 900}, "batch_size=1000 is"),
        ({"interface": "tensorflow", "optimizer": "adadelta"}, "hardly change: 1.0 is usual"),
    ],
    ids=str,
)
def test_a_hopeless_job_is_told_why_in_one_line(
    caplog: pytest.LogCaptureFixture, given: dict[str, Any], words: str
) -> None:
    lines = advice(caplog, **{"samples": 4_995, **given})
    assert sum(words in line for line in lines) == 1
    assert not any("\n" in line for line in lines)


GIBIBYTE = 2**30


@pytest.mark.parametrize(
    ("backbone", "side", "least", "measured"),
    [
        ("efficientnet_lite0", 224, 6, 12.5),  # GiB of 128 images; docs/training-results.md
        ("resnet18", 224, 2.7, 6.0),
        ("resnet152", 224, 25, 34.0),
    ],
)
def test_a_batch_that_cannot_fit_into_the_machine_is_reported_with_one_that_does(
    backbone: str,
    side: int,
    least: float,
    measured: float,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {"backbone": backbone, "mini_batch_size": 128, "image_shape": f"3,{side},{side}"}
    monkeypatch.setattr(process, "memory_limit", lambda: int(least * GIBIBYTE))
    (line,) = advice(caplog, 50_000, **given)
    assert f"but this machine has {least:.0f} GiB: set mini_batch_size=" in line
    assert int(re.findall(r"mini_batch_size=(\d+)", line)[1]) in (32, 64)
    assert "accumulate_batches" in line and "train_only_top_layer" in line
    assert advice(caplog, 50_000, train_only_top_layer=1, **given) == []
    few = advice(caplog, 40, **given)  # all images of the job in one step
    assert not any("GiB" in line for line in few)
    monkeypatch.setattr(process, "memory_limit", lambda: int(measured * GIBIBYTE))
    assert advice(caplog, 50_000, **given) == [], "what fits is never reported"


def test_a_model_that_answers_one_class_for_all_is_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop, recorder = prepare_loop([0.5, 0.5, 1.0])
    recorder.predict_step = lambda images: np.tile(  # type: ignore[method-assign]
        np.float32([[1, 0]]), (len(images), 1)
    )
    with caplog.at_level(logging.WARNING):
        loop.run()
    found = [text for text in caplog.messages if "predicts one class" in text]
    assert len(found) == 1 and "right for 50.0% of them" in found[0]
    assert "preset=transfer" in found[0]


def test_only_one_answer_for_several_classes_counts_as_learning_nothing() -> None:
    def share(targets: list[int], predicted: list[int]) -> float | None:
        probabilities = np.eye(3, dtype=np.float32)[predicted]
        return constant_share(Outcomes(("a",) * len(targets), np.array(targets), probabilities))

    assert share([0, 1, 1, 2], [1, 1, 1, 1]) == 0.5
    assert share([0, 1, 1, 2], [1, 1, 1, 2]) is None
    assert share([1, 1], [1, 1]) is None


def test_a_misspelt_preset_is_an_error_and_no_line_about_what_it_sets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(HyperparameterError, match="fine-tune"):
        INTERFACES["mxnet"].parse({"preset": "finetune"})
    assert "sets" not in caplog.text
    with caplog.at_level(logging.INFO):
        INTERFACES["mxnet"].parse({"preset": "fine-tune"})
    assert "preset=fine-tune sets backbone=efficientnet_lite0" in caplog.text


def test_what_a_preset_sets_begins_with_the_two_that_tell_the_number_of_epochs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = JobPaths(tmp_path, {"train": tmp_path}, tmp_path / "model")
    request = read_request(paths, {"preset": "transfer"})
    inputs: Any = SimpleNamespace(
        labels=LabelMap(("a", "b")), training_samples=2, validation=range(2), class_counts=None
    )
    with caplog.at_level(logging.INFO):
        log_settings(request, inputs)
    (event,) = [record.event for record in caplog.records if hasattr(record, "event")]
    assert list(event.by_preset)[:2] == ["epochs", "min_updates"]
