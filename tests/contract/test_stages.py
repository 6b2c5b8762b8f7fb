"""A job that fits the head first: two stages in one log, one history and one artifact."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import pytest

from image_classification.artifact import read_artifact
from tests.contract.jobs import run_train, write_job
from tests.contract.test_survival import read_to, start, weights_of

GIVEN = {
    "preset": "best",
    "backbone": "resnet20",
    "image_shape": "3,32,32",
    "resize": 32,
    "epochs": 2,
    "batch_size": 8,
    "reinitialize_top_layer": "True",
}


@pytest.fixture(scope="module")
def channels(small_channels: dict[str, Path], trained_job: Path) -> dict[str, Path]:
    training, validation = small_channels["train"], small_channels["validation"]
    return {"training": training, "validation": validation, "model": trained_job / "model"}


def job(base: Path, channels: dict[str, Path], **given: object) -> Path:
    write_job(base, GIVEN | given, channels)
    (base / "checkpoints").mkdir()
    return base


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, channels: dict[str, Path]) -> Path:
    """A finished job with preset=best; `log` holds its output."""
    base = job(tmp_path_factory.mktemp("compared") / "ml", channels)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    (base / "log").write_text(done.stdout)
    return base


def accuracies(base: Path) -> list[float]:
    history = json.loads((base / "output/data/history.json").read_text())
    return [epoch["validation"]["accuracy"] for epoch in history["epochs"]]


def test_preset_best_exports_the_better_stage_and_says_which(compared: Path) -> None:
    log, values = (compared / "log").read_text(), accuracies(compared)
    first = re.search(r"first the head alone for (\d+) epochs, with the values of preset=", log)
    assert first is not None
    head_epochs = int(first[1])
    assert len(values) == head_epochs + 2
    assert f"(epochs {head_epochs + 1} to {head_epochs + 2} in the log)" in log
    assert f"Epoch {head_epochs}/{head_epochs} took" in log
    assert f"Epoch {head_epochs + 2}/{head_epochs + 2} took" in log
    assert log.count("parameters, ") == 2, "of each network: all, and those that are trained"
    best = read_artifact(compared / "model").manifest["metrics"]["best_epoch"] - 1
    assert values[best] == max(values) and max(values) not in values[best + 1 :]
    whole = best >= head_epochs
    exported = "the model of all layers" if whole else "the model with the frozen backbone"
    assert f"after training all layers: exporting {exported}\n" in log


@pytest.mark.survival
@pytest.mark.thorough
@pytest.mark.parametrize("preset", ["best", "fine-tune"])
def test_a_job_killed_in_each_stage_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, channels: dict[str, Path], preset: str
) -> None:
    given = {"preset": preset, "checkpoint_steps": 2}
    whole = job(tmp_path / "whole", channels, **given)
    done = run_train(whole)
    assert done.returncode == 0, done.stdout
    last = int(re.findall(r"Epoch \d+/(\d+) took", done.stdout)[-1])
    base = job(tmp_path / "ml", channels, **given)
    resumed = ""
    # within the first stage, at its end, within the second stage, after its first epoch
    for text in (
        f"Epoch 3/{last - 2} took",
        f"Epoch {last - 2}/{last - 2} took",
        f"checkpoint-{last - 2:04d}-000002.safetensors",
        f"Epoch {last - 1}/{last} took",
    ):
        process = start(base)
        resumed += read_to(process, text)
        process.kill()
        resumed += process.communicate()[0]
        assert process.returncode == -signal.SIGKILL
    done = run_train(base)
    assert done.returncode == 0, done.stdout
    assert (resumed + done.stdout).count("Resumed") == 4
    assert weights_of(base) == weights_of(whole)
    assert accuracies(base) == accuracies(whole)


@pytest.mark.survival
@pytest.mark.thorough
def test_fine_tune_exports_an_epoch_of_all_layers_and_a_stop_before_them_the_fitted_head(
    tmp_path: Path, channels: dict[str, Path]
) -> None:
    base = job(tmp_path / "ml", channels, preset="fine-tune")
    process = start(base)
    read_to(process, "Epoch 3/")
    process.terminate()
    log = process.communicate()[0]
    assert process.returncode == 0, log
    assert "Built resnet20" not in log, "the second stage does not begin after a stop"
    assert read_artifact(base / "model").manifest["metrics"]["best_epoch"] <= 4
    done = run_train(base)
    assert done.returncode == 0, done.stdout
    last = len(accuracies(base))
    assert read_artifact(base / "model").manifest["metrics"]["best_epoch"] > last - 2
    assert "exporting" not in done.stdout
