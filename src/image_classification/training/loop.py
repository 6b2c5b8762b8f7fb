"""Epochs and steps: batch, step, log, evaluate, keep the best, checkpoint, stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from image_classification.backends.base import Engine, State, Update, World
from image_classification.samples import Batch
from image_classification.training.checkpoint import (
    Checkpoint,
    Checkpoints,
    EpochRecord,
    History,
    PartialEpoch,
    continued_epoch,
    division_of,
    newest_checkpoint,
)
from image_classification.training.evaluation import Outcomes
from image_classification.training.group import ProcessGroup
from image_classification.training.progress import (
    EpochProgress,
    LastWeights,
    RunningMetrics,
    evaluated_weights,
    last_weights,
)
from image_classification.training.step import StepInputs
from image_classification.training.stopping import JobClock, never
from image_classification.training.validation import Validation, check_finite

if TYPE_CHECKING:
    from image_classification.loading.loader import Loader
    from image_classification.training.journal import Journal
    from image_classification.training.settings import Settings


@dataclass
class Loop:
    """The training of one engine.

    Attributes:
        engine: the model and its optimizer.
        settings: of the job.
        classes: width of the head.
        training, validation: loaders.
        journal: what is logged.
        checkpoints: where the job can be resumed from.
        world: this process among those that train together; alone by default.
        should_stop: asked after each step; training then ends with the best epoch so far.
        is_out_of_time: after a stop, whether a pass that is needed must end with what it has.
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
    should_stop: Callable[[], bool] = never
    is_out_of_time: Callable[[], bool] = never
    history: History = field(default_factory=History)
    best_weights: State = field(default_factory=dict)
    last_weights: LastWeights | None = None
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
        found = newest_checkpoint(
            self.checkpoints, self.history.metric, self.settings.epochs, self.group
        )
        if found is None:
            return False
        self.engine.load_state(found.state)
        self.history = found.history
        self._partial = continued_epoch(found, self._division)
        self._clock = JobClock(found.seconds)
        best = self.history.best_epoch
        if best >= 0:
            is_newest = found.partial is None and best == self.history.epochs[-1].epoch
            state = found.state if is_newest else self.checkpoints.load(best)
            self.best_weights = evaluated_weights(state)
        return True

    def run(self) -> None:
        """Train to the last epoch or to a stop; the engine ends with the best weights."""
        rule, progress = self.settings.early_stopping, None
        for epoch in range(len(self.history.epochs), self.settings.epochs):
            if rule and rule.is_due(self.history.accuracies):
                self.journal.stop_line(rule.reason(self.history.accuracies, self.history.metric))
                break
            progress = self._begin(epoch)
            if not self._run_epoch(progress):
                break
        if self.settings.keep_last_weights:
            self.last_weights = last_weights(self.engine.state(), self.history, progress)
        if self.best_weights:
            self.engine.load_state(self.best_weights)

    def evaluate(self) -> Outcomes:
        """The validation with the best weights; measured again only if need be."""
        epoch = len(self.history.epochs)
        found = self._best_outcomes or self.outcomes_of(self.validation)
        return found or self._validation.outcomes_in_time(epoch)

    def outcomes_of(self, loader: Loader) -> Outcomes | None:
        """Every sample of a loader once, None if stopped; UserError if numbers are not finite."""
        epoch = len(self.history.epochs)
        return self._validation.outcomes_of(loader, epoch, self.should_stop)

    def _run_epoch(self, progress: EpochProgress) -> bool:
        """Train and validate one epoch; whether the job goes on."""
        self.journal.begin_epoch(progress.epoch, progress.step)
        is_whole = self._train(progress)
        if not is_whole:
            self._save(progress)
            if self.history.best_epoch >= 0:
                return False  # not to be compared with whole epochs; without any it is all there is
        totals = progress.metrics.totals(self.group)
        check_finite(totals["loss"], progress.epoch)
        record = progress.record(totals, self.training.wait_seconds)
        self.journal.begin_validation()
        is_needed = self.history.best_epoch < 0  # without an epoch it is all that there will be
        must_stop = self.should_stop if is_needed else self._must_stop
        found = self._validation.measure(progress.epoch, self.group, must_stop, is_needed=is_needed)
        if is_whole and not found.is_whole:
            self._save(progress)  # the next start has all of the epoch but its validation
        if not found.metrics:
            return False
        cut_after = 0 if is_whole else progress.step
        record = replace(record, validation=found.metrics, cut_after=cut_after)
        self.history.epochs.append(record)
        epochs_left = self.settings.epochs - record.epoch - 1
        self.journal.epoch_lines(record, epochs_left * progress.seconds)
        return self._keep(record, found.outcomes, is_whole and found.is_whole)

    def _begin(self, epoch: int) -> EpochProgress:
        partial, self._partial = self._partial, None
        metrics = RunningMetrics(*self._validation.asked)
        if partial is None:
            return EpochProgress(epoch, metrics)
        return EpochProgress.resumed(epoch, metrics, partial, self.group)

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
            steps, minutes = self.settings.checkpoint_steps, self.settings.checkpoint_minutes
            due = self.group.is_leader and self._clock.is_save_due(steps, minutes)
            signals = self.group.sum({"stop": self._must_stop(), "save": due})
            if signals["stop"]:
                return False
            if signals["save"]:
                self._save(progress)
        return True

    def _train_step(self, progress: EpochProgress, batch: Batch, update: Update) -> None:
        inputs = self._inputs
        if not len(batch):  # all its samples were bad, or this rank has one step less
            if self.world.size == 1 and self.settings.recipe.accumulate_batches == 1:
                return
            batch = inputs.padding()  # the other ranks, or batches of the update, wait for this one
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

    @property
    def _division(self) -> str:
        return division_of(self.world.size, self.training.world_size)

    @cached_property
    def _validation(self) -> Validation:
        return Validation(self.engine, self.settings, self.validation, self.is_out_of_time)

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
        check_finite(totals["loss"], progress.epoch)
        self._clock.saved()
        if self.group.is_leader:
            partial = progress.partial(totals, self.training.wait_seconds, self._division)
            state, seconds = self.engine.state(), self._clock.seconds
            self.checkpoints.save(Checkpoint(state, self.history, partial, seconds))

    def _keep(self, record: EpochRecord, outcomes: Outcomes | None, is_whole: bool) -> bool:
        """Remember the best weights, write the checkpoint that is due; whether the job goes on."""
        state, done = self.engine.state(), record.epoch + 1
        is_best = self.history.best_epoch == record.epoch
        if is_best:
            self.best_weights, self._best_outcomes = evaluated_weights(state), outcomes
            self.journal.best_line(self.history.accuracies[-1])
        goes_on = is_whole and not self.group.any(self._must_stop())
        is_due = done % self.settings.checkpoint_frequency == 0 or done == self.settings.epochs
        if is_whole and (is_best or is_due or not goes_on):
            self._clock.saved()
            if self.group.is_leader:
                self.checkpoints.save(Checkpoint(state, self.history, None, self._clock.seconds))
        return goes_on
