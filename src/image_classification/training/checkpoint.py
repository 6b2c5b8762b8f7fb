"""Checkpoints: write them, read the newest, and decide where a job resumes.

A checkpoint is a pair of files: the engine's state as safetensors, and JSON about the job and its
epochs. It must belong to this job and be the same on all hosts; their number may have changed.
"""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from image_classification import events
from image_classification.backends.base import State
from image_classification.contract.failure import warned
from image_classification.errors import UserError
from image_classification.files import PARTIAL_SUFFIX, write_text, written_beside
from image_classification.training.group import ProcessGroup

_NAME = re.compile(r"checkpoint-(\d{4,})(?:-(\d{6,}))?")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpochRecord:
    """The record of one epoch.

    Attributes:
        epoch: 0 for the first.
        train, validation: metric name → value.
        seconds: training time, without validation.
        images_per_second: speed of training.
        wait_share: share (0–1) of the training time spent waiting for data.
        learning_rate: at the epoch's last step.
        outside_share: share (0–1) of the training time spent outside the training step: waiting
            for data, metrics, logging.
        cut_after: number of steps if a stop cut the epoch short; 0 for a whole epoch.
    """

    epoch: int
    train: dict[str, float]
    validation: dict[str, float]
    seconds: float
    images_per_second: float
    wait_share: float
    learning_rate: float
    outside_share: float = 0.0
    cut_after: int = 0


@dataclass
class History:
    """The epochs so far.

    Attributes:
        epochs: one record each.
        lost: epochs whose weights no longer exist.
        metric: the validation metric of the best epoch; higher is better.
    """

    epochs: list[EpochRecord] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)
    metric: str = "accuracy"

    def add(self, record: EpochRecord) -> None:
        """Append the record of the next epoch."""
        self.epochs.append(record)

    def lose(self, epoch: int) -> None:
        """Note that the weights of an epoch no longer exist: it can no longer be the best."""
        self.lost.add(epoch)

    @property
    def accuracies(self) -> list[float]:
        """The validation accuracy of each epoch, or the metric that replaces it."""
        return [record.validation[self.metric] for record in self.epochs]

    @property
    def best_epoch(self) -> int:
        """The epoch with the highest validation accuracy; of several equal ones the last.

        Small validation sets tie often. The later epoch has learned from more samples, and on new
        images it is more accurate than the one with the lowest loss. −1 before any epoch.
        """
        kept = [record for record in self.epochs if record.epoch not in self.lost]
        if not kept:
            return -1
        return max(kept, key=lambda r: (r.validation[self.metric], r.epoch)).epoch


