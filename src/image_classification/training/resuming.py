"""Which checkpoint a job goes on from: one that is this job's, and the same on all hosts."""

from __future__ import annotations

import logging

from image_classification.errors import UserError
from image_classification.training.checkpoint import Checkpoint, Checkpoints
from image_classification.training.process_group import ProcessGroup

_logger = logging.getLogger(__name__)


def newest_checkpoint(
    checkpoints: Checkpoints, metric: str, epochs: int, group: ProcessGroup
) -> Checkpoint | None:
    """The newest checkpoint, or None; the log says where the job goes on.

    Args:
        checkpoints: of this host.
        metric: decides which epoch is the best.
        epochs: of the whole job.
        group: the processes that train together.

    Raises:
        UserError: it is another job's, has more epochs than this job asks for, or is not the
            same on all hosts.
    """
    found = checkpoints.load_latest(metric)
    done = len(found.history.epochs) if found else 0
    step = found.partial.step if found and found.partial else 0
    leaders = group.from_leader({"epochs": done, "steps": step})
    if group.any((done, step) != (leaders["epochs"], leaders["steps"])):
        raise UserError(
            f"this host has a checkpoint of {done} epochs and {step} steps, the first host one "
            f"of {leaders['epochs']:.0f} and {leaders['steps']:.0f}: give all hosts the same "
            "checkpoints, or none"
        )
    if found is None:
        return None
    if done > epochs:
        raise UserError(
            f"the checkpoints are of {done} epochs, the job has epochs={epochs}: "
            "set more epochs, or give it an empty checkpoint location"
        )
    if step:
        _logger.info("Resumed in epoch %d after step %d", done + 1, step)
    else:
        _logger.info("Resumed after epoch %d", done)
    return found
