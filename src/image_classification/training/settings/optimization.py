"""The hyperparameters that say how weights move: optimizer, learning rate, precision, the end.

In: an interface's typed hyperparameters. Out: neutral values, the same for every backend.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from image_classification.backends.base import OptimizerSpec
from image_classification.contract.hyperparameter import integer_list
from image_classification.errors import HyperparameterError
from image_classification.training.stopping import EarlyStopping

ScheduleKind = Literal["constant", "step", "cosine"]


@dataclass(frozen=True)
class Schedule:
    """A learning-rate schedule.

    Attributes:
        kind: constant, step (multiplied by `factor` after each of `step_epochs`) or cosine (falls
            to 0 at the end of the last epoch).
        learning_rate: the rate after the warm-up.
        epochs: length of the job.
        warmup_epochs: rises linearly from 0 over these; may be a fraction.
        step_epochs: rising epoch counts; the factor acts once that many epochs are complete.
        factor: multiplier at each step.
    """

    kind: ScheduleKind
    learning_rate: float
    epochs: int
    warmup_epochs: float = 0.0
    step_epochs: tuple[int, ...] = ()
    factor: float = 1.0

    def rate(self, epoch: float) -> float:
        """The learning rate when `epoch` epochs (with fraction) are complete; ≥ 0."""
        if epoch < self.warmup_epochs:
            return self.learning_rate * epoch / self.warmup_epochs
        if self.kind == "step":
            passed = sum(epoch >= step for step in self.step_epochs)
            return float(self.learning_rate * self.factor**passed)
        if self.kind == "cosine":
            length = max(self.epochs - self.warmup_epochs, 1e-9)
            share = min((epoch - self.warmup_epochs) / length, 1.0)
            return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))
        return self.learning_rate


def optimizer_of(interface: str, v: Mapping[str, Any]) -> OptimizerSpec:
    """MXNet: weight_decay and momentum act for sgd and nag only, as the built-in documents."""
    if interface == "tensorflow":
        return OptimizerSpec(
            name="nag" if v["optimizer"] == "nesterov" else v["optimizer"],
            momentum=v["momentum"] if v["optimizer"] in {"sgd", "nesterov", "rmsprop"} else 0.0,
            weight_decay=v["weight_decay"],
            beta_1=v["beta_1"],
            beta_2=v["beta_2"],
            epsilon=v["epsilon"],
            decay=v["rho"],
            initial_accumulator=v["initial_accumulator_value"],
            head_l2=v["regularizers_l2"],
            clip_gradient_norm=v["clip_gradient_norm"],
        )
    has_momentum = v["optimizer"] in {"sgd", "nag"}
    return OptimizerSpec(
        name=v["optimizer"],
        momentum=v["momentum"] if has_momentum else 0.0,
        weight_decay=v["weight_decay"] if has_momentum else 0.0,
        beta_1=v["beta_1"],
        beta_2=v["beta_2"],
        epsilon=v["eps"],
        decay=v["gamma"],
        clip_gradient_norm=v["clip_gradient_norm"],
    )


def schedule_of(v: Mapping[str, Any]) -> Schedule:
    """The schedule; HyperparameterError where its parts contradict one another."""
    steps = _epoch_list(v["lr_scheduler_step"])
    kind: ScheduleKind = v["lr_schedule"] or ("step" if steps else "constant")
    if kind == "step" and not steps:
        raise HyperparameterError("lr_schedule=step needs lr_scheduler_step, as 10,20")
    if kind != "step" and steps:
        raise HyperparameterError(
            f"lr_schedule={kind} and lr_scheduler_step={v['lr_scheduler_step']!r} contradict: "
            "keep one"
        )
    return Schedule(
        kind=kind,
        learning_rate=v["learning_rate"],
        epochs=v["epochs"],
        warmup_epochs=v["warmup_epochs"],
        step_epochs=steps,
        factor=v["lr_scheduler_factor"],
    )


def _epoch_list(text: str | None) -> tuple[int, ...]:
    if not text:
        return ()
    try:
        epochs = integer_list(text)
    except ValueError:
        epochs = (0,)
    if any(epoch < 1 for epoch in epochs) or list(epochs) != sorted(set(epochs)):
        raise HyperparameterError(
            f"lr_scheduler_step={text!r}: expected rising epochs separated by commas, as 10,20"
        )
    return epochs


def precision_of(v: Mapping[str, Any]) -> str:
    """The MXNet built-in's precision_dtype and our precision, of which one may be set."""
    precision, dtype = v["precision"], v.get("precision_dtype")
    if precision and dtype and precision not in {"auto", dtype}:
        raise HyperparameterError(
            f"precision={precision} and precision_dtype={dtype} contradict: keep one"
        )
    return str(precision if precision and precision != "auto" else dtype or "auto")


def checkpoint_frequency_of(v: Mapping[str, Any]) -> int:
    """Epochs between checkpoints; HyperparameterError for more than there are."""
    frequency, epochs = int(v["checkpoint_frequency"]), v["epochs"]
    if frequency > epochs:
        raise HyperparameterError(
            f"checkpoint_frequency={frequency}: expected an integer from 1 to epochs, which is "
            f"{epochs}; lower it or leave it out"
        )
    return frequency


def early_stopping_of(interface: str, v: Mapping[str, Any]) -> EarlyStopping | None:
    """The rule of the interface's built-in; None where it is off."""
    if not v["early_stopping"]:
        return None
    if interface == "mxnet":
        return EarlyStopping(
            patience=v["early_stopping_patience"],
            min_epochs=v["early_stopping_min_epochs"],
            relative_tolerance=v["early_stopping_tolerance"],
        )
    return EarlyStopping(
        patience=v["early_stopping_patience"], absolute_tolerance=v["early_stopping_min_delta"]
    )
