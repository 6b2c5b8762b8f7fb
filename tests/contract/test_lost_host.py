"""If one of three hosts is lost, the others end within a minute and name it."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ClassFolders
from tests.contract import jobs
from tests.contract.hosts import start_hosts
from tests.contract.jobs import read_to

pytestmark = pytest.mark.survival

HOSTS = ["127.0.0.1", "127.0.0.2", "localhost"]

Start = Callable[[int, int], list[subprocess.Popen[str]]]


@pytest.fixture
def start(
    tmp_path: Path, write_class_folders: ClassFolders, request: pytest.FixtureRequest
) -> Start:
    """Start three hosts with `per_class` images per class; the end of the test kills all."""
    if jobs.BACKEND in jobs.ONE_HOST:
        pytest.skip(f"backend {jobs.BACKEND} trains on one host")

    def started(train: int, validation: int) -> list[subprocess.Popen[str]]:
        channels = {
            "train": write_class_folders(tmp_path / "train", per_class=train),
            "validation": write_class_folders(
                tmp_path / "validation", per_class=validation, seed=1
            ),
        }
        processes = start_hosts(tmp_path, channels, {"epochs": 500}, hosts=HOSTS)
        for process in processes:
            request.addfinalizer(process.communicate)
            request.addfinalizer(process.kill)
        return processes

    return started


def assert_lost(
    processes: list[subprocess.Popen[str]], root: Path, victim: int, reason: str
) -> None:
    """All but the victim end within 60 s, with the reason in their failure files."""
    deadline = time.monotonic() + 60
    for rank, process in enumerate(processes):
        if rank != victim:
            log, _ = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
            failure = (root / HOSTS[rank] / "output" / "failure").read_text()
            assert process.returncode == 1, log
            assert f"host {HOSTS[victim]} {reason}" in failure.splitlines()[0]
            assert not list((root / HOSTS[rank] / "model").iterdir())


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.thorough), 2])
def test_the_others_end_when_a_host_is_killed_within_an_epoch(
    tmp_path: Path, start: Start, victim: int
) -> None:
    processes = start(400, 5)  # 50 steps
    read_to(processes[0], "Epoch[0] Batch [20]")
    processes[victim].kill()
    assert_lost(processes, tmp_path, victim, "disconnected unexpectedly")


@pytest.mark.thorough
def test_the_others_end_when_a_host_is_killed_during_validation(
    tmp_path: Path, start: Start
) -> None:
    processes = start(8, 800)  # one step of training, then seconds of validation
    read_to(processes[0], "Epoch[0] Validation-accuracy=")
    time.sleep(1.0)
    processes[1].kill()
    assert_lost(processes, tmp_path, 1, "disconnected unexpectedly")


def test_the_others_end_when_a_host_is_killed_before_they_have_connected(
    tmp_path: Path, start: Start
) -> None:
    processes = start(8, 5)
    processes[2].send_signal(signal.SIGSTOP)
    read_to(processes[1], "Reached the first host")
    processes[0].kill()
    assert_lost(processes[:2], tmp_path, 0, "disconnected unexpectedly")


@pytest.mark.slow  # of waiting: the silence that is allowed
def test_the_others_end_when_a_host_hangs(tmp_path: Path, start: Start) -> None:
    processes = start(11, 5)
    read_to(processes[0], "Epoch[0] Validation-accuracy=")
    processes[1].send_signal(signal.SIGSTOP)
    assert_lost(processes, tmp_path, 1, "has not answered for 40 s")
