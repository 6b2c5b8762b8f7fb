"""A checkpoint is complete or absent, and only its own job resumes from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from image_classification.errors import UserError
from image_classification.files import PARTIAL_SUFFIX
from image_classification.training.checkpoint import (
    Checkpoint,
    Checkpoints,
    EpochRecord,
    History,
    PartialEpoch,
)

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
        checkpoints.save(Checkpoint(state(epoch), history))
    return history


def test_the_newest_checkpoint_is_read_back_with_its_history(tmp_path: Path) -> None:
    history = save_epochs(Checkpoints(tmp_path, IDENTITY), [0.5, 0.7])
    found = Checkpoints(tmp_path, IDENTITY).load_latest()
    assert found is not None
    loaded = found.state
    assert found.history == history and found.partial is None
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


def test_the_next_checkpoint_removes_files_that_a_kill_left_half_written(tmp_path: Path) -> None:
    leftovers = [
        tmp_path / f"checkpoint-0007.{kind}{PARTIAL_SUFFIX}" for kind in ("safetensors", "json")
    ]
    others = tmp_path / f"notes.txt{PARTIAL_SUFFIX}"
    for path in (*leftovers, others):
        path.write_bytes(b"cut sho")
    save_epochs(Checkpoints(tmp_path, IDENTITY), [0.5])
    assert not any(path.exists() for path in leftovers)
    assert others.exists(), "what is not ours stays"


def test_weights_without_their_json_are_removed_and_other_files_are_kept(
    tmp_path: Path,
) -> None:
    for name in ("checkpoint-0000-000007", "checkpoint-0004", "checkpoint-of-mine"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"killed before the JSON")
    save_epochs(Checkpoints(tmp_path, IDENTITY), [0.5])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint-0000.json",
        "checkpoint-0000.safetensors",
        "checkpoint-of-mine.safetensors",
    ]


def test_an_older_checkpoint_replaces_a_damaged_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    save_epochs(checkpoints, [0.9, 0.5])
    newest = tmp_path / "checkpoint-0001.safetensors"
    newest.write_bytes(newest.read_bytes()[:20])
    found = checkpoints.load_latest()
    assert found is not None and len(found.history.epochs) == 1


def test_arrays_without_their_json_are_not_a_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    save_epochs(checkpoints, [0.5])
    (tmp_path / "checkpoint-0000.json").unlink()
    assert checkpoints.load_latest() is None


def test_another_job_is_refused_with_the_difference(tmp_path: Path) -> None:
    save_epochs(Checkpoints(tmp_path, IDENTITY), [0.5])
    other = Checkpoints(tmp_path, IDENTITY | {"backbone": "resnet18"})
    with pytest.raises(UserError, match="backbone was 'resnet20' and is now 'resnet18'"):
        other.load_latest()


def test_without_a_folder_nothing_is_kept() -> None:
    checkpoints = Checkpoints(None, IDENTITY)
    save_epochs(checkpoints, [0.5])
    assert checkpoints.load_latest() is None


def test_the_last_of_equally_accurate_epochs_is_the_best() -> None:
    history = History([record(0, 0.9, 0.1), record(1, 0.9, 0.3), record(2, 0.8, 0.1)])
    assert history.best_epoch == 1
    history.lose(1)
    assert history.best_epoch == 0


def test_a_checkpoint_folder_of_0_1_resumes_although_it_kept_the_tie_with_the_lower_loss(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    save_epochs(checkpoints, [0.9])
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    history = History([record(0, 0.9, 0.1), record(1, 0.9, 0.3), record(2, 0.8)])
    checkpoints.save(Checkpoint(state(2), history))
    for name, content in kept.items():  # version 0.1 kept the first epoch and the newest
        tmp_path.joinpath(name).write_bytes(content)
    found = Checkpoints(tmp_path, IDENTITY).load_latest()
    assert found is not None
    assert (found.history.best_epoch, found.history.lost) == (0, {1})
    np.testing.assert_array_equal(
        Checkpoints(tmp_path, IDENTITY).load(0)["weight/head.bias"], [0, 0]
    )
    assert "unusable" not in caplog.text


def test_without_its_weights_the_best_epoch_is_no_longer_the_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    save_epochs(checkpoints, [0.5, 0.9, 0.6])
    best = tmp_path / "checkpoint-0001.safetensors"
    best.write_bytes(best.read_bytes()[:20])
    found = checkpoints.load_latest()
    assert found is not None
    assert found.history.best_epoch == 2 and len(found.history.epochs) == 3
    np.testing.assert_array_equal(found.state["weight/head.bias"], [2, 2])


PARTIAL = PartialEpoch(120, {"loss": 0.1 + 0.2, "samples": 960.0}, 12.5, 0.5, 0.01)


def test_a_checkpoint_within_an_epoch_is_read_back_with_its_step_and_sums(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    history = save_epochs(checkpoints, [0.9, 0.5])
    checkpoints.save(Checkpoint(state(7), history, PARTIAL, 99.5))
    found = checkpoints.load_latest()
    assert found is not None
    assert (found.history, found.partial, found.seconds) == (history, PARTIAL, 99.5)
    np.testing.assert_array_equal(found.state["weight/head.bias"], [7, 7])
    names = sorted(path.stem for path in tmp_path.glob("*.json"))
    assert names == ["checkpoint-0000", "checkpoint-0002-000120"], "the newest and the best"


def test_the_end_of_an_epoch_is_newer_than_any_step_within_it(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    checkpoints.save(Checkpoint(state(7), History(), PARTIAL))
    save_epochs(checkpoints, [0.5])
    found = checkpoints.load_latest()
    assert found is not None and found.partial is None
    assert len(list(tmp_path.iterdir())) == 2


def test_without_the_checkpoint_of_the_only_epoch_no_epoch_is_the_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, IDENTITY)
    history = save_epochs(checkpoints, [0.5])
    checkpoints.save(Checkpoint(state(7), history, PARTIAL))
    (tmp_path / "checkpoint-0000.safetensors").write_bytes(b"cut")
    found = checkpoints.load_latest()
    assert found is not None and found.partial == PARTIAL
    assert found.history.best_epoch == -1


def test_the_metric_of_the_job_decides_which_lost_epoch_is_no_longer_the_best(
    tmp_path: Path,
) -> None:
    history = History(metric="auc")
    for epoch, (accuracy, area) in enumerate([(0.9, 0.5), (0.5, 0.9), (0.6, 0.6)]):
        values = {"accuracy": accuracy, "loss": 1.0, "auc": area}
        history.epochs.append(EpochRecord(epoch, values, values, 1.0, 10.0, 0.0, 0.1))
        Checkpoints(tmp_path, IDENTITY).save(Checkpoint(state(epoch), history))
    found = Checkpoints(tmp_path, IDENTITY).load_latest("auc")
    assert found is not None
    assert (found.history.best_epoch, found.history.lost) == (1, set())
    (tmp_path / "checkpoint-0001.json").unlink()
    found = Checkpoints(tmp_path, IDENTITY).load_latest("auc")
    assert found is not None
    assert (found.history.best_epoch, found.history.lost) == (2, {1})


def test_a_checkpoint_of_fewer_images_says_which_ones_0_1_left_out_and_is_kept(
    tmp_path: Path,
) -> None:
    save_epochs(Checkpoints(tmp_path, IDENTITY | {"training_samples": 40}), [0.5])
    kept = sorted(path.read_bytes() for path in tmp_path.iterdir())
    more = Checkpoints(tmp_path, IDENTITY | {"training_samples": 60})
    message = (
        r"training_samples was 40 and is now 60; to resume, .* \(version 0.1 left out images in "
        r"subfolders of class folders: move such subfolders out of the channels\), or give this job"
    )
    with pytest.raises(UserError, match=message):
        more.load_latest()
    fewer = Checkpoints(tmp_path, IDENTITY | {"training_samples": 30})
    with pytest.raises(UserError, match=r"is now 30; to resume, .* settings that it had, or give"):
        fewer.load_latest()
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == kept
