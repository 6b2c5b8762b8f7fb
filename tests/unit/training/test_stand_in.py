"""A built-in's job that asks for a ResNet without weights gets another network, and is told so."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from image_classification.contract.interface import INTERFACES
from image_classification.contract.paths import JobPaths
from image_classification.training.engine_start import STAND_IN, replaced_backbone
from image_classification.training.request import JobRequest, read_request
from tests.contract.jobs import write_job

NOTEBOOK = {"num_layers": "18", "use_pretrained_model": "1", "image_shape": "3,224,224"}


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of baked weights with those of the stand-in; only their presence is asked for."""
    monkeypatch.setenv("IMAGE_CLASSIFICATION_WEIGHTS_DIR", str(tmp_path))
    (tmp_path / f"{STAND_IN}.safetensors").touch()
    return tmp_path


def replaced(interface: str = "mxnet", **given: str) -> tuple[str, str] | None:
    return replaced_backbone(INTERFACES[interface].parse(given), {})


def request_of(tmp_path: Path) -> JobRequest:
    folder = tmp_path / "images"
    folder.mkdir()
    channels = {"train": folder, "validation": folder}
    return read_request(JobPaths(write_job(tmp_path / "ml", NOTEBOOK, channels)))


def test_the_stand_in_is_in_the_settings_the_origins_and_a_warning(
    weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    request = request_of(tmp_path)
    assert request.settings.backbone.name == STAND_IN
    assert request.settings.stands_for == "resnet18"
    assert request.settings.preprocessing.mean == (127.0,) * 3, "the network's own normalization"
    assert ("backbone", STAND_IN, "in place of resnet18") in request.origins()
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    message = record.getMessage()
    assert message.startswith("ANOTHER NETWORK THAN ASKED FOR: ")
    assert f"resnet18.safetensors into {weights}" in message
    assert "to be refused instead, set backbone=resnet18" in message


@pytest.mark.parametrize(
    "given",
    [
        {"num_layers": "18", "use_pretrained_model": "0"},
        {"num_layers": "18"},
        {"num_layers": "20", "use_pretrained_model": "1"},  # the built-in has no weights of these
        {"backbone": "resnet18", "use_pretrained_model": "1"},
    ],
)
def test_no_other_job_gets_another_network(weights: Path, given: dict[str, str]) -> None:
    assert replaced(**given) is None
    assert replaced("tensorflow") is None


def test_baked_weights_of_the_network_asked_for_are_taken(weights: Path) -> None:
    assert replaced(**NOTEBOOK) == (STAND_IN, "resnet18")
    (weights / "resnet18.safetensors").touch()
    assert replaced(**NOTEBOOK) is None
