"""Which checkpoint a job goes on from, and whether within its epoch.

It must be this job's, and the same on all hosts; their number may be another one than before.
"""

from __future__ import annotations

import logging

from image_classification.errors import UserError
from image_classification.training.checkpoint import Checkpoint, Checkpoints, PartialEpoch
from image_classification.training.process_group import ProcessGroup

_logger = logging.getLogger(__name__)


def newest_checkpoint(
    checkpoints: Checkpoints, metric: str, epochs: int, group: ProcessGroup
) -> Checkpoint | None:
    """The newest checkpoint, or None.

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
    return found


def division_of(processes: int, sharing: int) -> str:
    """How an epoch's samples are divided, in words: among so many, of which so many share."""
    own = ", each with samples of its own" if sharing < processes else ""
    return f"{processes} process{'es' if processes > 1 else ''}{own}"


def continued_epoch(found: Checkpoint, division: str) -> PartialEpoch | None:
    """The epoch that goes on at its step, None where the next one begins; the log says which.

    Which samples are left of an epoch depends on how it was divided. Divided otherwise, the epoch
    begins again, with the weights it has reached.
    """
    done, partial = len(found.history.epochs), found.partial
    if partial is None:
        _logger.info("Resumed after epoch %d", done)
    elif partial.division == division:
        _logger.info("Resumed in epoch %d after step %d", done + 1, partial.step)
    else:
        _logger.warning(
            "Resumed in epoch %d with the weights after its step %d. The epoch was divided among "
            "%s and is now among %s: it begins again, with the samples it has seen",
            done + 1,
            partial.step,
            partial.division,
            division,
        )
        return None
    return partial