@dataclass(frozen=True)
class PartialEpoch:
    """The progress of an epoch when a checkpoint was written within it.

    Attributes:
        step: number of complete steps, from 1; with all of them only the validation is missing.
        totals: sums over the samples of all ranks, see `RunningMetrics.totals`.
        seconds, wait_seconds: time spent training, and waiting for data, so far.
        learning_rate: at the last step.
        step_seconds: the part of `seconds` within the training step.
        division: how the epoch's samples are divided among processes, see `division_of`.
    """

    step: int
    totals: dict[str, float]
    seconds: float
    wait_seconds: float
    learning_rate: float
    step_seconds: float = 0.0
    division: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a job needs to resume.

    Attributes:
        state: of the engine.
        history: the whole epochs so far.
        partial: the epoch after them, if it had begun.
        seconds: running time of the job.
    """

    state: State
    history: History
    partial: PartialEpoch | None = None
    seconds: float = 0.0


_Position = tuple[int, int]
"""(whole epochs, steps of the next one) before a checkpoint."""


class Checkpoints:
    """A folder of checkpoints: it keeps the newest and the one of the best epoch.

    Args:
        directory: the folder; None keeps nothing and resumes nothing.
        identity: the values that a checkpoint must share to continue this job.
    """

    def __init__(self, directory: Path | None, identity: Mapping[str, Any]) -> None:
        self._directory = directory
        self._identity = json.loads(json.dumps(identity))

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, then remove those no longer needed.

        If it cannot be written, the job goes on, with a warning and the checkpoints that it has.
        """
        if self._directory is not None:
            with warned(
                "training goes on without this checkpoint: an interrupted job would resume from "
                "an older one, or begin again"
            ):
                self._write(checkpoint)

    def _write(self, checkpoint: Checkpoint) -> None:
        history, partial = checkpoint.history, checkpoint.partial
        position = (len(history.epochs), partial.step if partial else 0)
        with written_beside(self._weights_path(position)) as file:
            file.write_bytes(save(checkpoint.state))  # save_file would hide it from other users
        content = {
            "job": self._identity,
            "epochs": [asdict(record) for record in history.epochs],
            "partial": asdict(partial) if partial else None,
            "seconds": checkpoint.seconds,
        }
        try:
            write_text(self._json_path(position), json.dumps(content, indent=1))
        except OSError:
            self._weights_path(position).unlink(missing_ok=True)  # useless, and it takes the room
            raise
        _logger.info('Saved checkpoint to "%s"', self._weights_path(position))
        self._remove_all_but({position, (history.best_epoch + 1, 0)})

    def load_latest(self, metric: str = "accuracy") -> Checkpoint | None:
        """Return the newest complete checkpoint, or None; `metric` decides on the best epoch.

        If the checkpoint of the best epoch is lost, that epoch can no longer be the best.

        Raises:
            UserError: another job wrote it (other classes, backbone or hyperparameters).
        """
        for position in reversed(self._positions()):
            content = self._read(position)
            if content is None:
                continue
            if content["job"] != self._identity:
                raise UserError(
                    f"{self._directory}: its checkpoints belong to another job: "
                    f"{_difference(content['job'], self._identity)}; "
                    f"{_remedy(content['job'], self._identity)}give this job an empty checkpoint "
                    "location"
                )
            records = [EpochRecord(**record) for record in content["epochs"]]
            history = History(records, metric=metric)
            while (best := (history.best_epoch + 1, 0)) not in {position, (0, 0)}:
                is_kept = best in self._positions()  # not of a tie that 0.1 decided otherwise
                if is_kept and self._read(best) is not None:
                    break
                history.lose(history.best_epoch)
            partial = PartialEpoch(**content["partial"]) if content["partial"] else None
            state = dict(load_file(self._weights_path(position)))
            return Checkpoint(state, history, partial, content["seconds"])
        return None

    def newest(self) -> tuple[Mapping[str, Any], int] | None:
        """Return the identity of the job of the newest complete checkpoint, and its whole epochs.

        None without any checkpoint.
        """
        for position in reversed(self._positions()):
            content = self._read(position)
            if content is not None:
                return dict(content["job"]), len(content["epochs"])
        return None

    def load(self, epoch: int) -> State:
        """Return the state after `epoch`."""
        return dict(load_file(self._weights_path((epoch + 1, 0))))

    def _positions(self) -> list[_Position]:
        """Return the positions of the checkpoints in order."""
        if self._directory is None or not self._directory.is_dir():
            return []
        found = [(_NAME.fullmatch(path.stem), path) for path in self._directory.glob("*.json")]
        return sorted(
            (int(match[1]), int(match[2])) if match[2] else (int(match[1]) + 1, 0)
            for match, path in found
            if match and path.with_suffix(".safetensors").is_file()
        )

    def _read(self, position: _Position) -> dict[str, Any] | None:
        """Return the JSON of a checkpoint, or None with a warning if its files cannot be read."""
        try:
            load_file(self._weights_path(position))
            content = json.loads(self._json_path(position).read_text("utf-8"))
            return (
                dict(content) if {"job", "epochs", "partial", "seconds"} <= set(content) else None
            )
        except (OSError, ValueError, SafetensorError) as error:
            _logger.warning(
                "The checkpoint %s is unusable: %s", self._json_path(position).stem, error
            )
            return None

    def _remove_all_but(self, kept: set[_Position]) -> None:
        assert self._directory is not None
        stems = {self._weights_path(position).stem for position in kept}
        for path in self._directory.glob("checkpoint-*.safetensors"):  # also without their JSON
            if _NAME.fullmatch(path.stem) and path.stem not in stems:
                path.with_suffix(".json").unlink(missing_ok=True)
                path.unlink()
        for leftover in self._directory.glob(f"checkpoint-*{PARTIAL_SUFFIX}"):
            leftover.unlink(missing_ok=True)

    def _weights_path(self, position: _Position) -> Path:
        assert self._directory is not None
        epochs, steps = position
        name = f"{epochs:04d}-{steps:06d}" if steps else f"{epochs - 1:04d}"
        return self._directory / f"checkpoint-{name}.safetensors"

    def _json_path(self, position: _Position) -> Path:
        return self._weights_path(position).with_suffix(".json")


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    changed = sorted(k for k in {*theirs, *ours} if theirs.get(k) != ours.get(k))
    return ", ".join(f"{k} was {theirs.get(k)!r} and is now {ours.get(k)!r}" for k in changed[:5])


