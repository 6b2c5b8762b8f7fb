"""Settings of optimization: optimizer, learning rate, precision, checkpoints and early stopping.

In: the typed hyperparameters of either interface. Out: values with one meaning for every backend.
"""

import math
from dataclasses import dataclass

from image_classification.backends.base import OptimizerSpec
from image_classification.contract.hyperparameter import integer_list
from image_classification.contract.shared import SharedHyperparameters
from image_classification.errors import HyperparameterError
from image_classification.training.stopping import EarlyStopping


@dataclass(frozen=True)
class Schedule:
    """A learning-rate schedule.

    Attributes:
        kind: constant, step (multiplied by `factor` after each of `step_epochs`) or cosine (falls
            to 0 at the end of the last epoch).
        learning_rate: the rate after the warm-up.
        epochs: length of the job.
        warmup_epochs: the rate rises linearly from 0 over these; a fraction is allowed.
        step_epochs: increasing numbers of complete epochs after which `factor` acts.
        factor: multiplier at each step.
    """

    kind: str
    learning_rate: float
    epochs: int
    warmup_epochs: float = 0.0
    step_epochs: tuple[int, ...] = ()
    factor: float = 1.0

    def rate(self, epoch: float) -> float:
        """Return the learning rate, ≥ 0, after `epoch` epochs; a fraction is allowed."""
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


def optimizer_of(v: SharedHyperparameters) -> OptimizerSpec:
    """Return the optimizer; momentum and weight decay are 0 if the built-in does not use them."""
    rows = type(v)
    return OptimizerSpec(
        name="nag" if v.optimizer == "nesterov" else v.optimizer,
        momentum=v.momentum if rows.momentum.acts_with(v.optimizer) else 0.0,
        weight_decay=v.weight_decay if rows.weight_decay.acts_with(v.optimizer) else 0.0,
        beta_1=v.beta_1,
        beta_2=v.beta_2,
        epsilon=v.epsilon,
        decay=v.decay,
        initial_accumulator=v.initial_accumulator_value,
        head_l2=v.regularizers_l2,
        clip_gradient_norm=v.clip_gradient_norm,
    )


def schedule_of(v: SharedHyperparameters) -> Schedule:
    """Return the schedule; raise a HyperparameterError if its hyperparameters contradict."""
    steps = _epoch_list(v.lr_scheduler_step)
    kind = v.lr_schedule or ("step" if steps else "constant")
    if kind == "step" and not steps:
        raise HyperparameterError(
            "lr_schedule=step needs the epochs of its steps: set lr_scheduler_step, such as 10,20"
        )
    if kind != "step" and steps:
        raise HyperparameterError(
            f"lr_schedule={kind} and lr_scheduler_step={v.lr_scheduler_step!r} contradict each "
            "other: keep one"
        )
    return Schedule(
        kind=kind,
        learning_rate=v.learning_rate,
        epochs=v.epochs,
        warmup_epochs=v.warmup_epochs,
        step_epochs=steps,
        factor=v.lr_scheduler_factor,
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
            f"lr_scheduler_step={text!r}: expected increasing epochs separated by commas, such as "
            "10,20"
        )
    return epochs


def precision_of(v: SharedHyperparameters) -> str:
    """Return the precision from ours and the MXNet built-in's precision_dtype, if they agree."""
    precision, dtype = v.precision, v.precision_dtype
    if precision and dtype and precision not in {"auto", dtype}:
        raise HyperparameterError(
            f"precision={precision} and precision_dtype={dtype} contradict each other: keep one"
        )
    return precision if precision and precision != "auto" else dtype or "auto"


def checkpoint_frequency_of(v: SharedHyperparameters) -> int:
    """Return the epochs between checkpoints; raise a HyperparameterError if the job has fewer."""
    if v.checkpoint_frequency > v.epochs:
        raise HyperparameterError(
            f"checkpoint_frequency={v.checkpoint_frequency}: expected an integer from 1 to epochs, "
            f"which is {v.epochs}; lower it or leave it out"
        )
    return v.checkpoint_frequency


def early_stopping_of(v: SharedHyperparameters) -> EarlyStopping | None:
    """Return the rule of the interface's built-in, or None if it is off."""
    if not v.early_stopping:
        return None
    return EarlyStopping(
        patience=v.early_stopping_patience,
        min_epochs=v.early_stopping_min_epochs,
        relative_tolerance=v.early_stopping_tolerance,
        absolute_tolerance=v.early_stopping_min_delta,
    )
