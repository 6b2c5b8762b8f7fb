"""The weights that outlive training: which of a state's, and from where in the training."""

from __future__ import annotations

from dataclasses import dataclass

from image_classification.backends.base import AVERAGE_PREFIX, WEIGHT_PREFIX, State
from image_classification.training.checkpoint import History
from image_classification.training.epoch_progress import EpochProgress


@dataclass(frozen=True)
class LastWeights:
    """The weights that training ended with.

    Attributes:
        weights: `weight/<neutral name>` → array.
        epoch: 0 for the first.
        cut_after: steps of it, where a stop cut it short; 0 for a whole epoch.
    """

    weights: State
    epoch: int
    cut_after: int = 0


def evaluated_weights(state: State) -> State:
    """Those that are evaluated and served: the averaged ones where there are any."""
    averages = {k: v for k, v in state.items() if k.startswith(AVERAGE_PREFIX)}
    if averages:
        return {WEIGHT_PREFIX + k.removeprefix(AVERAGE_PREFIX): v for k, v in averages.items()}
    return {name: value for name, value in state.items() if name.startswith(WEIGHT_PREFIX)}


def last_weights(state: State, history: History, progress: EpochProgress | None) -> LastWeights:
    """Those of an engine's state at the end of training.

    Args:
        state: of the engine.
        history: the epochs that count, one at least.
        progress: of the epoch begun last, which a stop may have kept out of `history`; None where
            this process began none.
    """
    weights = evaluated_weights(state)
    if progress is not None and progress.epoch == len(history.epochs):
        return LastWeights(weights, progress.epoch, progress.step)
    record = history.epochs[-1]
    return LastWeights(weights, record.epoch, record.cut_after)
