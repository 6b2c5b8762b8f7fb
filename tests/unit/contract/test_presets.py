"""A preset sets what a job leaves out; the job's own values win."""

from __future__ import annotations

import logging

import pytest

from image_classification.contract.interface import INTERFACES
from image_classification.contract.presets import PRESETS
from image_classification.errors import HyperparameterError
from image_classification.training.settings import settings_of

BOTH = ("mxnet", "tensorflow")


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("interface", BOTH)
def test_every_preset_is_a_legal_job_of_both_interfaces(interface: str, name: str) -> None:
    values = INTERFACES[interface].parse({"preset": name})
    settings = settings_of(values)
    assert settings.use_pretrained is (name != "scratch")
    assert settings.schedule.kind == "cosine"
    augmentation = settings.augmentation
    assert augmentation is not None and augmentation.horizontal_flip == 0.5
    assert augmentation.vertical_flip == 0 and not augmentation.warps
    assert settings.preprocessing.mode == "crop" or name == "scratch"


def test_the_jobs_own_values_win_in_every_spelling(
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = {"preset": "transfer", "train_only_on_top": "False", "epochs": '"2"'}
    with caplog.at_level(logging.INFO):
        values = INTERFACES["tensorflow"].parse(given)
    assert (values.train_only_top_layer, values.epochs) == (False, 2)
    assert values.learning_rate == 0.03
    assert "preset=transfer sets " in caplog.text and "learning_rate=0.03" in caplog.text
    assert "epochs" not in caplog.text and "train_only_top_layer" not in caplog.text


def test_a_preset_leaves_out_values_that_contradict_the_jobs_own() -> None:
    given = {"preset": "scratch", "lr_scheduler_step": "3,6", "augmentation_type": "crop_color"}
    settings = settings_of(INTERFACES["mxnet"].parse(given))
    assert settings.schedule.kind == "step"
    assert settings.augmentation is not None and settings.augmentation.operations == 0
    given = {"preset": "fine-tune", "num_layers": "50"}
    assert settings_of(INTERFACES["mxnet"].parse(given)).backbone.name == "resnet50"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_legal_multi_label_job(name: str) -> None:
    given = {"preset": name, "multi_label": "1"}
    settings = settings_of(INTERFACES["mxnet"].parse(given))
    assert settings.multi_label and settings.label_smoothing == 0
    given["multi_label"] = "0"
    assert settings_of(INTERFACES["mxnet"].parse(given)).label_smoothing == 0.1


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_adds_no_augmentation_to_a_job_that_switches_it_off(name: str) -> None:
    given = {"preset": name, "augmentation": '"False"'}
    parse = INTERFACES["tensorflow"].parse
    assert settings_of(parse(given)).augmentation is None
    given["augmentation"] = "True"
    assert parse(given) == parse({"preset": name}), "it says what the preset says"


def test_the_error_of_an_unknown_preset_lists_the_names() -> None:
    with pytest.raises(HyperparameterError, match="one of transfer, fine-tune, best, scratch"):
        INTERFACES["mxnet"].parse({"preset": "finest"})
