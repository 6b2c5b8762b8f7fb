"""The stages of a job: the head alone on a frozen backbone, then all layers from the fitted head.

A new head on pretrained layers has large gradients at first, which spoil the layers below it. Both
stages are one history: the epochs of the second follow those of the first. A search for settings
trains them without a history (`fit_stages`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from image_classification import events
from image_classification.backends.base import WEIGHT_PREFIX, Engine, OptimizerSpec, State, World
from image_classification.contract import process
from image_classification.contract.presets import PRESETS
from image_classification.loading.loader import Loader
from image_classification.logs import Progress
from image_classification.samples import FloatArray, IntArray
from image_classification.training.checkpoint import History
from image_classification.training.engine import start_engine
from image_classification.training.feature_cache import feature_cache
from image_classification.training.final_settings import with_min_updates
from image_classification.training.group import ProcessGroup
from image_classification.training.initial_weights import HEAD_PREFIX, ChannelWeights
from image_classification.training.inputs import Inputs
from image_classification.training.loaders import Loaders, open_loaders
from image_classification.training.settings import Recipe, Settings
from image_classification.training.settings.optimization import Schedule
from image_classification.training.step import StepInputs

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stages:
    """The stages of a job.

    Attributes:
        head: the settings of the first stage, or None if the job has one stage.
        whole: the settings of the last stage; its `epochs` count those of both stages, and its
            schedule begins with the stage.
    """

    head: Settings | None
    whole: Settings

    @property
    def first_epoch(self) -> int:
        """The number of epochs before the last stage."""
        return self.head.epochs if self.head else 0

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must share beyond the identity of a job with one stage."""
        if self.head is None:
            return {}
        return {"fit_head_first": self.whole.fit_head_first, "head_epochs": self.first_epoch}

    def at(self, epochs: int) -> Settings:
        """Return the settings of the stage that a job with so many whole epochs is in."""
        return self.head if self.head and epochs < self.first_epoch else self.whole

    def compared_line(self, history: History) -> str | None:
        """Return the log line of a comparison, which the best epoch has decided; or None."""
        if self.head is None or self.whole.fit_head_first != "compare":
            return None
        values = history.accuracies
        best_head = max(values[: self.first_epoch])
        if len(values) <= self.first_epoch:
            return (
                f"fit_head_first=compare: exporting the model with the frozen backbone, with "
                f"validation {history.metric} {best_head:.6f}: the job ended before an epoch of "
                "all layers"
            )
        best_whole = max(values[self.first_epoch :])
        is_head = history.best_epoch < self.first_epoch
        return (
            f"fit_head_first=compare: validation {history.metric} {best_head:.6f} with the frozen "
            f"backbone, {best_whole:.6f} after training all layers: exporting "
            f"{'the model with the frozen backbone' if is_head else 'the model of all layers'}"
        )


def stages_of(
    settings: Settings,
    samples: int,
    weights: ChannelWeights | None,
    world: World,
    *,
    is_begun_whole: bool = False,
) -> Stages:
    """Return the stages of a job, and log one line about them if it asks for the first.

    Args:
        settings: of the job.
        samples: number of training samples.
        weights: of the channel `model` or `weights`, or None.
        world: this process among those that train together.
        is_begun_whole: whether its checkpoints are of a job with one stage, as in 0.1.
    """
    if settings.fit_head_first == "off":
        return Stages(None, settings)
    reason = _reason_against(settings, weights, world)
    if is_begun_whole:
        reason = "the job continues from the checkpoint of a job without fit_head_first"
    if reason:
        _logger.info(
            "fit_head_first=%s: all layers train from the first epoch, because %s",
            *(settings.fit_head_first, reason),
        )
        return Stages(None, replace(settings, fit_head_first="off"))
    head = with_min_updates(_head_settings(settings), samples)
    whole = replace(settings, epochs=head.epochs + settings.epochs)
    _logger.info(
        "fit_head_first=%s: first the head alone for %d epochs, with the values of "
        "preset=transfer, then all layers for %d epochs (epochs %d to %d in the log)",
        *(settings.fit_head_first, head.epochs, settings.epochs, head.epochs + 1, whole.epochs),
        extra=events.Note().extra,
    )
    return Stages(head, whole)


