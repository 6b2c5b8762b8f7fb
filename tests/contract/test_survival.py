"""An interrupted job ends like an uninterrupted one: real processes, real signals."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from image_classification.artifact import read_artifact
from tests.conftest import ClassFolders
from tests.contract.conftest import HYPERPARAMETERS
from tests.contract.jobs import read_to, run_train, write_job

pytestmark = [pytest.mark.survival, pytest.mark.thorough]  # with torch, each run shows it

JOB = HYPERPARAMETERS | {
    "epochs": 4,
    "mini_batch_size": 4,
    "dropout_rate": 0.3,
    "augmentation_type": "crop",
    "randaugment": 1,
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1,
    "ema_decay": 0.9,
    "accumulate_batches": 2,
    "checkpoint_steps": 1,
}
KILLS = 6


@pytest.fixture(scope="module")
def channels(
    tmp_path_factory: pytest.TempPathFactory, write_class_folders: ClassFolders
) -> dict[str, Path]:
    """60 training images: 15 steps of 4."""
    root = tmp_path_factory.mktemp("channels")
    return {
        "train": write_class_folders(root / "train", per_class=20),
        "validation": write_class_folders(root / "validation", per_class=5, seed=1),
    }


def start(base: Path, *, like_process_1: bool = False) -> subprocess.Popen[str]:
    """Start the job in a process; like process 1 of a container it has no default for SIGTERM."""
    ignored = signal.signal(signal.SIGTERM, signal.SIG_IGN) if like_process_1 else None
    try:
        return _start(base)  # what is ignored here is ignored there until a handler is installed
    finally:
        if ignored is not None:
            signal.signal(signal.SIGTERM, ignored)


def _start(base: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "image_classification", "train", "--base-dir", str(base)],
        env=os.environ | {"IMAGE_CLASSIFICATION_CPU_COUNT": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def steps_of(base: Path) -> list[str]:
    return sorted(path.stem for path in (base / "checkpoints").glob("*.json"))


def weights_of(base: Path) -> bytes:
    return (base / "model" / "weights.safetensors").read_bytes()


def metrics_of(base: Path) -> dict[str, object]:
    return dict(read_artifact(base / "model").manifest["metrics"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, channels: dict[str, Path]) -> Path:
    """The job without interruptions; `seconds` holds its training time."""
    base = write_job(tmp_path_factory.mktemp("whole") / "ml", JOB, channels)
    (base / "checkpoints").mkdir()
    process = start(base)
    read_to(process, "Built ")
    began = time.monotonic()
    log = process.communicate()[0]
    assert process.returncode == 0, log
    (base / "seconds").write_text(str(time.monotonic() - began))
    return base


def test_a_job_killed_at_random_moments_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, channels: dict[str, Path], whole: Path
) -> None:
    base = write_job(tmp_path / "ml", JOB, channels)
    (base / "checkpoints").mkdir()
    longest = float((whole / "seconds").read_text()) / 6  # so that it takes all the kills
    moments = random.Random(5)
    logs, killed = [], 0
    for number in range(KILLS):
        before = steps_of(base)
        process = start(base)
        seen = read_to(process, "Built ")
        # Every other time not before it has gone on: some frameworks take seconds for a first step.
        while number % 2 and steps_of(base) == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(moments.uniform(0.02, longest))
        process.kill()
        logs.append(seen + process.communicate()[0])
        killed += process.returncode == -signal.SIGKILL
        assert len(steps_of(base)) <= 3, "the newest, the best, and one being replaced"
        if process.returncode == 0:
            break
    assert killed >= 3, logs
    last = run_train(base)
    assert last.returncode == 0, last.stdout + last.stderr
    resumed = [log for log in [*logs, last.stdout] if "Resumed in epoch" in log]
    assert resumed, "no kill fell within an epoch"
    assert weights_of(base) == weights_of(whole), "the interruptions changed the weights"
    assert metrics_of(base) == metrics_of(whole), "the interruptions changed the history"
    assert not list((base / "checkpoints").glob("*.partial"))


def test_sigterm_saves_the_step_and_the_next_start_continues_after_it(
    tmp_path: Path, channels: dict[str, Path]
) -> None:
    given = {name: value for name, value in JOB.items() if name != "checkpoint_steps"}
    base = write_job(tmp_path / "ml", given | {"epochs": 10_000}, channels)
    (base / "checkpoints").mkdir()
    process = start(base)
    read_to(process, "Epoch[0] Validation-accuracy")
    process.terminate()
    log = process.communicate(timeout=250)[0]
    assert process.returncode == 0, log
    assert "SIGTERM: stopping after this step" in log
    assert metrics_of(base)["epochs"] == 1 + log.count("Validation-accuracy=")
    newest = steps_of(base)[-1]
    process = start(base)
    log = read_to(process, "Resumed ")
    process.terminate()
    process.communicate(timeout=250)
    assert process.returncode == 0
    epoch, _, step = newest.removeprefix("checkpoint-").partition("-")
    if step:
        assert f"Resumed in epoch {int(epoch) + 1} after step {int(step)}\n" in log
    else:
        assert f"Resumed after epoch {int(epoch) + 1}\n" in log


def test_the_manifest_names_the_step_of_the_last_weights_of_a_stopped_job(
    tmp_path: Path, channels: dict[str, Path]
) -> None:
    given = JOB | {"epochs": 10_000, "keep_last_weights": 1, "mini_batch_size": 2}
    base = write_job(tmp_path / "ml", given, channels)
    (base / "checkpoints").mkdir()
    process = start(base)
    read_to(process, "Epoch[1] Validation-accuracy")
    seen = steps_of(base)
    while steps_of(base) == seen:
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    log = process.communicate(timeout=250)[0]
    assert process.returncode == 0, log
    newest = steps_of(base)[-1]
    epoch, _, step = newest.removeprefix("checkpoint-").partition("-")
    place = {"epoch": int(epoch) + 1} | ({"step": int(step)} if step else {})
    named = read_artifact(base / "model").manifest["weights"]
    assert named["weights-last.safetensors"] == place | {"is": "last"}
    saved = load_file(base / "checkpoints" / f"{newest}.safetensors")
    last = load_file(base / "model" / "weights-last.safetensors")
    assert all(np.array_equal(saved[f"average/{name}"], last[name]) for name in last)


def test_sigterm_within_the_first_epoch_leaves_a_model_and_a_checkpoint_of_its_step(
    tmp_path: Path, channels: dict[str, Path]
) -> None:
    given = JOB | {"num_layers": 110, "mini_batch_size": 2}  # an epoch of seconds
    base = write_job(tmp_path / "ml", given, channels)
    (base / "checkpoints").mkdir()
    process = start(base)
    while not steps_of(base):
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    log = process.communicate(timeout=250)[0]
    assert process.returncode == 0, log
    (newest,) = steps_of(base)
    assert re.fullmatch(r"checkpoint-0000-\d{6}", newest)
    named = read_artifact(base / "model").manifest["weights"]["weights.safetensors"]
    assert named == {"epoch": 1, "step": int(newest[-6:]), "is": "best"}
    assert read_artifact(base / "model").labels.names == ("blue", "green", "red")


def test_after_sigterm_the_test_channel_is_skipped_so_that_the_model_is_written_in_time(
    tmp_path: Path, channels: dict[str, Path]
) -> None:
    given = {"backbone": "resnet20", "image_shape": "3,32,32", "epochs": 1000, "batch_size": 8}
    named = {"training": channels["train"], "validation": channels["validation"]}
    named["test"] = channels["validation"]
    base = write_job(tmp_path / "ml", given | {"use_pretrained_model": "False"}, named)
    process = start(base)
    read_to(process, "val_accuracy")
    process.terminate()
    log = process.communicate(timeout=250)[0]
    assert process.returncode == 0, log
    assert "Stopping: the test channel is not measured" in log
    assert "test" not in metrics_of(base)


def test_sigterm_during_the_opening_of_channels_ends_process_1_at_once_and_writes_nothing(
    tmp_path: Path, channels: dict[str, Path]
) -> None:
    base = write_job(tmp_path / "ml", JOB, channels)
    data = base / "input" / "data"
    os.mkfifo(data / "validation_0")  # nobody will ever write to it
    shutil.rmtree(data / "validation")
    config = base / "input" / "config" / "inputdataconfig.json"
    change = {"validation": {"TrainingInputMode": "Pipe"}}
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    process = start(base, like_process_1=True)
    writer = await_reader(process, data / "validation_0")
    process.terminate()
    try:
        log = process.communicate(timeout=250)[0]
    finally:
        process.kill()
        os.close(writer)
    assert process.returncode == 0, log
    assert "SIGTERM before training has begun: nothing was written" in log
    assert not list((base / "model").iterdir())
    assert not (base / "output" / "failure").exists()


def await_reader(process: subprocess.Popen[str], fifo: Path) -> int:
    """Return a descriptor that holds the FIFO open, once the process reads it."""
    while True:
        assert process.poll() is None, process.communicate()[0]
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # ENXIO: nobody reads it yet
            time.sleep(0.05)


def test_max_minutes_ends_a_job_with_its_best_epoch_and_without_it_the_job_continues(
    tmp_path: Path, channels: dict[str, Path]
) -> None:
    given = JOB | {"epochs": 10_000, "max_minutes": 0.05}
    base = write_job(tmp_path / "ml", given, channels)
    (base / "checkpoints").mkdir()
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "max_minutes=0.05 has passed" in done.stdout
    epochs = int(str(metrics_of(base)["epochs"])) + 1
    config = base / "input" / "config" / "hyperparameters.json"
    changed = {"max_minutes": "", "epochs": str(epochs)}
    config.write_text(json.dumps(json.loads(config.read_text()) | changed))
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Resumed " in done.stdout
    assert metrics_of(base)["epochs"] == epochs
