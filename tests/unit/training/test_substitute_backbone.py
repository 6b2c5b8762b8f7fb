"""A built-in's job that asks for a ResNet without weights gets a substitute, with a warning."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from image_classification.contract.interface import INTERFACES
from image_classification.contract.paths import JobPaths
from image_classification.training.backbone import SUBSTITUTE, substitute_backbone
from image_classification.training.request import JobRequest, read_request
from tests.contract.jobs import write_job

NOTEBOOK = {"num_layers": "18", "use_pretrained_model": "1", "image_shape": "3,224,224"}


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of baked weights with those of the substitute; only their presence matters."""
    monkeypatch.setenv("IMAGE_CLASSIFICATION_WEIGHTS_DIR", str(tmp_path))
    (tmp_path / f"{SUBSTITUTE}.safetensors").touch()
    return tmp_path


def replaced(interface: str = "mxnet", **given: str) -> tuple[str, str] | None:
    return substitute_backbone(INTERFACES[interface].parse(given), {})


def request_of(tmp_path: Path) -> JobRequest:
    folder = tmp_path / "images"
    folder.mkdir()
    channels = {"train": folder, "validation": folder}
    return read_request(JobPaths(write_job(tmp_path / "ml", NOTEBOOK, channels)))


def test_the_substitute_is_in_the_settings_the_origins_and_a_warning(
    weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    request = request_of(tmp_path)
    assert request.settings.backbone.name == SUBSTITUTE
    assert request.settings.stands_for == "resnet18"
    assert request.settings.preprocessing.mean == (127.0,) * 3, "the network's own normalization"
    assert ("backbone", SUBSTITUTE, "in place of resnet18") in request.origins()
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    message = record.getMessage()
    assert message.startswith("SUBSTITUTING efficientnet_lite0 FOR resnet18: ")
    assert f"resnet18.safetensors into {weights}" in message
    assert "to fail instead, set backbone=resnet18" in message


@pytest.mark.parametrize(
    "given",
    [
        {"num_layers": "18", "use_pretrained_model": "0"},
        {"num_layers": "18"},
        {"num_layers": "20", "use_pretrained_model": "1"},  # the built-in has no weights of these
        {"backbone": "resnet18", "use_pretrained_model": "1"},
    ],
)
def test_no_other_job_gets_a_substitute(weights: Path, given: dict[str, str]) -> None:
    assert replaced(**given) is None
    assert replaced("tensorflow") is None


def test_baked_weights_of_the_requested_network_are_used(weights: Path) -> None:
    assert replaced(**NOTEBOOK) == (SUBSTITUTE, "resnet18")
    (weights / "resnet18.safetensors").touch()
    assert replaced(**NOTEBOOK) is None
