"""Epochs and steps: batch, step, log, validate, keep the best weights, checkpoint, stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from image_classification.backends import base
from image_classification.contract.failure import warned
from image_classification.loading.loader import Loader
from image_classification.samples import Batch
from image_classification.training import checkpoint
from image_classification.training.checkpoint import Checkpoint, EpochRecord, History
from image_classification.training.evaluation import Outcomes, constant_share
from image_classification.training.group import ProcessGroup
from image_classification.training.journal import BATCHES_PER_LINE, DUE_SECONDS, Journal
from image_classification.training.progress import EpochProgress, JobClock, RunningMetrics
from image_classification.training.settings import Settings
from image_classification.training.step import Step, StepInputs
from image_classification.training.validation import Validation, check_finite

EpochObserver = Callable[[History], None]
"""Called after each epoch with the history so far."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LastWeights:
    """The weights after the last training step.

    Attributes:
        weights: `weight/<neutral name>` → array.
        epoch: 0 for the first.
        cut_after: number of steps in that epoch if a stop cut it short; 0 for a whole epoch.
    """

    weights: base.State
    epoch: int
    cut_after: int = 0


@dataclass
class Loop:
    """Trains one engine.

    Attributes:
        engine: the model and its optimizer.
        settings: of the job.
        classes: width of the head.
        training, validation: loaders.
        journal: writes the log lines.
        checkpoints: where the job resumes from.
        world: this process among those that train together; alone by default.
        first_epoch: the epochs before are those of another stage, see `stages`.
        should_stop: called after each step; True ends training with the best epoch so far.
        is_out_of_time: called during a validation that is needed after a stop; True ends it with
            the images seen so far.
        history: the epochs so far; not empty after a resume.
        best_weights: of the best epoch so far.
        last_weights: set by `run` if the settings ask for them.
    """

    engine: base.Engine
    settings: Settings
    classes: int
    training: Loader
    validation: Loader
    journal: Journal
    checkpoints: checkpoint.Checkpoints
    world: base.World = field(default_factory=base.World)
    first_epoch: int = 0
    should_stop: Callable[[], bool] = bool  # bool() is False: nothing stops the job
    is_out_of_time: Callable[[], bool] = bool
    history: History = field(init=False)
    best_weights: base.State = field(default_factory=dict)
    last_weights: LastWeights | None = None
    _partial: checkpoint.PartialEpoch | None = None
    _clock: JobClock = field(default_factory=JobClock)
    _is_over: bool = False
    _is_advised: bool = False
    _best_outcomes: Outcomes | None = None

    def __post_init__(self) -> None:
        self.history = History(metric=self.settings.binary_metric or "accuracy")

    def resume(self) -> bool:
        """Continue from the newest checkpoint; return whether there was one.

        Raises:
            UserError: it belongs to another job, has more epochs than this job, or differs
                between hosts.
        """
        found = checkpoint.newest_checkpoint(
            self.checkpoints, self.history.metric, self.settings.epochs, self._group
        )
        if found is None:
            return False
        self.history = found.history
        self._drop_earlier_stage()
        self._partial = checkpoint.continued_epoch(found, self._division)
        self._clock = JobClock(found.seconds)
        best = self.history.best_epoch
        if best >= 0:
            is_newest = found.partial is None and best == self.history.epochs[-1].epoch
            state = found.state if is_newest else self.checkpoints.load(best)
            self.best_weights = evaluated_weights(state)
        is_stage_new = found.partial is None and len(self.history.epochs) == self.first_epoch > 0
        self.engine.load_state(self.best_weights if is_stage_new else found.state)
        return True

    def follow(self, earlier: Loop) -> None:
        """Begin with the best weights, the epochs and the time of the stage before."""
        self.history, self.best_weights = earlier.history, earlier.best_weights
        self._clock, self._best_outcomes = earlier._clock, earlier._best_outcomes
        self.engine.load_state(self.best_weights)

    def run(self, observers: Sequence[EpochObserver] = ()) -> None:
        """Train to the last epoch or to a stop; the engine ends with the best weights.

        A stop before the first step leaves an empty history: there is no model then.
        """
        rule, progress = self.settings.early_stopping, None
        for epoch in range(len(self.history.epochs), self.settings.epochs):
            accuracies = self.history.accuracies[self.first_epoch :]
            if rule and rule.is_due(accuracies):
                reason = rule.reason(accuracies, self.history.metric, self.first_epoch)
                self.journal.stop_line(reason)
                break
            progress = self._begin(epoch)
            if not self._run_epoch(progress, observers):
                break
        if self.settings.keep_last_weights and self.history.epochs:
            self.last_weights = self._last_weights(progress)
        if self.best_weights:
            self.engine.load_state(self.best_weights)

    def evaluate(self) -> Outcomes:
        """Return the outcomes of the best weights on validation, measuring only if necessary."""
        epoch = len(self.history.epochs)
        found = self._best_outcomes or self.outcomes_of(self.validation)
        return found or self._validation.outcomes_in_time(epoch)

    def outcomes_of(self, loader: Loader) -> Outcomes | None:
        """Return the outcomes of all samples of a loader, or None after a stop.

        Raises:
            UserError: the network's outputs are not finite.
        """
        epoch = len(self.history.epochs)
        return self._validation.outcomes_of(loader, epoch, self.should_stop)

    def _begin(self, epoch: int) -> EpochProgress:
        partial, self._partial = self._partial, None
        metrics = RunningMetrics(self.settings.top_k, self.settings.binary_mode)
        if partial is None:
            return EpochProgress(epoch, metrics)
        return EpochProgress.resumed(epoch, metrics, partial, self._group)

    def _run_epoch(self, progress: EpochProgress, observers: Sequence[EpochObserver]) -> bool:
        """Train and validate one epoch; return whether the job continues."""
        self.journal.begin_epoch(progress)
        is_whole = self._train(progress)
        if not is_whole:
            if progress.step:
                self._save(progress)
            if self.history.best_epoch >= 0 or not progress.step:
                return False  # a partial epoch does not compare with whole ones, if it has any step
        totals = progress.metrics.totals(self._group)
        check_finite(totals["loss"], progress.epoch)
        record = progress.record(totals, self.training.wait_seconds)
        self.journal.begin_validation()
        is_needed = self.history.best_epoch < 0  # without it the job would have no epoch at all
        must_stop = self.should_stop if is_needed else self._must_stop
        found = self._validation.measure(
            progress.epoch, self._group, must_stop, is_needed=is_needed
        )
        if is_whole and not found.is_whole:
            self._save(progress)  # the next start has all of the epoch but its validation
        if not found.metrics:
            return False
        cut_after = 0 if is_whole else progress.step
        record = replace(record, validation=found.metrics, cut_after=cut_after)
        self.history.add(record)
        self._drop_earlier_stage()
        epochs_left = self.journal.epochs_left(record.epoch)
        self.journal.epoch_lines(record, epochs_left * progress.seconds)
        if found.outcomes is not None:
            self._advise(found.outcomes)
        for observe in observers:
            with warned("training goes on without it"):
                observe(self.history)
        return self._keep(record, found.outcomes, is_whole and found.is_whole)

    def _drop_earlier_stage(self) -> None:
        """Once this stage has an epoch, those of the stage before are no longer the best.

        They remain so if the job compares the stages.
        """
        if self.settings.fit_head_first == "on" and len(self.history.epochs) > self.first_epoch:
            for epoch in range(self.first_epoch):
                self.history.lose(epoch)

    def _advise(self, outcomes: Outcomes) -> None:
        """Log once, after the first such epoch, that the model gives all images one class."""
        share = constant_share(outcomes)
        if share is None or self._is_advised:
            return
        self._is_advised = True
        _logger.warning(
            "The model predicts one class for all validation images, and is right for %.1f%% of "
            "them: it has learned nothing yet; if that does not change, set %smore epochs or "
            "another learning_rate, and look at the images with image-classification check",
            100 * share,
            "" if self.settings.use_pretrained else "preset=transfer, ",
        )

    def _train(self, progress: EpochProgress) -> bool:
        """Train the rest of an epoch; return False if a stop ended it early."""
        steps, is_drawn = self._inputs.plan(progress.epoch), self.journal.is_drawn
        batches = self.training.epoch(progress.epoch, progress.step, must_stop=self._must_stop)
        for batch in batches:
            step = steps[progress.step]
            self._train_step(progress, step, batch)
            progress.end_step()
            self._clock.count_step()
            if self._is_line_due(progress):
                self._log_step(progress)
            elif is_drawn and self.journal.is_drawing_due:
                rate = progress.images / max(progress.seconds, 1e-9)
                where = (progress.epoch, progress.step, rate)
                self.journal.draw_step(*where, progress.metrics.values)
            if not step.update.is_last:
                continue  # a checkpoint has no gradients of an unfinished update
            stop, save = self._signals()
            if stop:
                return False
            if save:
                self._save(progress)
        return progress.step == len(steps)  # features are computed before an epoch's first step

    def _train_step(self, progress: EpochProgress, step: Step, batch: Batch) -> None:
        if not batch.keys:  # all its samples were bad, or this rank has one step less
            if self.world.size == 1 and self.settings.recipe.accumulate_batches == 1:
                return
            batch = self._inputs.padding()  # other ranks, or batches of the update, wait for it
        class_indices = batch.targets.astype(np.int64)  # a copy: the loader reuses the batch
        prepared = self._inputs.prepared(step, batch, class_indices)
        before = time.perf_counter()
        result = self.engine.train_step(prepared, step.learning_rate, step.update)
        seconds = time.perf_counter() - before + self.training.feature_seconds
        images = np.count_nonzero(batch.weights)
        progress.add_result(result, class_indices, images, step.learning_rate, seconds)

    def _is_line_due(self, progress: EpochProgress) -> bool:
        if self.world.rank:
            return False  # the leader logs
        is_silent = time.monotonic() - self.journal.last_line > DUE_SECONDS
        return progress.step % BATCHES_PER_LINE == 0 or is_silent

    def _log_step(self, progress: EpochProgress) -> None:
        values = progress.metrics.values()
        wait_share = progress.wait_share(self.training.wait_seconds)
        rate = progress.images / max(progress.seconds, 1e-9)
        self.journal.step_line(progress.epoch, progress.step, rate, wait_share, values)

    def _signals(self) -> tuple[bool, bool]:
        """Return whether to stop, and whether to save a checkpoint; the same on every rank."""
        steps, minutes = self.settings.checkpoint_steps, self.settings.checkpoint_minutes
        stop, save = self._must_stop(), self._clock.is_save_due(steps, minutes)
        if self.world.size == 1:
            return stop, save
        signals = self._group.sum({"stop": stop, "save": save and self._group.is_leader})
        return signals["stop"] > 0, signals["save"] > 0

    def _must_stop(self) -> bool:
        if self.should_stop() or self._is_over:
            return True
        limit = self.settings.max_minutes
        if limit is not None and self._clock.seconds >= 60 * limit:
            self._is_over = True
            _logger.warning(
                "max_minutes=%g has passed: stopping after this step; the best epoch so far is "
                "kept",
                limit,
            )
        return self._is_over

    def _save(self, progress: EpochProgress) -> None:
        """Write a checkpoint within an epoch: the leader, with the metrics of all ranks."""
        totals = progress.metrics.totals(self._group)
        check_finite(totals["loss"], progress.epoch)
        self._clock.restart_save_interval()
        if self._group.is_leader:
            partial = progress.partial(totals, self.training.wait_seconds, self._division)
            state, seconds = self.engine.state(), self._clock.seconds
            self.checkpoints.save(Checkpoint(state, self.history, partial, seconds))

    def _keep(self, record: EpochRecord, outcomes: Outcomes | None, is_whole: bool) -> bool:
        """Keep the best weights, write a due checkpoint; return whether the job continues."""
        state, done = self.engine.state(), record.epoch + 1
        is_best = self.history.best_epoch == record.epoch
        if is_best:
            self.best_weights, self._best_outcomes = evaluated_weights(state), outcomes
            self.journal.best_line(self.history.accuracies[-1])
        goes_on = is_whole and not self._group.any(self._must_stop())
        is_due = done % self.settings.checkpoint_frequency == 0 or done == self.settings.epochs
        if is_whole and (is_best or is_due or not goes_on):
            self._clock.restart_save_interval()
            if self._group.is_leader:
                self.checkpoints.save(Checkpoint(state, self.history, None, self._clock.seconds))
        return goes_on

    def _last_weights(self, progress: EpochProgress | None) -> LastWeights:
        """Return the engine's weights; `progress` is the epoch begun last in this process."""
        weights = evaluated_weights(self.engine.state())
        done = len(self.history.epochs)
        if progress is not None and progress.step and progress.epoch == done:
            return LastWeights(weights, progress.epoch, progress.step)  # cut short by a stop
        record = self.history.epochs[-1]
        return LastWeights(weights, record.epoch, record.cut_after)

    @property
    def is_stopped(self) -> bool:
        """Whether the job must end, because of a stop or of `max_minutes`."""
        return self._must_stop()

    @property
    def _division(self) -> str:
        return checkpoint.division_of(self.world.size, self.training.world_size)

    @cached_property
    def _group(self) -> ProcessGroup:
        return ProcessGroup(self.engine, self.world)

    @cached_property
    def _validation(self) -> Validation:
        return Validation(self.engine, self.settings, self.validation, self.is_out_of_time)

    @cached_property
    def _inputs(self) -> StepInputs:
        return StepInputs(self.settings, self.classes, self.training, self.world, self.first_epoch)


def evaluated_weights(state: base.State) -> base.State:
    """Return the weights to evaluate and serve: the averaged ones if the state has them."""
    weight, average = base.WEIGHT_PREFIX, base.AVERAGE_PREFIX
    averages = {k: v for k, v in state.items() if k.startswith(average)}
    if averages:
        return {weight + k.removeprefix(average): v for k, v in averages.items()}
    return {name: value for name, value in state.items() if name.startswith(weight)}
