"""Jobs resume from checkpoints and start from artifacts of 0.1.0, on the backend of --backend."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.contract import jobs
from tests.contract.jobs import run_train, write_job
from tests.golden.cases import (
    ARTIFACTS,
    CHECKPOINTS,
    GOLDEN,
    KILLED_AFTER,
    channels_of,
    measured,
    metric_lines,
    parted,
    resumed,
    scraped,
    summary,
    unpacked,
)

load_file = pytest.importorskip("safetensors.numpy").load_file

TIMED = re.compile("duration|latency|throughput")
_OTHER = {"torch": "mxnet", "tensorflow": "torch", "mxnet": "tensorflow"}


@pytest.fixture
def backend() -> str:
    """The backend of --backend, if its framework is installed."""
    if jobs.BACKEND not in CHECKPOINTS:
        pytest.skip(f"there is no golden checkpoint of backend={jobs.BACKEND}")
    pytest.importorskip(jobs.BACKEND, reason=f"{jobs.BACKEND} is not installed")
    return jobs.BACKEND


def golden(backend: str) -> dict[str, Any]:
    return dict(json.loads((GOLDEN / "checkpoints" / f"{backend}.json").read_text()))


def check_result(base: Path, expected: dict[str, Any]) -> None:
    """Compare the weights and the history of a finished job with the golden ones."""
    weights = load_file(base / "model" / "weights.safetensors")
    assert sorted(weights) == sorted(expected["weights"])
    for name, value in weights.items():
        assert summary(value) == pytest.approx(expected["weights"][name], rel=1e-3, abs=1e-3), name
    history = measured(base / "output" / "data" / "history.json")
    assert history["best_epoch"] == expected["history"]["best_epoch"]
    for epoch, wanted in zip(history["epochs"], expected["history"]["epochs"], strict=True):
        for kind in ("train", "validation"):
            assert epoch[kind] == pytest.approx(wanted[kind], abs=1e-3)


def test_a_job_resumes_from_a_golden_checkpoint_within_an_epoch_and_ends_with_the_same_result(
    backend: str, tmp_path: Path
) -> None:
    job, expected = CHECKPOINTS[backend], golden(backend)
    base, log = resumed(job, GOLDEN / "checkpoints" / f"{backend}.tar.gz", tmp_path)
    assert re.findall(r"Resumed .*", log) == expected["resumed"]
    check_result(base, expected)
    definitions = json.loads((GOLDEN / "interfaces" / f"{job.interface}.json").read_text())
    lines = metric_lines(log, definitions)
    assert [form(line) for line in lines] == [form(line) for line in expected["lines"]]
    for name, values in scraped(lines, definitions).items():
        if not TIMED.search(name):
            assert values == pytest.approx(expected["metrics"][name], abs=1e-3), name


def form(line: str) -> str:
    """A line without its numbers, of which the seconds of an epoch are one."""
    return parted(re.sub(r" - \d+s - ", " - 0 s - ", line))[0]


def test_a_job_resumes_from_the_golden_checkpoint_of_an_epoch_and_ends_with_the_same_result(
    backend: str, tmp_path: Path
) -> None:
    job, checkpoints = CHECKPOINTS[backend], tmp_path / "ml" / "checkpoints"
    base = write_job(tmp_path / "ml", job.hyperparameters, channels_of(job.kind, tmp_path / "data"))
    unpacked(GOLDEN / "checkpoints" / f"{backend}.tar.gz", checkpoints)
    for kind in ("json", "safetensors"):
        (checkpoints / f"{KILLED_AFTER}.{kind}").unlink()
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"Resumed .*", done.stdout) == ["Resumed after epoch 1"]
    check_result(base, golden(backend))


@pytest.mark.parametrize("which", ["its own", "its own, several labels", "another backend's"])
def test_a_new_job_starts_from_the_weights_of_a_golden_artifact(
    which: str, backend: str, tmp_path: Path
) -> None:
    name = {"its own": backend, "another backend's": _OTHER[backend]}.get(
        which, f"{backend}-several-labels"
    )
    channels = channels_of(ARTIFACTS[name].kind, tmp_path / "data")
    channels["model"] = tmp_path / "model"
    channels["model"].mkdir()
    archive = GOLDEN / "artifacts" / f"{name}.tar.gz"
    shutil.copyfile(archive, channels["model"] / "model.tar.gz")
    still = {"backend": backend, "learning_rate": 0, "epochs": 1, "momentum": 0}
    given = ARTIFACTS[name].hyperparameters | still  # only the head trains, with a rate of 0
    base = write_job(tmp_path / "ml", given, channels)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Channel model: starting from its weights, head included (same classes)" in done.stdout
    theirs = load_file(unpacked(archive, tmp_path / "unpacked") / "weights.safetensors")
    ours = load_file(base / "model" / "weights.safetensors")
    assert sorted(ours) == sorted(theirs)
    assert [key for key in theirs if not np.array_equal(ours[key], theirs[key])] == []
