"""One training job, from the platform's files to the artifact.

Read `run_job` from top to bottom: each line is a module. Every mistake in a job's hyperparameters,
channels or data is found before a deep-learning framework is imported.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import replace
from typing import NoReturn

from image_classification import events
from image_classification.artifact import Artifact
from image_classification.backends.base import Engine, World
from image_classification.contract.failure import OUT_OF_SPACE, describe, warned
from image_classification.contract.paths import JobPaths, read_cluster
from image_classification.devices import device_of, log_decision
from image_classification.errors import UserError
from image_classification.labels.label_map import LabelMap, listed
from image_classification.training.checkpoint import Checkpoints
from image_classification.training.engine import start_engine
from image_classification.training.evaluation import confusions, metrics_of, per_class
from image_classification.training.feature_cache import feature_cache
from image_classification.training.final_settings import (
    final_settings,
    identity_of,
    log_advice,
    log_settings,
)
from image_classification.training.group import ProcessGroup, rank_of, world_of
from image_classification.training.initial_weights import ChannelWeights, channel_weights
from image_classification.training.inputs import Inputs, open_inputs
from image_classification.training.journal import Heartbeat, Journal, SilentJournal
from image_classification.training.lifeline import watched
from image_classification.training.loaders import Loaders, agreed, open_loaders
from image_classification.training.loop import EpochObserver, Loop
from image_classification.training.output import (
    write_artifact,
    write_label_lists,
    write_predictions,
)
from image_classification.training.report.history import history_writer, tensorboard_writer
from image_classification.training.request import JobRequest, read_request
from image_classification.training.results import Results, measure
from image_classification.training.settings import Settings
from image_classification.training.stages import Stages, stages_of
from image_classification.training.stopping import StopRequest
from image_classification.weights.folder import unpacking_once

PREDICTIONS_FILE = "validation-predictions.jsonl"
"""Written to output/data: the probabilities of each validation image."""

_MOST_CLASSES = 10  # in the table of a terminal
_logger = logging.getLogger(__name__)


def run_job(
    paths: JobPaths, overrides: Mapping[str, str] | None, stop: StopRequest
) -> Artifact | None:
    """Run the job of `paths` and write its artifact; `overrides` win over its hyperparameters.

    A stop ends training after the current step; the artifact then holds the best epoch so far. Of
    several hosts the first one writes and returns the artifact, the others return None.

    Raises:
        UserError: hyperparameters, channels or data must change; nothing was written.
    """
    failure_file = None if paths.artifact else paths.failure
    with (
        Heartbeat().running("opening the channels") as heartbeat,
        watched(read_cluster(paths), failure_file),
    ):
        with unpacking_once():
            request, inputs = _open(paths, overrides, stop)
            settings, model_channel = request.settings, request.channels.get("model")
            weights = channel_weights(settings, inputs.labels, model_channel, request.weights)

            heartbeat.now("building the network")
            world = world_of(request.cluster)
            stages, stage = _stages(request, inputs, weights, world)
            engine, started_from = start_engine(stage, inputs, weights, model_channel, world)
        stop.begin_training()
        with closing(inputs), ExitStack() as engines:
            engines.callback(engine.release)
            group = ProcessGroup(engine, world)
            inputs = agreed(inputs, settings, group, is_sharded=request.is_sharded)
            observers = _observers(request) if group.is_leader else []
            with ExitStack() as opened:
                loaders = opened.enter_context(_loaders(stage, inputs, group))
                loop = _loop_of(request, inputs, loaders, group, stop, stages, stage)
                heartbeat.now(loop.journal.still)
                loop.resume()
                _train(loop, observers)
                if not loop.history.epochs:
                    _end_without_model(loop, group, stop)
                if stage is stages.head and not loop.is_stopped:
                    heartbeat.now("building the network of the next stage")
                    opened.close()
                    engines.close()  # both at once may not fit into the memory
                    stage, earlier = stages.whole, loop
                    engine, _ = start_engine(stage, inputs, weights, model_channel, world)
                    engines.callback(engine.release)
                    group = ProcessGroup(engine, world)
                    loaders = opened.enter_context(_loaders(stage, inputs, group))
                    loop = _loop_of(request, inputs, loaders, group, stop, stages, stage)
                    heartbeat.now(loop.journal.still)
                    loop.follow(earlier)
                    _train(loop, observers)
                _log_end(loop, stages, inputs.labels)
                results = None
                if group.is_leader:
                    heartbeat.now("measuring the best weights")
                    results = measure(request, inputs, loaders, loop, started_from)
            heartbeat.now("writing the artifact on the first host")
            artifact = _write(paths, results, engine) if results else None
            group.wait()  # a host that ends before the first one has saved ends the whole job
    return artifact


def _open(
    paths: JobPaths, overrides: Mapping[str, str] | None, stop: StopRequest
) -> tuple[JobRequest, Inputs]:
    """Return the request with its final settings, and the opened data."""
    request = read_request(paths, overrides)
    decision = device_of(request.settings.backend)  # a GPU that is unusable ends the job here
    if rank_of(request.cluster)[0] == 0:
        log_decision(decision)
    inputs = open_inputs(
        request.channels,
        request.settings,
        request.interface.training_channel,
        is_sharded=request.is_sharded,
        should_stop=stop.is_set,
    )
    hosts = len(request.cluster.hosts)
    settings = final_settings(request.settings, inputs, hosts if request.is_sharded else 1, hosts)
    request = replace(request, settings=settings)
    log_settings(request, inputs)
    log_advice(request, inputs, on_cpu=not decision.is_gpu)
    return request, inputs


def _stages(
    request: JobRequest, inputs: Inputs, weights: ChannelWeights | None, world: World
) -> tuple[Stages, Settings]:
    """Return the stages of the job, and the settings of the one that it begins or resumes in."""
    settings = request.settings
    identity = identity_of(request.interface.name, settings, inputs)
    found = None
    if settings.fit_head_first != "off":
        found = Checkpoints(request.paths.checkpoints, identity).newest()
    owner, epochs = found or ({}, 0)
    samples, is_begun_whole = inputs.training_samples, owner == identity
    stages = stages_of(settings, samples, weights, world, is_begun_whole=is_begun_whole)
    return stages, stages.at(epochs)


def _loaders(
    settings: Settings, inputs: Inputs, group: ProcessGroup
) -> AbstractContextManager[Loaders]:
    """Return the loaders of the stage with these settings; the sources stay open after them."""
    return open_loaders(
        *(settings, inputs, group.world),
        on_cpu=group.engine.device == "cpu",
        cache=feature_cache(settings, inputs, group),
        closes_sources=False,
    )


def _loop_of(
    request: JobRequest,
    inputs: Inputs,
    loaders: Loaders,
    group: ProcessGroup,
    stop: StopRequest,
    stages: Stages,
    settings: Settings,
) -> Loop:
    """Return the loop of the stage with these settings."""
    interface = request.interface
    journal_type = Journal if group.is_leader else SilentJournal
    identity = identity_of(interface.name, request.settings, inputs) | stages.identity
    return Loop(
        engine=group.engine,
        settings=settings,
        classes=len(inputs.labels),
        training=loaders.training,
        validation=loaders.validation,
        journal=journal_type(
            interface.lines,
            settings.epochs,
            loaders.training.steps,
            loaders.training.image_epochs,
        ),
        checkpoints=Checkpoints(request.paths.checkpoints, identity),
        world=group.world,
        first_epoch=0 if settings is stages.head else stages.first_epoch,
        should_stop=stop.is_set,
        is_out_of_time=stop.is_out_of_time,
    )


def _train(loop: Loop, observers: Sequence[EpochObserver]) -> None:
    engine = loop.engine
    loop.journal.model_lines(engine.parameter_count, engine.trainable_parameter_count)
    loop.run(observers)


def _end_without_model(loop: Loop, group: ProcessGroup, stop: StopRequest) -> NoReturn:
    """End a job that had to stop before its first step, while it computed features."""
    if group.any(stop.is_set()):
        stop.end_without_model()
    raise UserError(
        f"max_minutes={loop.settings.max_minutes:g} passed before the first training step was "
        "done, so there is no model: set more max_minutes"
    )


def _log_end(loop: Loop, stages: Stages, labels: LabelMap) -> None:
    """Log the times of the epochs, which stage was better, and the classes without an image."""
    loop.journal.duration_lines(loop.history.epochs)
    if line := stages.compared_line(loop.history):
        _logger.info("%s", line, extra=events.Note().extra)
    lost = [labels.names[index] for index in loop.training.lost_classes()]
    if lost:
        _logger.warning(
            "Classes of which no training image can be used: %s; the model cannot predict them: "
            "repair the bad samples, or remove these classes",
            listed(lost),
        )


def _observers(request: JobRequest) -> list[EpochObserver]:
    observers = [history_writer(request.paths.output_data)]
    if request.settings.tensorboard:
        with warned("training goes on without TensorBoard's file"):
            observers.append(tensorboard_writer(request.paths.tensorboard))
    return observers


def _write(paths: JobPaths, results: Results, engine: Engine) -> Artifact:
    """Write the artifact, then what the job can do without."""
    try:
        artifact = write_artifact(paths.model, results, engine)
    except OSError as error:
        if results.last_weights is None or error.errno not in OUT_OF_SPACE:
            raise
        reason = describe(error)[0].partition(": ")[2]
        _logger.warning("%s; writing the artifact without the last weights", reason)
        artifact = write_artifact(paths.model, replace(results, last_weights=None), engine)
    with warned("the job ends without the validation predictions"):
        write_predictions(paths.output_data / PREDICTIONS_FILE, results)
    with warned("the job ends without the lists of suspected labels"):
        write_label_lists(paths.output_data, results)
    final = paths.base if paths.artifact else paths.model  # --overwrite puts it there at the end
    finished = _finished(results, str(final))
    _logger.info("%s; artifact in %s", results.line(), final, extra=finished.extra)
    return artifact


def _finished(results: Results, artifact: str) -> events.Finished:
    settings, names = results.settings, results.inputs.labels.names
    measured = [
        metrics_of(outcomes, settings.top_k, is_binary=settings.binary_mode) if outcomes else {}
        for outcomes in (results.validation, results.test)
    ]
    mistaken = dict[int, int]()  # class → the one that it is most often taken for
    for target, predicted in confusions(results.validation):
        if target != predicted:
            mistaken.setdefault(target, predicted)
    rows = list[tuple[str, int, float, str]]()
    for index, (name, row) in enumerate(
        zip(names, per_class(results.validation, names), strict=True)
    ):
        samples, recall = row["samples"], row["recall"]
        if isinstance(samples, int) and isinstance(recall, float):  # it has images
            other = names[mistaken[index]] if index in mistaken else ""
            rows.append((name, samples, recall, other))
    return events.Finished(
        best_epoch=results.history.best_epoch + 1,
        epochs=len(results.history.epochs),
        metric=results.history.metric,
        validation=measured[0],
        test=measured[1],
        images=len(results.validation.keys),
        classes=sorted(rows, key=lambda row: row[2])[:_MOST_CLASSES],
        artifact=artifact,
    )
