"""The head alone, then all layers: who has two stages, with which settings, in one history."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from image_classification import events
from image_classification.backends.base import World
from image_classification.contract.interface import INTERFACES
from image_classification.errors import HyperparameterError
from image_classification.training.initial_weights import ChannelWeights
from image_classification.training.loop import Loop
from image_classification.training.settings import Settings, settings_of
from image_classification.training.stages import stages_of
from tests.unit.training.test_loop import RecordingEngine, prepare_loop

ONE = World()


def settings(interface: str = "mxnet", **given: str) -> Settings:
    return settings_of(INTERFACES[interface].parse({"preset": "fine-tune"} | given))


@pytest.mark.parametrize("interface", INTERFACES)
def test_the_first_stage_has_the_values_of_transfer_and_the_jobs_data(interface: str) -> None:
    job = settings(interface, mixup_alpha="0.2", ema_decay="0.9", class_weights="logit_adjust")
    transfer = settings(interface, preset="transfer", class_weights="logit_adjust")
    stages = stages_of(job, job.batch_size * 50, None, ONE)
    head = stages.head
    assert head is not None and head.train_only_head and head.epochs == 12
    assert replace(head.schedule, factor=0.1) == transfer.schedule  # of steps, not of a cosine
    assert head.recipe == transfer.recipe
    for name in ("name", "momentum", "weight_decay", "head_l2", "clip_gradient_norm"):
        assert getattr(head.optimizer, name) == getattr(transfer.optimizer, name)
    for name in ("backbone", "preprocessing", "augmentation", "label_smoothing", "batch_size"):
        assert getattr(head, name) == getattr(job, name)
    assert stages.whole == replace(job, epochs=12 + 5)
    few = stages_of(job, job.batch_size, None, ONE)
    assert (few.first_epoch, few.whole.epochs) == (400, 405), "at least 400 updates"


def test_a_terminal_shows_which_epochs_are_of_which_stage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = settings()
    with caplog.at_level(logging.INFO):
        stages_of(job, job.batch_size * 50, None, ONE)
    (line,) = [record for record in caplog.records if "first the head alone" in record.message]
    assert "then all layers for 5 epochs (epochs 13 to 17 in the log)" in line.message
    assert vars(line)["event"] == events.Note(), "the bars alone do not tell"


@pytest.mark.parametrize(
    ("given", "weights", "world", "reason"),
    [
        ({"use_pretrained_model": "0", "fit_head_first": "on"}, None, ONE, "random weights"),
        ({}, ChannelWeights({"weight/head.bias": np.zeros(2)}, ""), ONE, "with a fitted head"),
        ({}, None, World(0, 2), "a job of 2 processes has one stage"),
    ],
)
def test_a_job_without_a_first_stage_says_why(
    given: dict[str, str],
    weights: ChannelWeights | None,
    world: World,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = settings(**given)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        stages = stages_of(job, 500, weights, world)
    assert stages.head is None and stages.whole == replace(job, fit_head_first="off")
    assert len(caplog.messages) == 1 and reason in caplog.messages[0]
    assert stages.identity == {}, "its checkpoints are those of a job without stages"


def test_a_checkpoint_of_0_1_goes_on_with_all_layers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert stages_of(settings(), 500, None, ONE, is_begun_whole=True).head is None
    assert "continues from the checkpoint of a job without fit_head_first" in caplog.text


def test_preset_best_compares_even_a_fitted_head() -> None:
    weights = ChannelWeights({"weight/head.bias": np.zeros(2)}, "")
    assert stages_of(settings(preset="best"), 500, weights, ONE).head is not None


def test_the_defaults_of_the_interfaces_have_one_stage() -> None:
    for interface in INTERFACES.values():
        assert settings_of(interface.parse({})).fit_head_first == "off"


def test_a_frozen_network_has_no_second_stage() -> None:
    assert settings(train_only_top_layer="1").fit_head_first == "off", "the preset yields"
    with pytest.raises(HyperparameterError, match="all layers train after the head; leave one"):
        settings(train_only_top_layer="1", fit_head_first="on")


def two_stages(mode: str, head: list[float], whole: list[float]) -> tuple[Loop, RecordingEngine]:
    """Run both stages; the epochs have these shares of right predictions."""
    first, _ = prepare_loop(head)
    first.settings = replace(first.settings, fit_head_first=mode)
    first.run()
    second, engine = prepare_loop([*head, *whole], lr_schedule="cosine")
    schedule = replace(second.settings.schedule, epochs=len(whole))
    second.settings = replace(second.settings, fit_head_first=mode, schedule=schedule)
    second.first_epoch = len(head)
    second.follow(first)
    engine.epoch = len(head) - 1  # the weights are those of the best, its accuracies go on
    second.run()
    return second, engine


@pytest.mark.parametrize(
    ("mode", "head", "whole", "best"),
    [
        ("on", [0.8, 0.9], [0.5, 0.6], 3),
        ("compare", [0.8, 0.9], [0.5, 0.6], 1),
        ("compare", [0.8, 0.9], [0.9, 0.6], 2),  # of equally accurate epochs the last
    ],
)
def test_the_best_epoch_is_of_all_layers_or_of_both_stages(
    mode: str, head: list[float], whole: list[float], best: int
) -> None:
    loop, engine = two_stages(mode, head, whole)
    assert loop.history.accuracies == pytest.approx([*head, *whole])
    assert loop.history.best_epoch == best and engine.epoch == best


def test_the_learning_rate_of_the_second_stage_begins_with_the_stage() -> None:
    _, engine = two_stages("on", [0.8, 0.9], [0.5, 0.6])
    alone, alone_engine = prepare_loop([0.5, 0.6], lr_schedule="cosine")
    alone.run()
    assert engine.rates == pytest.approx(alone_engine.rates)


def test_early_stopping_counts_the_epochs_of_all_layers_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = settings(early_stopping="1", early_stopping_patience="1", early_stopping_min_epochs="1")
    rule = stages_of(job, 5000, None, ONE).whole.early_stopping
    assert rule is not None and not rule.is_due([]) and not rule.is_due([0.5])
    assert "after epoch 14: none of the 1 epochs since epoch 13" in rule.reason(
        [0.5, 0.4], "accuracy", before=12
    )


@pytest.mark.parametrize(
    ("accuracies", "words"),
    [
        ([0.8, 0.9, 0.7], "0.900000 with the frozen backbone, 0.700000 after training all layers: "
                          "exporting the model with the frozen backbone"),
        ([0.8, 0.9, 0.9], "exporting the model of all layers"),
        ([0.8, 0.9], "the job ended before an epoch of all layers"),
    ],
)  # fmt: skip
def test_the_line_of_the_comparison_names_the_stage_that_is_exported(
    accuracies: list[float], words: str
) -> None:
    loop, _ = prepare_loop(accuracies)
    loop.run()
    stages = stages_of(settings(preset="best", epochs="1"), 10**6, None, ONE)
    stages = replace(stages, head=replace(stages.whole, epochs=2))
    line = stages.compared_line(loop.history)
    assert line is not None and words in line
    assert stages_of(settings(), 500, None, ONE).compared_line(loop.history) is None
