"""Whole jobs from the channels of the MXNet interface that are not class folders."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from image_classification.artifact import read_artifact
from image_classification.records.format import RecordHeader, frame_parts, pack_image_record
from tests.contract import jobs
from tests.contract.conftest import HYPERPARAMETERS
from tests.contract.jobs import run_command, run_train, write_job, write_pipe

COLORS = ("blue", "green", "red")


def write_lists(
    channels: dict[str, Path], root: Path, multi_label: bool = False
) -> dict[str, Path]:
    """The list channels of both image channels."""
    found = dict(channels)
    for name, folder in channels.items():
        lines = []
        for number, path in enumerate(sorted(folder.rglob("*.jpg"))):
            label = COLORS.index(path.parent.name)
            columns = [str(int(label in pair)) for pair in ((0,), (1, 2), (2,))]
            labels = "\t".join(columns) if multi_label else f"{label}.000000"
            lines.append(f"{number}\t{labels}\t{path.relative_to(folder)}\n")
        found[f"{name}_lst"] = root / f"{name}_lst"
        found[f"{name}_lst"].mkdir(parents=True)
        (found[f"{name}_lst"] / f"{name}.lst").write_text("".join(lines))
    return found


def test_a_job_of_images_and_lists_trains(tmp_path: Path, small_channels: dict[str, Path]) -> None:
    channels = write_lists(small_channels, tmp_path)
    given = HYPERPARAMETERS | {"num_classes": 3, "num_training_samples": 36}
    types = dict.fromkeys(channels, "application/x-image")
    base = write_job(tmp_path / "ml", given, channels, types)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    artifact = read_artifact(base / "model")
    assert artifact.labels.names == COLORS
    assert artifact.manifest["metrics"]["validation"]["accuracy"] > 0.9


def test_a_multi_label_job_serves_sigmoids(tmp_path: Path, small_channels: dict[str, Path]) -> None:
    channels = write_lists(small_channels, tmp_path, multi_label=True)
    given = HYPERPARAMETERS | {"num_classes": 3, "multi_label": 1, "use_weighted_loss": 1}
    given |= {"labels": "blue,other,red", "epochs": 3}
    del given["top_k"]
    base = write_job(tmp_path / "ml", given, channels)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Train-accuracy=" in done.stdout and "Validation-accuracy=" in done.stdout
    artifact = read_artifact(base / "model")
    assert artifact.manifest["metrics"]["validation"]["accuracy"] > 0.9
    lines = (base / "output" / "data" / "validation-predictions.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["labels"] == ["other", "red"]
    assert "one temperature does not fit several independent labels" in done.stdout
    assert artifact.manifest["calibration"]["temperature"] == 1
    assert "The best epoch was" in done.stdout and "calibrated)" not in done.stdout
    report = (base / "model" / "report.html").read_text()
    assert "Confusion" not in report and "Most confident wrong decisions" in report
    assert "of images with all labels right" in report and "Borderline images" not in report
    assert "Of the decisions with about 80% confidence" in report

    image = next((small_channels["validation"] / "red").iterdir())
    said = run_command("predict", "--model", base / "model", image)
    assert said.returncode == 0, said.stderr
    answer = json.loads(said.stdout)
    assert answer["predicted_labels"] == ["other", "red"]
    validated = {json.loads(line)["key"]: json.loads(line) for line in lines}
    own = validated[f"red/{image.name}"]["probabilities"]
    served = dict(zip(answer["labels"], answer["probabilities"], strict=True))
    assert np.abs(np.array(own) - [served[n] for n in ("blue", "other", "red")]).max() < 1e-4


def records_of(folder: Path) -> bytes:
    content: list[bytes] = []
    for number, path in enumerate(sorted(folder.rglob("*.jpg"), key=lambda p: p.name[-7:])):
        header = RecordHeader(COLORS.index(path.parent.name), number)
        content += frame_parts(pack_image_record(header, path.read_bytes()))
    return b"".join(content)


def pipe_job(base: Path, channels: dict[str, Path], epochs: int, passes: int) -> Path:
    """A job whose channels are FIFOs with a writer each; writers end when the reader does."""
    given = HYPERPARAMETERS | {"num_classes": 3, "num_training_samples": 36, "epochs": epochs}
    given |= {"image_shape": "3,32,32", "labels": ",".join(COLORS)}
    write_job(base, given, {})
    (base / "input" / "data").mkdir(exist_ok=True)
    entry = {"TrainingInputMode": "Pipe", "ContentType": "application/x-recordio"}
    entry["RecordWrapperType"] = "None"
    config = base / "input" / "config" / "inputdataconfig.json"
    config.write_text(json.dumps(dict.fromkeys(channels, entry)))
    for name, folder in channels.items():
        content = records_of(folder)
        for number in range(passes if name == "train" else 1):
            path = base / "input" / "data" / f"{name}_{number}"
            os.mkfifo(path)
            write_pipe(path, content)
    return base


def test_a_job_in_pipe_mode_reads_one_fifo_per_epoch(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    base = pipe_job(tmp_path / "ml", small_channels, epochs=3, passes=3)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    measured = read_artifact(base / "model").manifest["metrics"]
    assert (measured["training_samples"], measured["validation_samples"]) == (36, 15)
    assert measured["validation"]["accuracy"] > 0.6
    assert "The channel 'train' is in pipe input mode under" in done.stdout
    assert "rarest class" not in (base / "model" / "model-card.md").read_text()  # not counted
    assert "num_training_samples is" not in done.stdout


@pytest.mark.survival
def test_sigterm_while_a_pipe_is_silent_ends_the_job_with_its_model(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    base = pipe_job(tmp_path / "ml", small_channels, epochs=9, passes=2)
    os.mkfifo(base / "input" / "data" / "train_2")  # nobody writes: the epoch cannot begin
    process = subprocess.Popen(
        [sys.executable, "-m", "image_classification", "train", "--base-dir", str(base)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        writer = os.open(base / "input" / "data" / "train_2", os.O_WRONLY)  # waits for the reader
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=60)[0]
        os.close(writer)
    finally:
        process.kill()
    assert process.returncode == 0, rest
    assert read_artifact(base / "model").manifest["metrics"]["epochs"] == 2


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ({"train": {}, "train_lst": {}, "validation": {}}, "Missing required channel: validation_"),
        ({"train": {}, "validation": {}, "extra": {}}, "Extraneous channel found: extra"),
        ({"train": {"TrainingInputMode": "Pipe"}}, "set num_training_samples"),
        ({"train": {}, "validation": {"ContentType": "text/csv"}}, "ContentType 'text/csv'"),
    ],
)
def test_channels_are_checked_before_any_framework_is_loaded(
    tmp_path: Path,
    channels: dict[str, dict[str, str]],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / f"{jobs.BACKEND}.py").write_text("raise SystemExit('the framework was imported')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(trap), os.environ.get("PYTHONPATH", "")]))
    base = write_job(tmp_path / "ml", {"num_classes": 2}, {})
    for name in channels:
        (base / "input" / "data" / name).mkdir(parents=True)
    (base / "input" / "config" / "inputdataconfig.json").write_text(json.dumps(channels))
    done = run_train(base)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in (base / "output" / "failure").read_text()
    assert done.stderr.startswith("ClientError: ")
