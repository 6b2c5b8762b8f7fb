"""One job on two hosts: two real processes connected over TCP, each with a job tree of its own."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from image_classification.artifact import read_artifact
from tests.conftest import ClassFolders
from tests.contract import jobs
from tests.contract.conftest import HYPERPARAMETERS
from tests.contract.hosts import HOSTS, end, shard, start_hosts
from tests.contract.jobs import read_to, run_train, write_job

pytestmark = pytest.mark.survival


@pytest.fixture(autouse=True)
def backend_of_several_hosts() -> None:
    """The other backends refuse such a job; their own tests cover that."""
    if jobs.BACKEND in jobs.ONE_HOST:
        pytest.skip(f"backend {jobs.BACKEND} trains on one host")


@pytest.fixture
def uneven_channels(tmp_path: Path, write_class_folders: ClassFolders) -> dict[str, Path]:
    """33 training images: in batches of 8 the first host has three steps, the second only two."""
    return {
        "train": write_class_folders(tmp_path / "train", per_class=11),
        "validation": write_class_folders(tmp_path / "validation", per_class=5, seed=1),
    }


def test_two_hosts_train_one_model_and_the_first_alone_logs_metrics_and_saves(
    tmp_path: Path, uneven_channels: dict[str, Path]
) -> None:
    processes = start_hosts(tmp_path, uneven_channels, {"epochs": 8})
    (code, log), (other_code, other_log) = end(processes)
    assert (code, other_code) == (0, 0), log + other_log
    artifact = read_artifact(tmp_path / HOSTS[0] / "model")
    assert artifact.manifest["metrics"]["validation"]["accuracy"] > 0.9
    assert len(re.findall(r"Epoch\[\d\] Validation-accuracy=", log)) == 8
    assert "accuracy=" not in other_log
    assert not list((tmp_path / HOSTS[1] / "model").iterdir())
    assert not list((tmp_path / HOSTS[1] / "output" / "data").iterdir())


def test_when_one_host_dies_the_other_ends_with_the_reason(
    tmp_path: Path, uneven_channels: dict[str, Path]
) -> None:
    first, second = start_hosts(tmp_path, uneven_channels, {"epochs": 500})
    read_to(first, "Epoch[0] Validation-accuracy=")
    second.kill()
    (code, log), _ = end([first, second])
    assert code == 1
    failure = (tmp_path / HOSTS[0] / "output" / "failure").read_text()
    assert "host localhost disconnected unexpectedly" in failure
    assert "Traceback" not in failure.splitlines()[0]
    assert not list((tmp_path / HOSTS[0] / "model").iterdir()), log


def test_sigterm_on_one_host_stops_both_and_the_best_epoch_is_saved(
    tmp_path: Path, uneven_channels: dict[str, Path]
) -> None:
    processes = start_hosts(tmp_path, uneven_channels, {"epochs": 500})
    read_to(processes[0], "Epoch[0] Validation-accuracy=")
    time.sleep(0.5)
    processes[1].send_signal(signal.SIGTERM)
    (code, log), (other_code, other_log) = end(processes)
    assert (code, other_code) == (0, 0), log + other_log
    assert read_artifact(tmp_path / HOSTS[0] / "model").labels.names == ("blue", "green", "red")


@pytest.mark.thorough
def test_hosts_with_different_checkpoints_end_with_the_reason(
    tmp_path: Path, uneven_channels: dict[str, Path]
) -> None:
    for host in HOSTS:
        (tmp_path / host / "checkpoints").mkdir(parents=True)
    for code, log in end(start_hosts(tmp_path, uneven_channels)):
        assert code == 0, log
    assert list((tmp_path / HOSTS[0] / "checkpoints").glob("*.json"))
    assert not list((tmp_path / HOSTS[1] / "checkpoints").iterdir())
    for host in HOSTS:
        (tmp_path / host / "input").rename(tmp_path / f"old-{host}")
    for code, log in end(start_hosts(tmp_path, uneven_channels, {"epochs": 4})):
        assert code == 2, log
        assert "give all hosts the same checkpoints" in log, log


@pytest.fixture
def parts(tmp_path: Path, write_class_folders: ClassFolders) -> dict[str, Path]:
    """36 images for the first host, of all three colors; 10 for the second, none of them green."""
    first = write_class_folders(tmp_path / "part1", per_class=12)
    second = write_class_folders(tmp_path / "part2", per_class=5, seed=3)
    shutil.rmtree(second / "green")
    return dict(zip(HOSTS, (first, second), strict=True))


def test_hosts_with_shards_train_one_model_on_all_samples(
    tmp_path: Path, uneven_channels: dict[str, Path], parts: dict[str, Path]
) -> None:
    changed = {"epochs": 8}
    (code, log), (other_code, other_log) = end(
        start_hosts(tmp_path, uneven_channels, changed, parts)
    )
    assert (code, other_code) == (0, 0), log + other_log
    manifest = read_artifact(tmp_path / HOSTS[0] / "model").manifest
    assert manifest["metrics"]["validation"]["accuracy"] > 0.9
    assert manifest["metrics"]["training_samples"] == 46
    assert (
        "46 training and 15 validation"
        in (tmp_path / HOSTS[0] / "model" / "model-card.md").read_text()
    )


@pytest.mark.thorough
def test_hosts_with_shards_resume_from_the_same_checkpoints(
    tmp_path: Path, uneven_channels: dict[str, Path], parts: dict[str, Path]
) -> None:
    shared = tmp_path / "checkpoints"
    shared.mkdir()
    for host in HOSTS:
        (tmp_path / host).mkdir()
        (tmp_path / host / "checkpoints").symlink_to(shared)
    for epochs in (1, 2):
        for code, log in end(start_hosts(tmp_path, uneven_channels, {"epochs": epochs}, parts)):
            assert code == 0, log
            assert ("Resumed after epoch 1" in log) is (epochs == 2)
        for host in HOSTS:
            (tmp_path / host / "input").rename(tmp_path / f"old-{epochs}-{host}")


def test_hosts_with_different_class_names_all_end_with_the_reason(
    tmp_path: Path, uneven_channels: dict[str, Path], parts: dict[str, Path]
) -> None:
    (parts[HOSTS[1]] / "labels.json").write_text('{"labels": ["red", "green", "blue"]}')
    for code, log in end(start_hosts(tmp_path, uneven_channels, {}, parts)):
        assert code == 2, log
        assert "do not agree on the classes" in log
        assert "set the hyperparameters labels and resize" in log


def test_a_host_without_a_sample_ends_with_the_reason(
    tmp_path: Path, uneven_channels: dict[str, Path], parts: dict[str, Path]
) -> None:
    shutil.rmtree(parts[HOSTS[1]])
    parts[HOSTS[1]].mkdir()
    first, second = start_hosts(tmp_path, uneven_channels, {}, parts)
    log = second.communicate(timeout=60)[0]
    first.kill()
    first.communicate()
    assert second.returncode == 2
    assert "this host received no object" in log


@pytest.mark.parametrize(
    ("sharded", "without", "given", "reason"),
    [
        ("validation", (), {}, "channel validation: with 2 hosts only train may be Sharded"),
        ("train", ("validation",), {"validation_split_ratio": 0.2}, "so no images can be held out"),
        ("train", (), {"class_weights": "balanced"}, "class_weights count the classes of all"),
    ],
)
def test_channels_that_cannot_be_sharded_are_refused_with_what_to_set(
    tmp_path: Path,
    uneven_channels: dict[str, Path],
    sharded: str,
    without: tuple[str, ...],
    given: dict[str, object],
    reason: str,
) -> None:
    channels = {name: path for name, path in uneven_channels.items() if name not in without}
    base = write_job(tmp_path / "ml", HYPERPARAMETERS | given, channels)
    resources = {"current_host": HOSTS[0], "hosts": HOSTS}
    (base / "input" / "config" / "resourceconfig.json").write_text(json.dumps(resources))
    shard(base, sharded)
    done = run_train(base)
    assert done.returncode == 2
    assert reason in done.stderr and "FullyReplicated" in done.stderr


def test_two_hosts_have_the_same_losses_as_one_with_the_same_effective_batch(
    tmp_path: Path, uneven_channels: dict[str, Path]
) -> None:
    """20 epochs of one step: 33 images on one host, 17 and 16 on two."""
    alike: dict[str, object] = {"train_only_top_layer": 1, "epochs": 20, "learning_rate": 0.0005}
    alike["augmentation_type"] = None
    losses = []
    for hosts in (HOSTS[:1], HOSTS):
        changed = alike | {"mini_batch_size": -(-33 // len(hosts))}
        root = tmp_path / str(len(hosts))
        for code, log in end(start_hosts(root, uneven_channels, changed, hosts=hosts)):
            assert code == 0, log
        history = json.loads((root / HOSTS[0] / "output" / "data" / "history.json").read_text())
        losses.append([epoch["train"]["loss"] for epoch in history["epochs"]])
    assert len(losses[0]) == 20 and losses[0][-1] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


@pytest.mark.thorough
def test_a_job_resumes_with_another_number_of_hosts(
    tmp_path: Path, write_class_folders: ClassFolders
) -> None:
    """From two hosts in the middle of an epoch to one, and after its end to two again."""
    channels = {
        "train": write_class_folders(tmp_path / "train", per_class=200),
        "validation": write_class_folders(tmp_path / "validation", per_class=5, seed=1),
    }
    shared = tmp_path / "checkpoints"
    shared.mkdir()

    def start(name: str, epochs: int, hosts: list[str]) -> list[subprocess.Popen[str]]:
        for host in hosts:
            (tmp_path / name / host).mkdir(parents=True)
            (tmp_path / name / host / "checkpoints").symlink_to(shared)
        return start_hosts(tmp_path / name, channels, {"epochs": epochs}, hosts=hosts)

    interrupted = start("first", 3, HOSTS)
    read_to(interrupted[0], "Epoch[1] Batch [20]")
    interrupted[1].send_signal(signal.SIGTERM)
    for code, log in end(interrupted):
        assert code == 0, log
    ((code, log),) = end(start("second", 2, HOSTS[:1]))
    assert code == 0, log
    assert "divided among 2 processes and is now divided among 1 process: it begins again" in log
    for code, log in end(start("third", 3, HOSTS)):
        assert code == 0, log
        assert "Resumed after epoch 2" in log
