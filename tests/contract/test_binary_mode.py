"""A two-class job of the TensorFlow interface, judged by the metric it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from image_classification.artifact import read_artifact
from tests.conftest import ClassFolders
from tests.contract.jobs import run_train, write_job

pytestmark = pytest.mark.thorough  # with torch, each run shows it

GIVEN = {
    "backbone": "resnet20",
    "image_shape": "3,32,32",
    "epochs": "2",
    "batch_size": "8",
    "use_pretrained_model": "False",
    "binary_mode": '"True"',
    "eval_metric": "auc",
    "binary_answer": "sigmoid",
}


def test_the_metric_is_logged_and_decides_the_best_epoch(
    tmp_path: Path, write_class_folders: ClassFolders
) -> None:
    images = write_class_folders(tmp_path / "two", classes=("cat", "dog"))
    channels = {"training": images, "test": images}
    base = write_job(tmp_path / "ml", GIVEN, channels)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    trained = re.findall(r"- auc: ([0-9\.]+)", done.stdout)
    validated = re.findall(r"- val_auc: ([0-9\.]+)", done.stdout)
    assert len(trained) == len(validated) == 2
    for metric in ("precision", "recall", "auc", "prc"):  # of the published benchmark notebook
        for shown, times in ((f"- {metric}", 2), (f"- val_{metric}", 2), (f"- Test {metric}", 1)):
            assert len(re.findall(shown + r": ([0-9\.]+)", done.stdout)) == times, shown
    assert re.search(r"- Test auc: [01]\.\d{4}\n", done.stdout)
    assert "top_" not in "".join(re.findall(r"loss.*", done.stdout))
    assert re.search(r"The best epoch was \d with validation auc", done.stdout)
    measured = read_artifact(base / "model").manifest["metrics"]
    assert set(measured["test"]) == {"loss", "accuracy", "precision", "recall", "auc", "prc"}
    assert read_artifact(base / "model").manifest["binary_answer"] == "sigmoid"


def test_binary_mode_refuses_three_classes(tmp_path: Path, small_channels: dict[str, Path]) -> None:
    base = write_job(tmp_path / "ml", GIVEN, {"training": small_channels["train"]})
    done = run_train(base)
    assert done.returncode == 2
    failure = (base / "output" / "failure").read_text()
    assert failure.startswith("ClientError: binary_mode=True needs two classes, the data has 3")
