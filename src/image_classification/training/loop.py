"""Epochs and steps: batch, step, log, evaluate, keep the best, checkpoint, stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from image_classification.backends.base import (
    AVERAGE_PREFIX,
    WEIGHT_PREFIX,
    Engine,
    State,
    Update,
    World,
)
from image_classification.data.samples import Batch
from image_classification.errors import UserError
from image_classification.training.checkpoint import (
    Checkpoint,
    Checkpoints,
    EpochRecord,
    History,
    PartialEpoch,
)
from image_classification.training.epoch_progress import EpochProgress
from image_classification.training.evaluation import (
    Outcomes,
    collect,
    metric_names,
    metrics_of,
    softmax,
)
from image_classification.training.multi_label import sigmoid
from image_classification.training.process_group import ProcessGroup
from image_classification.training.running_metrics import RunningMetrics, means
from image_classification.training.step_inputs import StepInputs
from image_classification.training.stopping import JobClock

if TYPE_CHECKING:
    from image_classification.data.loader import Loader
    from image_classification.training.journal import Journal
    from image_classification.training.settings import Settings


_logger = logging.getLogger(__name__)


def _never() -> bool:
    return False


class _StoppedError(Exception):
    """The job was asked to stop in the middle of a validation pass."""


@dataclass
class Loop:
    """The training of one engine.

    Attributes:
        engine: the model and its optimiser.
        settings: of the job.
        classes: width of the head.
        training, validation: loaders.
        journal: what is logged.
        checkpoints: where the job can be resumed from.
        world: this process among those that train together; alone by default.
        should_stop: asked after each step; training then ends with the best epoch so far.
        history: the epochs so far; not empty after a resume.
        best_weights: weights of the best epoch so far.
        last_weights: weights of the last step, kept by `run` where the settings ask for them.
    """

    engine: Engine
    settings: Settings
    classes: int
    training: Loader
    validation: Loader
    journal: Journal
    checkpoints: Checkpoints
    world: World = field(default_factory=World)
    should_stop: Callable[[], bool] = _never
    history: History = field(default_factory=History)
    best_weights: State = field(default_factory=dict)
    last_weights: State = field(default_factory=dict)
    _partial: PartialEpoch | None = None
    _clock: JobClock = field(default_factory=JobClock)
    _best_outcomes: Outcomes | None = None

    def __post_init__(self) -> None:
        """What the best epoch is best in."""
        self.history.metric = self.settings.binary_metric or "accuracy"

    @property
    def group(self) -> ProcessGroup:
        """The processes that train together."""
        return ProcessGroup(self.engine, self.world)

    def resume(self) -> bool:
        """Continue from the newest checkpoint, if there is one; says whether there was.

        Raises:
            UserError: it is another job's, has more epochs than this job asks for, or is not the
                same on all hosts.
        """
        found = self.checkpoints.load_latest(self.history.metric)
        done = len(found.history.epochs) if found else 0
        step = found.partial.step if found and found.partial else 0
        leaders = self.group.from_leader({"epochs": done, "steps": step})
        if self.group.any((done, step) != (leaders["epochs"], leaders["steps"])):
            raise UserError(
                f"this host has a checkpoint of {done} epochs and {step} steps, the first host one "
                f"of {leaders['epochs']:.0f} and {leaders['steps']:.0f}: give all hosts the same "
                "checkpoints, or none"
            )
        if found is None:
            return False
        if done > self.settings.epochs:
            raise UserError(
                f"the checkpoints are of {done} epochs, the job has epochs={self.settings.epochs}: "
                "set more epochs, or give it an empty checkpoint location"
            )
        self._take(found)
        self._log_resumed(done, step)
        return True

    def run(self) -> None:
        """Train to the last epoch or to a stop; the engine ends with the best weights."""
        rule = self.settings.early_stopping
        for epoch in range(len(self.history.epochs), self.settings.epochs):
            if rule and rule.is_due(self.history.accuracies):
                break
            if not self._run_epoch(epoch):
                break
        if self.settings.keep_last_weights:
            self.last_weights = _weights(self.engine.state())
        if self.best_weights:
            self.engine.load_state(self.best_weights)

    def evaluate(self) -> Outcomes:
        """Every validation sample once, with the best weights; measured again only if need be."""
        return self._best_outcomes or self.outcomes_of(self.validation)

    def outcomes_of(self, loader: Loader) -> Outcomes:
        """Every sample of a loader once, through the engine.

        Raises:
            UserError: the network's numbers are no longer finite.
        """
        return self._outcomes(loader.epoch(0))

    def _outcomes(self, batches: Iterator[Batch]) -> Outcomes:
        predict = self.engine.predict_step
        activation = sigmoid if self.settings.multi_label else softmax
        outcomes = collect(batches, lambda images: activation(predict(images)))
        if not np.isfinite(outcomes.probabilities).all():
            raise _diverged(len(self.history.epochs))
        return outcomes

    def _take(self, found: Checkpoint) -> None:
        self.engine.load_state(found.state)
        self.history, self._partial = found.history, found.partial
        self._clock = JobClock(found.seconds)
        best = self.history.best_epoch
        if best < 0:
            return
        is_newest = found.partial is None and best == self.history.epochs[-1].epoch
        self.best_weights = _weights(found.state if is_newest else self.checkpoints.load(best))

    def _log_resumed(self, epochs: int, step: int) -> None:
        if step:
            _logger.info("Resumed in epoch %d after step %d", epochs + 1, step)
        else:
            _logger.info("Resumed after epoch %d", epochs)

    def _run_epoch(self, epoch: int) -> bool:
        """Train and validate one epoch; whether the job goes on."""
        progress = self._begin(epoch)
        self.journal.begin_epoch(epoch, progress.step)
        is_whole = self._train(progress)
        if not is_whole:
            self._save(progress)
            if self.history.best_epoch >= 0:
                return False  # not to be compared with whole epochs; without any it is all there is
        totals = progress.metrics.totals(self.group)
        _check_finite(totals, epoch)
        seconds, outside_share = progress.seconds, progress.outside_share
        wait_share = progress.wait_share(self.training.wait_seconds)
        outcomes, validation = self._validate()
        if not validation:
            self._save(progress)
            return False
        record = EpochRecord(
            epoch=epoch,
            train=means(totals),
            validation=validation,
            seconds=seconds,
            images_per_second=totals["samples"] / seconds,
            wait_share=wait_share,
            learning_rate=progress.learning_rate,
            outside_share=outside_share,
        )
        self.history.epochs.append(record)
        epochs_left = self.settings.epochs - epoch - 1
        self.journal.epoch_lines(record, epochs_left * progress.seconds)
        return self._keep(record, outcomes, is_whole)

    def _begin(self, epoch: int) -> EpochProgress:
        partial, self._partial = self._partial, None
        metrics = RunningMetrics(*self._asked)
        if partial is None:
            return EpochProgress(epoch, metrics)
        return EpochProgress.resumed(epoch, metrics, partial, self.group)

    @property
    def _asked(self) -> tuple[int | None, str | None]:
        """The metrics beside loss and accuracy: k of the top-k accuracy, and a binary one."""
        return self.settings.top_k, self.settings.binary_metric

    def _validate(self) -> tuple[Outcomes | None, dict[str, float]]:
        """Validation metrics, measured by the leader: the ranks must not differ in what is best.

        Nothing if the job is asked to stop meanwhile and has an epoch to keep.
        """
        values, outcomes = dict.fromkeys(metric_names(*self._asked), 0.0), None
        if self.group.is_leader:
            try:
                outcomes = self._outcomes(self._until_stop(self.validation.epoch(0)))
                values = metrics_of(outcomes, *self._asked)
            except _StoppedError:
                values["stopped"] = 1.0
        values = self.group.from_leader({"stopped": 0.0} | values)
        return outcomes, {} if values.pop("stopped") else values

    def _until_stop(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            if self.history.best_epoch >= 0 and self._must_stop():
                raise _StoppedError
            yield batch

    def _train(self, progress: EpochProgress) -> bool:
        """Train the rest of an epoch; False if the job was asked to stop on the way."""
        for batch in self.training.epoch(progress.epoch, progress.step):
            update = self._inputs.update(progress.epoch, progress.step)
            self._train_step(progress, batch, update)
            progress.step += 1
            self._clock.steps_since_save += 1
            if self.journal.is_line_due(progress.step):
                self._log_step(progress)
            if not update.is_last:
                continue  # gradients in the making are not part of a checkpoint
            due = self.group.is_leader and self._clock.is_save_due(self.settings)
            signals = self.group.sum({"stop": self._must_stop(), "save": due})
            if signals["stop"]:
                return False
            if signals["save"]:
                self._save(progress)
        return True

    def _train_step(self, progress: EpochProgress, batch: Batch, update: Update) -> None:
        inputs = self._inputs
        if not len(batch):  # all its samples were bad, or this rank has one step less
            if self.world.size == 1:
                return
            batch = inputs.padding()  # the other ranks wait for this one in every step
        progress.learning_rate = inputs.learning_rate(progress.epoch, progress.step)
        class_indices = batch.targets.astype(np.int64)  # a copy: the loader reuses the batch
        prepared = inputs.prepared(progress.epoch, progress.step, batch, class_indices)
        before = time.perf_counter()
        result = self.engine.train_step(prepared, progress.learning_rate, update)
        progress.step_seconds += time.perf_counter() - before
        kept = int(np.count_nonzero(batch.weights))
        if kept:
            progress.metrics.add(result, class_indices)
        progress.images += kept

    @cached_property
    def _inputs(self) -> StepInputs:
        return StepInputs(self.settings, self.classes, self.training, self.world)

    def _log_step(self, progress: EpochProgress) -> None:
        values = progress.metrics.values()
        wait_share = progress.wait_share(self.training.wait_seconds)
        rate = progress.images / max(progress.seconds, 1e-9)
        self.journal.step_line(progress.epoch, progress.step, rate, wait_share, values)

    def _must_stop(self) -> bool:
        return self.should_stop() or self._clock.is_over(self.settings.max_minutes)

    def _save(self, progress: EpochProgress) -> None:
        """Write a checkpoint within an epoch; the leader does, with the metrics of all ranks."""
        totals = progress.metrics.totals(self.group)
        _check_finite(totals, progress.epoch)
        self._clock.saved()
        if self.group.is_leader:
            partial = progress.partial(totals, self.training.wait_seconds)
            state, seconds = self.engine.state(), self._clock.seconds
            self.checkpoints.save(Checkpoint(state, self.history, partial, seconds))

    def _keep(self, record: EpochRecord, outcomes: Outcomes | None, is_whole: bool) -> bool:
        """Remember the best weights, write the checkpoint that is due; whether the job goes on."""
        state, done = self.engine.state(), record.epoch + 1
        is_best = self.history.best_epoch == record.epoch
        if is_best:
            self.best_weights, self._best_outcomes = _weights(state), outcomes
            self.journal.best_line(self.history.accuracies[-1])
        goes_on = is_whole and not self.group.any(self._must_stop())
        is_due = done % self.settings.checkpoint_frequency == 0 or done == self.settings.epochs
        if is_whole and (is_best or is_due or not goes_on):
            self._clock.saved()
            if self.group.is_leader:
                self.checkpoints.save(Checkpoint(state, self.history, None, self._clock.seconds))
        return goes_on


def _check_finite(totals: dict[str, float], epoch: int) -> None:
    if not np.isfinite(totals["loss"]):
        raise _diverged(epoch)


def _diverged(epoch: int) -> UserError:
    return UserError(
        f"training diverged in epoch {epoch + 1}: the loss is no longer a finite number; lower "
        "learning_rate, or set warmup_epochs or clip_gradient_norm"
    )


def _weights(state: State) -> State:
    """Those that are evaluated and served: the averaged ones where there are any."""
    averages = {k: v for k, v in state.items() if k.startswith(AVERAGE_PREFIX)}
    if averages:
        return {WEIGHT_PREFIX + k.removeprefix(AVERAGE_PREFIX): v for k, v in averages.items()}
    return {name: value for name, value in state.items() if name.startswith(WEIGHT_PREFIX)}
