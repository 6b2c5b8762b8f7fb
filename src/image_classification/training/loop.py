"""Epochs and steps: batch, step, log, evaluate, keep the best, checkpoint, stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from image_classification.backends.base import WEIGHT_PREFIX, Engine, State, StepResult, World
from image_classification.data.samples import Batch, FloatArray, IntArray, UInt8Array
from image_classification.errors import UserError
from image_classification.training.binary_metrics import BINARY_METRICS, POSITIVE_CLASS
from image_classification.training.checkpoint import Checkpoints, EpochRecord, History
from image_classification.training.evaluation import (
    Outcomes,
    collect,
    metric_names,
    metrics_of,
    softmax,
    top_k_accuracy,
)
from image_classification.training.process_group import ProcessGroup
from image_classification.training.targets import soft_targets

if TYPE_CHECKING:
    from image_classification.data.loader import Loader
    from image_classification.training.journal import Journal
    from image_classification.training.settings import Settings


def _never() -> bool:
    return False


@dataclass
class RunningMetrics:
    """Training metrics over the samples seen so far in an epoch.

    Results are kept as they come and fetched when a line is due: each fetch waits for the device.
    """

    top_k: int | None
    binary_metric: str | None = None
    samples: int = 0
    fetch_seconds: float = 0.0
    _sums: dict[str, float] = field(default_factory=dict)
    _pending: list[tuple[StepResult, IntArray]] = field(default_factory=list)
    _scores: list[FloatArray] = field(default_factory=list)
    _targets: list[IntArray] = field(default_factory=list)

    def add(self, result: StepResult, class_indices: IntArray) -> None:
        """One step's result and the int64 (N,) classes of its samples."""
        self._pending.append((result, class_indices))

    def values(self, group: ProcessGroup | None = None) -> dict[str, float]:
        """Loss, accuracy and top-k accuracy so far, of this rank or of all ranks of `group`.

        A synchronisation point with the device. `samples` is then theirs too.
        """
        self._fetch()
        totals = {name: self._sums.get(name, 0.0) for name in metric_names(self.top_k)}
        if self.binary_metric:  # of several ranks the mean of each one's
            totals[self.binary_metric] = self._binary_value() * self.samples
        if group is not None:
            totals = group.sum(totals | {"samples": self.samples})
            self.samples = round(totals.pop("samples"))
        return {name: total / max(self.samples, 1) for name, total in totals.items()}

    def _binary_value(self) -> float:
        if not self._scores:
            return 0.0
        measure = BINARY_METRICS[str(self.binary_metric)]
        return measure(np.concatenate(self._targets), np.concatenate(self._scores))

    def _fetch(self) -> None:
        for result, class_indices in self._pending:
            before = time.perf_counter()
            loss, logits = result.fetch()
            self.fetch_seconds += time.perf_counter() - before  # the device was still at the step
            count = len(class_indices)
            found = {"loss": loss, "accuracy": top_k_accuracy(class_indices, logits)}
            if self.top_k:
                name = f"top_k_accuracy_{self.top_k}"
                found[name] = top_k_accuracy(class_indices, logits, self.top_k)
            if self.binary_metric:
                self._scores.append(softmax(logits)[:, POSITIVE_CLASS])
                self._targets.append(class_indices)
            for name, value in found.items():
                self._sums[name] = self._sums.get(name, 0.0) + value * count
            self.samples += count
        self._pending.clear()


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
    _step_seconds: float = 0.0

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
        found = self.checkpoints.load_latest()
        state, self.history = found or ({}, History())
        self.history.metric = self.settings.binary_metric or "accuracy"
        done = len(self.history.epochs)
        leaders = self.group.from_leader({"epochs": done})["epochs"]
        if self.group.any(done != leaders):
            raise UserError(
                f"this host has a checkpoint of {done} epochs, the first host one of {leaders:.0f}:"
                " give all hosts the same checkpoints, or none"
            )
        if found is None:
            return False
        if done > self.settings.epochs:
            raise UserError(
                f"the checkpoints are of {done} epochs, the job has epochs={self.settings.epochs}: "
                "set more epochs, or give it an empty checkpoint location"
            )
        self.engine.load_state(state)
        last = self.history.epochs[-1].epoch
        best = self.history.best_epoch
        self.best_weights = _weights(state if best == last else self.checkpoints.load(best))
        return True

    def run(self) -> None:
        """Train to the last epoch or to early stopping; the engine ends with the best weights."""
        rule = self.settings.early_stopping
        for epoch in range(len(self.history.epochs), self.settings.epochs):
            if self.history.epochs and self.group.any(self.should_stop()):
                break
            if rule and rule.is_due(self.history.accuracies):
                break
            self._run_epoch(epoch)
        if self.settings.keep_last_weights:
            self.last_weights = _weights(self.engine.state())
        self.engine.load_state(self.best_weights)

    def evaluate(self) -> Outcomes:
        """Every validation sample once, through the engine."""
        return self.outcomes_of(self.validation)

    def outcomes_of(self, loader: Loader) -> Outcomes:
        """Every sample of a loader once, through the engine.

        Raises:
            UserError: the network's numbers are no longer finite.
        """
        predict = self.engine.predict_step
        outcomes = collect(loader.epoch(0), lambda images: softmax(predict(images)))
        if not np.isfinite(outcomes.probabilities).all():
            raise _diverged(len(self.history.epochs))
        return outcomes

    def _run_epoch(self, epoch: int) -> None:
        start = time.monotonic()
        metrics, rate, is_whole = self._train_epoch(epoch)
        if not is_whole and self.history.epochs:
            return  # not to be compared with whole epochs; without any it is all there is
        train = metrics.values(self.group)
        if not np.isfinite(train["loss"]):
            raise _diverged(epoch)
        seconds = time.monotonic() - start
        record = EpochRecord(
            epoch=epoch,
            train=train,
            validation=self._validate(),
            seconds=seconds,
            images_per_second=metrics.samples / seconds,
            wait_share=self.training.wait_seconds / seconds,
            learning_rate=rate,
            outside_share=max(0.0, 1 - (self._step_seconds + metrics.fetch_seconds) / seconds),
        )
        self.history.epochs.append(record)
        epochs_left = self.settings.epochs - epoch - 1
        self.journal.epoch_lines(record, epochs_left * (time.monotonic() - start))
        self._keep(epoch, is_whole)

    def _validate(self) -> dict[str, float]:
        """Validation metrics, measured by the leader: the ranks must not differ in what is best."""
        asked = (self.settings.top_k, self.settings.binary_metric)
        if self.group.is_leader:
            return self.group.from_leader(metrics_of(self.evaluate(), *asked))
        return self.group.from_leader(dict.fromkeys(metric_names(*asked), 0.0))

    def _train_epoch(self, epoch: int) -> tuple[RunningMetrics, float, bool]:
        """One pass over the training data: (metrics, last learning rate, whether it is whole)."""
        settings, steps = self.settings, self.training.steps
        metrics = RunningMetrics(settings.top_k, settings.binary_metric)
        start = time.monotonic()
        rate, images, self._step_seconds = 0.0, 0, 0.0
        for step, batch in enumerate(self.training.epoch(epoch)):
            if not len(batch):  # all its samples were bad, or this rank has one step less
                if self.world.size == 1:
                    continue
                batch = self._padding()  # the other ranks wait for this one in every step
            # The rate in the middle of the step: a warm-up then never wastes a step on rate 0.
            rate = settings.schedule.rate(epoch + (step + 0.5) / steps)
            class_indices = batch.targets.astype(np.int64)  # a copy: the loader reuses the batch
            targets = soft_targets(class_indices, self.classes, settings.label_smoothing)
            before = time.perf_counter()
            result = self.engine.train_step(replace(batch, targets=targets), rate)
            self._step_seconds += time.perf_counter() - before
            kept = int(np.count_nonzero(batch.weights))
            if kept:
                metrics.add(result, class_indices)
            images += kept
            if self.journal.is_line_due(step + 1):
                seconds = time.monotonic() - start
                wait_share = self.training.wait_seconds / seconds
                values = metrics.values()
                self.journal.step_line(epoch, step + 1, images / seconds, wait_share, values)
            if step + 1 < steps and self.group.any(self.should_stop()):
                return metrics, rate, False
        return metrics, rate, True

    def _padding(self) -> Batch:
        """Two samples of weight 0: they change neither the weights nor the statistics."""
        like = self.training.preprocessing
        images: UInt8Array = np.zeros((2, like.height, like.width, like.channels), np.uint8)
        return Batch(images, np.zeros(2, np.int64), np.zeros(2, np.float32), ("", ""))

    def _keep(self, epoch: int, is_whole: bool) -> None:
        """Remember the best weights; the leader writes the checkpoint that is due.

        A part of an epoch is no checkpoint: a job that resumed there would leave the rest out.
        """
        state = self.engine.state()
        is_best = self.history.best_epoch == epoch
        if is_best:
            self.best_weights = _weights(state)
            self.journal.best_line(self.history.accuracies[-1])
        if not self.group.is_leader:
            return
        is_due = (epoch + 1) % self.settings.checkpoint_frequency == 0
        if is_whole and (is_best or is_due or epoch + 1 == self.settings.epochs):
            self.checkpoints.save(state, self.history)


def _diverged(epoch: int) -> UserError:
    return UserError(
        f"training diverged in epoch {epoch + 1}: the loss is no longer a finite number; lower "
        "learning_rate, or set warmup_epochs or clip_gradient_norm"
    )


def _weights(state: State) -> State:
    return {name: value for name, value in state.items() if name.startswith(WEIGHT_PREFIX)}
