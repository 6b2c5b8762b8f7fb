"""Jobs with a frozen backbone that compute features once learn the same as those that do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import ClassFolders
from tests.contract import jobs
from tests.contract.conftest import HYPERPARAMETERS
from tests.contract.hosts import HOSTS, end, start_hosts
from tests.contract.jobs import run_train, write_job
from tests.contract.test_training_channels import pipe_job, records_of

FROZEN: dict[str, object] = {"train_only_top_layer": 1, "learning_rate": 0.0005, "epochs": 4}
PLAIN = {name: value for name, value in HYPERPARAMETERS.items() if name != "augmentation_type"}

pytestmark = pytest.mark.survival  # each test runs two jobs or more


def losses_of(base: Path) -> list[float]:
    history = json.loads((base / "output" / "data" / "history.json").read_text())
    return [
        epoch[split]["loss"] for epoch in history["epochs"] for split in ("train", "validation")
    ]


def predictions_of(base: Path) -> list[dict[str, object]]:
    text = (base / "output" / "data" / "validation-predictions.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("has_records", [False, True])
def test_a_job_on_files_or_records_learns_the_same_with_features_computed_once(
    tmp_path: Path, small_channels: dict[str, Path], has_records: bool
) -> None:
    channels = dict(small_channels)
    if has_records:
        for name, folder in small_channels.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / f"{name}.rec").write_bytes(records_of(folder))
            channels[name] = tmp_path / name
    bases = []
    for copies, line in ((3, "training images once"), (0, "in every epoch: feature_copies=0")):
        given = PLAIN | FROZEN | {"feature_copies": copies}
        base = write_job(tmp_path / f"ml{copies}", given, channels)
        done = run_train(base)
        assert done.returncode == 0, done.stdout + done.stderr
        assert line in done.stdout
        bases.append(base)
    assert losses_of(bases[0]) == pytest.approx(losses_of(bases[1]), abs=1e-4)
    found, expected = map(predictions_of, bases)
    assert [line["key"] for line in found] == [line["key"] for line in expected]


def test_a_job_in_pipe_mode_computes_features_in_every_epoch(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    base = pipe_job(tmp_path / "ml", small_channels, epochs=2, passes=2)
    path = base / "input" / "config" / "hyperparameters.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"train_only_top_layer": "1"}))
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "features of images in every epoch: Pipe mode gives each image only once" in done.stdout


@pytest.mark.parametrize("is_sharded", [False, True])
def test_two_hosts_learn_the_same_with_features_computed_once(
    tmp_path: Path, write_class_folders: ClassFolders, is_sharded: bool
) -> None:
    """One sample is bad, and the second host has fewer steps."""
    if jobs.BACKEND in jobs.ONE_HOST:
        pytest.skip(f"backend {jobs.BACKEND} trains on one host")
    channels = {
        "train": write_class_folders(tmp_path / "train", per_class=11),
        "validation": write_class_folders(tmp_path / "validation", per_class=5, seed=1),
    }
    (channels["train"] / "red" / "red003.jpg").write_bytes(b"no image")
    parts = None
    if is_sharded:
        second = write_class_folders(tmp_path / "second", per_class=5, seed=3)
        parts = dict(zip(HOSTS, (channels["train"], second), strict=True))
    losses = []
    for copies in (3, 0):
        root = tmp_path / str(copies)
        changed = FROZEN | {"max_bad_samples": 2, "augmentation_type": None}
        changed |= {"feature_copies": copies}
        for code, log in end(start_hosts(root, channels, changed, parts)):
            assert code == 0, log
        losses.append(losses_of(root / HOSTS[0]))
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_a_job_without_time_for_its_first_step_fails_and_writes_no_model(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    given = PLAIN | FROZEN | {"balanced_sampling": 1, "max_minutes": 1e-6}
    base = write_job(tmp_path / "ml", given, small_channels)
    done = run_train(base)
    assert done.returncode == 2, done.stdout + done.stderr
    failure = (base / "output" / "failure").read_text()
    assert "max_minutes=1e-06 passed before the first training step was done" in failure
    assert not list((base / "model").iterdir())