def _remedy(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Return how to resume."""
    counts = ("training_samples", "validation_samples")
    if not any(theirs.get(name, 0) < ours.get(name, 0) for name in counts):
        return "to resume, give the data and settings that it had, or "
    return (
        "to resume, give the channels the images that they had (version 0.1 left out images in "
        "subfolders of class folders: move such subfolders out of the channels), or "
    )


def newest_checkpoint(
    checkpoints: Checkpoints, metric: str, epochs: int, group: ProcessGroup
) -> Checkpoint | None:
    """Return the newest checkpoint, or None.

    Args:
        checkpoints: of this host.
        metric: decides which epoch is the best.
        epochs: number of epochs of the job.
        group: the processes that train together.

    Raises:
        UserError: it belongs to another job, has more epochs than this job, or differs between
            hosts.
    """
    found = checkpoints.load_latest(metric)
    done = len(found.history.epochs) if found else 0
    step = found.partial.step if found and found.partial else 0
    leaders = group.from_leader({"epochs": done, "steps": step})
    if group.any((done, step) != (leaders["epochs"], leaders["steps"])):
        raise UserError(
            f"this host has a checkpoint of {done} epochs and {step} steps, but the first host "
            f"has one of {leaders['epochs']:.0f} and {leaders['steps']:.0f}: give all hosts the "
            "same checkpoints, or none"
        )
    if found is None:
        return None
    if done > epochs:
        raise UserError(
            f"the checkpoints have {done} epochs, but the job has epochs={epochs}: set more "
            "epochs, or give the job an empty checkpoint location"
        )
    return found


def division_of(processes: int, sharing: int) -> str:
    """Describe how an epoch's samples are divided: `sharing` of the processes share one source."""
    own = ", each with samples of its own" if sharing < processes else ""
    return f"{processes} process{'es' if processes > 1 else ''}{own}"


def continued_epoch(found: Checkpoint, division: str) -> PartialEpoch | None:
    """Log where the job resumes; return the epoch to continue, or None if one begins.

    The samples left of an epoch depend on how it was divided. If that has changed, the epoch begins
    again with its latest weights.
    """
    done, partial = len(found.history.epochs), found.partial
    if partial is None:
        _logger.info("Resumed after epoch %d", done, extra=events.Note().extra)
    elif partial.division == division:
        note = events.Note().extra
        _logger.info("Resumed in epoch %d after step %d", done + 1, partial.step, extra=note)
    else:
        _logger.warning(
            "Resumed in epoch %d with the weights after its step %d. The epoch was divided among "
            "%s and is now divided among %s: it begins again with all its samples",
            done + 1,
            partial.step,
            partial.division,
            division,
        )
        return None
    return partial
