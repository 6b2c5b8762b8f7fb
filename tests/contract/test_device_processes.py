"""One host with several devices: a process for each, here on the CPU; each is a rank of one job."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from image_classification.artifact import read_artifact
from tests.contract import jobs
from tests.contract.conftest import HYPERPARAMETERS
from tests.contract.hosts import HOSTS, end, free_ports, start_hosts
from tests.contract.jobs import read_to, run_command, write_job

pytestmark = pytest.mark.survival


@pytest.fixture(autouse=True)
def backend_of_several_processes() -> None:
    if jobs.BACKEND in jobs.ONE_HOST:
        pytest.skip(f"backend {jobs.BACKEND} trains in one process")


def start_processes(base: Path, count: int = 2) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "image_classification", "train", "--base-dir", str(base)],
        env=os.environ
        | {
            "IMAGE_CLASSIFICATION_PROCESSES": str(count),
            "IMAGE_CLASSIFICATION_CPU_COUNT": "2",
            "MASTER_PORT": free_ports(4),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """Return the process ids of its ranks in order."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return sorted(map(int, children))


def losses(base: Path) -> list[float]:
    history = json.loads((base / "output" / "data" / "history.json").read_text())
    return [epoch["train"]["loss"] for epoch in history["epochs"]]


@pytest.mark.thorough
def test_two_processes_have_the_same_losses_as_one_with_the_same_batch(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    """Five epochs of two steps: of 20 images and of 16."""
    given = HYPERPARAMETERS | {"epochs": 5, "learning_rate": 0.0005, "mini_batch_size": 20}
    given["train_only_top_layer"] = 1
    del given["augmentation_type"]
    found, logs = [], []
    for count in (1, 2):
        base = write_job(tmp_path / str(count), given, small_channels)
        process = start_processes(base, count)
        log, _ = process.communicate(timeout=120)
        assert process.returncode == 0, log
        found.append(losses(base))
        logs.append(log)
    assert found[1] == pytest.approx(found[0], abs=1e-4)
    assert "Training in 2 processes on this host" in logs[1]
    assert len(re.findall(r"Epoch\[\d\] Validation-accuracy=", logs[1])) == 5
    assert read_artifact(tmp_path / "2" / "model").labels.names == ("blue", "green", "red")


def test_a_process_that_is_killed_ends_the_job_with_its_name(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    base = write_job(tmp_path / "ml", HYPERPARAMETERS | {"epochs": 500}, small_channels)
    process = start_processes(base)
    read_to(process, "Epoch[0] Validation-accuracy=")
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    log, _ = process.communicate(timeout=60)
    assert process.returncode == 1, log
    failure = (base / "output" / "failure").read_text().splitlines()[0]
    assert "host algo-1 (process 2 of 2) disconnected unexpectedly" in failure
    assert not list((base / "model").iterdir())


def test_sigterm_stops_all_processes_and_the_best_epoch_is_saved(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    base = write_job(tmp_path / "ml", HYPERPARAMETERS | {"epochs": 500}, small_channels)
    process = start_processes(base)
    read_to(process, "Epoch[0] Validation-accuracy=")
    process.send_signal(signal.SIGTERM)
    log, _ = process.communicate(timeout=120)
    assert process.returncode == 0, log
    assert read_artifact(base / "model").labels.names == ("blue", "green", "red")


def test_a_batch_that_cannot_be_divided_is_refused_with_what_to_set(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    base = write_job(tmp_path / "ml", HYPERPARAMETERS, small_channels)
    done = run_command("train", "--base-dir", base, IMAGE_CLASSIFICATION_PROCESSES="3")
    assert done.returncode == 2
    assert "mini_batch_size=8 cannot be divided among the 3 devices" in done.stderr
    assert "set a multiple of 3" in (base / "output" / "failure").read_text()


@pytest.mark.thorough
def test_two_hosts_of_two_processes_each_are_four_ranks(
    tmp_path: Path, small_channels: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """36 images: of a host's batch of 8 each process has 4, so that all take three steps."""
    monkeypatch.setenv("IMAGE_CLASSIFICATION_PROCESSES", "2")
    (code, log), (other_code, other_log) = end(start_hosts(tmp_path, small_channels))
    assert (code, other_code) == (0, 0), log + other_log
    assert log.count("Epoch[1] Validation-accuracy=") == 1
    assert "Validation-accuracy=" not in other_log
    manifest = read_artifact(tmp_path / HOSTS[0] / "model").manifest
    assert manifest["metrics"]["training_samples"] == 36