def fit(
    engine: Engine,
    settings: Settings,
    classes: int,
    loader: Loader,
    should_stop: Callable[[], bool],
    first_epoch: int = 0,
) -> bool:
    """Train an engine as a job with these settings does; return False if it must stop first.

    There is no validation, so that the images on which the weights are judged choose nothing.

    Args:
        engine: with its first weights.
        settings: of the stage.
        classes: width of the head.
        loader: of the training samples, or of their features.
        should_stop: called after each batch.
        first_epoch: the epochs before are those of another stage.
    """
    steps = StepInputs(settings, classes, loader, World(), first_epoch)
    for epoch in range(first_epoch, settings.epochs):
        for step, batch in zip(steps.plan(epoch), loader.epoch(epoch), strict=True):
            if should_stop():
                return False
            some = batch if batch.keys else steps.padding()  # all samples were bad
            class_indices = some.targets.astype(np.int64)
            prepared = steps.prepared(step, some, class_indices)
            engine.train_step(prepared, step.learning_rate, step.update)
    return True


def fit_stages(
    settings: Settings, inputs: Inputs, should_stop: Callable[[], bool]
) -> tuple[IntArray, FloatArray] | None:
    """Train the stages of a job; return what its last weights predict of the validation samples.

    Args:
        settings, inputs: of the job; no validation sample takes part in its training.
        should_stop: called after each batch.

    Returns:
        The int64 (N,) indices of the validation samples that can be used, and their float32
        (N, classes) logits; None if the training must stop first.
    """
    world = World(threads=process.framework_threads())
    stages = stages_of(settings, len(inputs.training), None, world)
    weights: State = {}
    for stage in filter(None, (stages.head, stages.whole)):
        engine = start_engine(stage, inputs, None, None, world)[0]
        with ExitStack() as stack:
            stack.callback(engine.release)
            if weights:
                engine.load_state(weights)
            cache = feature_cache(stage, inputs, ProcessGroup(engine, world))
            loaders = stack.enter_context(
                open_loaders(
                    *(stage, inputs, world),
                    on_cpu=engine.device == "cpu",
                    cache=cache,
                    closes_sources=False,
                )
            )
            first = 0 if stage is stages.head else stages.first_epoch
            title = f"{stage.backbone.name}: {'all layers' if stage is stages.whole else 'head'}"
            steps = (stage.epochs - first) * loaders.training.steps
            progress = stack.enter_context(Progress(title, steps, "steps"))
            if not _fit_shown(engine, stage, inputs, loaders, should_stop, first, progress):
                return None
            if stage is stages.head:
                weights = {
                    name: value
                    for name, value in engine.state().items()
                    if name.startswith(WEIGHT_PREFIX)
                }
                continue
            found = [
                (batch.indices, engine.predict_step(batch.images))
                for batch in loaders.validation.epoch(0)
                if batch.keys
            ]
    return np.concatenate([one for one, _ in found]), np.concatenate([rows for _, rows in found])


def _fit_shown(
    engine: Engine,
    settings: Settings,
    inputs: Inputs,
    loaders: Loaders,
    should_stop: Callable[[], bool],
    first_epoch: int,
    progress: Progress,
) -> bool:
    def must_stop() -> bool:
        progress.advance()
        return should_stop()

    return fit(engine, settings, len(inputs.labels), loaders.training, must_stop, first_epoch)


def _reason_against(settings: Settings, weights: ChannelWeights | None, world: World) -> str | None:
    if not (settings.use_pretrained or weights or settings.backbone.is_given):
        return "they start from random weights, on which no head can be fitted"
    if weights and (weights.head_order or HEAD_PREFIX + "bias" in weights.state):
        is_compared = settings.fit_head_first == "compare"
        return None if is_compared else "the job starts from a model with a fitted head"
    if world.size > 1:
        return f"a job of {world.size} processes has one stage"
    return None


def _head_settings(settings: Settings) -> Settings:
    """Return the settings of the first stage: the job's data with the values of the preset."""
    values = PRESETS["transfer"].values
    epochs = int(values["epochs"])
    own = settings.recipe
    recipe = Recipe(
        class_weights=own.class_weights,
        balanced_sampling=own.balanced_sampling,
        logit_tau=own.logit_tau,
    )
    return replace(
        settings,
        train_only_head=True,
        epochs=epochs,
        min_updates=int(values["min_updates"]),
        optimizer=OptimizerSpec(
            values["optimizer"],
            momentum=float(values["momentum"]),
            weight_decay=float(values["weight_decay"]),
        ),
        schedule=Schedule(values["lr_schedule"], float(values["learning_rate"]), epochs),
        recipe=recipe,
        early_stopping=None,
        keep_last_weights=False,
    )
