"""A checkpoint is there whole or not there, and only its own job continues from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from image_classification.errors import UserError
from image_classification.training.checkpoint import Checkpoints, EpochRecord, History

IDENTITY = {"backbone": "resnet20", "labels": ["a", "b"], "image_shape": [3, 8, 8]}


def record(epoch: int, accuracy: float, loss: float = 1.0) -> EpochRecord:
    values = {"accuracy": accuracy, "loss": loss}
    return EpochRecord(epoch, values, values, 1.0, 10.0, 0.0, 0.1)


def state(value: float) -> dict[str, np.ndarray]:
    steps = np.array(3, np.int64)
    return {"weight/head.bias": np.full(2, value, np.float32), "optimizer/steps": steps}


def save_epochs(checkpoints: Checkpoints, accuracies: list[float]) -> History:
    history = History()
    for epoch, accuracy in enumerate(accuracies):
        history.epochs.append(record(epoch, accuracy))
        checkpoints.save(state(epoch), history)
    return history


def test_the_newest_checkpoint_comes_back_with_its_history(tmp_path: Path) -> None:
    history = save_epochs(Checkpoints(tmp_path, IDENTITY), [0.5, 0.7])
    found = Checkpoints(tmp_path, IDENTITY).load_latest()
    assert found is not None
    loaded, loaded_history = found
    assert loaded_history == history
    np.testing.assert_array_equal(loaded["weight/head.bias"], [1, 1])
    assert loaded["optimizer/steps"].dtype == np.int64


def test_only_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    save_epochs(Checkpoints(tmp_path, IDENTITY), [0.5, 0.9, 0.6, 0.7])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-0001.json",
        "checkpoint-0001.safetensors",
        "checkpoint-0003.json",
        "checkpoint-0003.safetensors",
    ]


def test_a_damaged_checkpoint_is_passed_over_for_an_older_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    save_epochs(checkpoints, [0.9, 0.5])
    newest = tmp_path / "checkpoint-0001.safetensors"
    newest.write_bytes(newest.read_bytes()[:20])
    found = checkpoints.load_latest()
    assert found is not None and len(found[1].epochs) == 1


def test_arrays_without_their_json_are_no_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    save_epochs(checkpoints, [0.5])
    (tmp_path / "checkpoint-0000.json").unlink()
    assert checkpoints.load_latest() is None


def test_another_job_is_refused_with_the_difference(tmp_path: Path) -> None:
    save_epochs(Checkpoints(tmp_path, IDENTITY), [0.5])
    other = Checkpoints(tmp_path, IDENTITY | {"backbone": "resnet18"})
    with pytest.raises(UserError, match="backbone was 'resnet20' and is 'resnet18'"):
        other.load_latest()


def test_without_a_folder_nothing_is_kept() -> None:
    checkpoints = Checkpoints(None, IDENTITY)
    save_epochs(checkpoints, [0.5])
    assert checkpoints.load_latest() is None


def test_of_equally_accurate_epochs_the_one_with_the_lower_loss_is_best() -> None:
    history = History([record(0, 0.9, 0.5), record(1, 0.9, 0.3), record(2, 0.8, 0.1)])
    assert history.best_epoch == 1
    assert History([record(0, 0.9, 0.5), record(1, 0.9, 0.5)]).best_epoch == 0


def test_without_its_weights_the_best_epoch_is_no_longer_the_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    save_epochs(checkpoints, [0.5, 0.9, 0.6])
    best = tmp_path / "checkpoint-0001.safetensors"
    best.write_bytes(best.read_bytes()[:20])
    found = checkpoints.load_latest()
    assert found is not None
    state, history = found
    assert history.best_epoch == 2 and len(history.epochs) == 3
    np.testing.assert_array_equal(state["weight/head.bias"], [2, 2])
