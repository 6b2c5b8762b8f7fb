"""Checkpoints: what a job needs to go on where it was, written whole or not at all.

One checkpoint is `checkpoint-0003.safetensors` (every array of the engine's state) and
`checkpoint-0003.json` (epochs done, history, best epoch, the job's identity). The JSON is renamed
into place last: a checkpoint without it does not exist. The platform copies the folder while we
write, so nothing half-written ever carries a final name.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from image_classification.backends.base import State
from image_classification.data.files import PARTIAL_SUFFIX, write_text, written_beside
from image_classification.errors import UserError

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch brought.

    Attributes:
        epoch: 0 for the first.
        train, validation: metric name → value.
        seconds: of training, without validation.
        images_per_second: of training.
        wait_share: 0–1, of the training time spent waiting for data.
        learning_rate: at the epoch's last step.
        outside_share: 0–1, of the training time spent outside the training step: waiting for data,
            metrics, logging.
    """

    epoch: int
    train: dict[str, float]
    validation: dict[str, float]
    seconds: float
    images_per_second: float
    wait_share: float
    learning_rate: float
    outside_share: float = 0.0


@dataclass
class History:
    """The epochs so far.

    Attributes:
        epochs: one record each.
        lost: epochs whose weights no longer exist.
        metric: the validation metric that decides which epoch is the best; more is better.
    """

    epochs: list[EpochRecord] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)
    metric: str = "accuracy"

    @property
    def accuracies(self) -> list[float]:
        """Validation accuracy of each epoch, or the metric that stands for it."""
        return [record.validation[self.metric] for record in self.epochs]

    @property
    def best_epoch(self) -> int:
        """The epoch with the highest validation accuracy, of equals the one with the lowest loss.

        Small validation sets tie often, and the loss tells a sure model from a lucky one. −1
        before any epoch.
        """
        kept = [record for record in self.epochs if record.epoch not in self.lost]
        if not kept:
            return -1
        return max(kept, key=lambda r: (r.validation[self.metric], -r.validation["loss"])).epoch


class Checkpoints:
    """A folder of checkpoints: the newest and the one of the best epoch are kept.

    Args:
        directory: None keeps nothing, and nothing is resumed.
        identity: what must be equal for a checkpoint to continue this job.
    """

    def __init__(self, directory: Path | None, identity: Mapping[str, Any]) -> None:
        self._directory = directory
        self._identity = json.loads(json.dumps(identity))

    def save(self, state: State, history: History) -> None:
        """Write a checkpoint after the last epoch of `history`, then remove those not kept."""
        if self._directory is None:
            return
        epoch = history.epochs[-1].epoch
        with written_beside(self._weights_path(epoch)) as partial:
            partial.write_bytes(save(state))  # save_file would hide it from other users
        content = {"job": self._identity, "epochs": [asdict(record) for record in history.epochs]}
        write_text(self._json_path(epoch), json.dumps(content, indent=1))
        self._remove_all_but({epoch, history.best_epoch})

    def load_latest(self) -> tuple[State, History] | None:
        """The newest complete checkpoint, or None.

        If the checkpoint of the best epoch is lost, that epoch can no longer be the best.

        Raises:
            UserError: it was written by another job (other classes, backbone or hyperparameters).
        """
        for epoch in reversed(self._epochs()):
            content = self._read(epoch)
            if content is None:
                continue
            if content["job"] != self._identity:
                raise UserError(
                    f"{self._directory}: the checkpoints there belong to another job: "
                    f"{_difference(content['job'], self._identity)}; give this job an empty "
                    "checkpoint location"
                )
            history = History([EpochRecord(**record) for record in content["epochs"]])
            while history.best_epoch != epoch and self._read(history.best_epoch) is None:
                history.lost.add(history.best_epoch)
            return self.load(epoch), history
        return None

    def load(self, epoch: int) -> State:
        """The state after `epoch`."""
        return dict(load_file(self._weights_path(epoch)))

    def _epochs(self) -> list[int]:
        if self._directory is None or not self._directory.is_dir():
            return []
        return sorted(
            int(path.stem.split("-")[1])
            for path in self._directory.glob("checkpoint-*.json")
            if path.stem.split("-")[1].isdigit() and path.with_suffix(".safetensors").is_file()
        )

    def _read(self, epoch: int) -> dict[str, Any] | None:
        """The JSON of a checkpoint whose arrays can be read; None, with a warning, otherwise."""
        try:
            load_file(self._weights_path(epoch))
            content = json.loads(self._json_path(epoch).read_text("utf-8"))
            return dict(content) if {"job", "epochs"} <= set(content) else None
        except (OSError, ValueError, SafetensorError) as error:
            _logger.warning("The checkpoint after epoch %d is unusable: %s", epoch + 1, error)
            return None

    def _remove_all_but(self, kept: set[int]) -> None:
        for epoch in set(self._epochs()) - kept:
            self._json_path(epoch).unlink(missing_ok=True)
            self._weights_path(epoch).unlink(missing_ok=True)
        assert self._directory is not None
        for leftover in self._directory.glob(f"checkpoint-*{PARTIAL_SUFFIX}"):
            leftover.unlink(missing_ok=True)

    def _weights_path(self, epoch: int) -> Path:
        assert self._directory is not None
        return self._directory / f"checkpoint-{epoch:04d}.safetensors"

    def _json_path(self, epoch: int) -> Path:
        return self._weights_path(epoch).with_suffix(".json")


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    changed = sorted(k for k in {*theirs, *ours} if theirs.get(k) != ours.get(k))
    return ", ".join(f"{k} was {theirs.get(k)!r} and is {ours.get(k)!r}" for k in changed[:5])
