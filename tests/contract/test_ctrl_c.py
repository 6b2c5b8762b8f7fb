"""Ctrl-C while training on a laptop: the first keeps the best epoch, the second aborts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from image_classification.artifact import read_artifact
from tests.conftest import ClassFolders
from tests.contract.jobs import read_to, run_command

pytestmark = pytest.mark.survival

JOB = [
    *("--set", "preset="),
    *("--set", "backbone=resnet20"),
    *("--set", "use_pretrained_model=0"),
    *("--set", "image_shape=3,32,32"),
    *("--set", "batch_size=4"),
]
LONG = ["--set", "epochs=500"]


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "image_classification", "train", "flowers", *JOB, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"IMAGE_CLASSIFICATION_CPU_COUNT": "1"},
    )


@pytest.fixture
def folder(tmp_path: Path, write_class_folders: ClassFolders) -> Path:
    write_class_folders(tmp_path / "flowers")
    return tmp_path


def test_the_first_interruption_keeps_the_best_epoch_and_resume_continues_from_there(
    folder: Path,
) -> None:
    process = started(folder, *LONG)
    read_to(process, "Epoch 3/500 took")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "Interrupted: stopping after this step; the best epoch so far is kept" in said
    assert "Stopping: the labels are not judged" in said
    run = folder / "runs" / "flowers-1"
    first = read_artifact(run).manifest
    assert 3 <= first["metrics"]["epochs"] < 500
    assert "--resume --output runs/flowers-1 continues the run" in said
    before = (run / "manifest.json").stat().st_mtime_ns

    refused = run_command(
        "train", "flowers", *JOB, *LONG, "--output", "runs/flowers-1", folder=folder
    )
    assert refused.returncode == 2 and "holds a model already" in refused.stderr
    assert (run / "manifest.json").stat().st_mtime_ns == before

    more = first["metrics"]["epochs"] + 2
    done = run_command(
        "train", "flowers", *JOB, "--set", f"epochs={more}", "--resume", folder=folder
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Epoch 1/" not in done.stdout and f"Epoch {more}/{more} took" in done.stdout
    assert read_artifact(run).manifest["metrics"]["epochs"] == more
    assert not (run / "checkpoints").exists()
    assert [path.name for path in run.parent.iterdir()] == ["flowers-1"]


def test_the_second_interruption_ends_the_job_at_once_and_the_old_model_stays(
    folder: Path,
) -> None:
    first = run_command(
        "train", "flowers", *JOB, "--set", "epochs=1", "--output", "m", folder=folder
    )
    assert first.returncode == 0, first.stdout + first.stderr
    before = {path.name: path.read_bytes() for path in (folder / "m").iterdir()}
    # Steps of a second or more, so that the second interruption finds the step still running.
    slow = ["--set", "backbone=resnet50_v1.5", "--set", "image_shape=3,224,224"]
    process = started(folder, *LONG, *slow, "--output", "m", "--overwrite")
    read_to(process, "Saved checkpoint")
    process.send_signal(signal.SIGINT)
    read_to(process, "Interrupted: stopping after this step")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and said.endswith("interrupted\n"), said
    after = {path.name: path.read_bytes() for path in (folder / "m").iterdir() if path.is_file()}
    assert after == before
    assert [path.name for path in (folder / "m").iterdir() if path.is_dir()] == ["checkpoints"]


def test_an_interruption_before_training_leaves_nothing(folder: Path) -> None:
    process = started(folder, *LONG)
    read_to(process, "preset")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "interrupted" in said
    assert [path.name for path in folder.iterdir()] == ["flowers"]
