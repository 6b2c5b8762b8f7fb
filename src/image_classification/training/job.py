"""One training job, from the platform's files to the artifact.

Read `run_job` from top to bottom: each line is a module. Everything that can be wrong with a job
— hyperparameters, channels, data — is found before a deep-learning framework is imported.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from image_classification.artifact import Artifact
from image_classification.backends.base import Engine
from image_classification.contract.paths import JobPaths, read_cluster
from image_classification.training.checkpoint import Checkpoints, History
from image_classification.training.engine_start import given_weights, start_engine
from image_classification.training.final_settings import final_settings, identity_of, log_settings
from image_classification.training.group import ProcessGroup, world_of
from image_classification.training.inputs import Inputs, open_inputs
from image_classification.training.journal import Heartbeat, Journal, SilentJournal
from image_classification.training.lifeline import watched
from image_classification.training.loaders import Loaders, agreed, open_loaders
from image_classification.training.loop import Loop
from image_classification.training.measuring import measure
from image_classification.training.report.history import (
    EpochObserver,
    history_writer,
    tensorboard_writer,
)
from image_classification.training.request import JobRequest, read_request
from image_classification.training.results import Results, write_predictions, write_results
from image_classification.training.stopping import StopRequest

PREDICTIONS_FILE = "validation-predictions.jsonl"
"""Written to output/data: what the validation pass said of each image."""

_logger = logging.getLogger(__name__)


def run_job(
    paths: JobPaths, overrides: Mapping[str, str] | None, should_stop: StopRequest
) -> Artifact | None:
    """Run the job of `paths` and write its artifact; `overrides` win over its hyperparameters.

    A stop ends training after the step that is running; the best epoch so far is written. Of
    several hosts the first one writes and returns the artifact, the others return None.

    Raises:
        UserError: hyperparameters, channels or data must change; nothing was written.
    """
    failure_file = None if paths.artifact else paths.failure
    with (
        Heartbeat().running("opening the channels") as heartbeat,
        watched(read_cluster(paths), failure_file),
    ):
        request = read_request(paths, overrides)
        inputs = open_inputs(
            request.channels,
            request.settings,
            request.interface.training_channel,
            is_part=request.is_sharded,
            should_stop=should_stop,
        )
        request = replace(request, settings=final_settings(request.settings, inputs))
        log_settings(request, inputs)
        model_channel = request.channels.get("model")
        given = given_weights(request.settings, inputs.labels, model_channel)

        heartbeat.now("building the network")
        world = world_of(request.cluster)
        engine, started_from = start_engine(request.settings, inputs, given, model_channel, world)
        should_stop.is_training = True
        try:
            group = ProcessGroup(engine, world)
            inputs = agreed(inputs, request.settings, group, is_part=request.is_sharded)
            on_cpu = engine.device == "cpu"
            with open_loaders(request.settings, inputs, world, on_cpu=on_cpu) as loaders:
                loop = _loop_of(request, inputs, loaders, group, should_stop)
                heartbeat.now(loop.journal.still)
                _train(loop, request, group)
                results = None
                if group.is_leader:
                    heartbeat.now("measuring what the best weights reach")
                    results = measure(request, inputs, loaders, loop, started_from)
            heartbeat.now("writing the artifact, which the first host does")
            artifact = _write(paths, results, engine) if results else None
            group.wait()  # a host that ended before the first has saved would end the job
        finally:
            engine.release()
    return artifact


def _loop_of(
    request: JobRequest,
    inputs: Inputs,
    loaders: Loaders,
    group: ProcessGroup,
    should_stop: StopRequest,
) -> Loop:
    settings, interface = request.settings, request.interface
    journal_type = Journal if group.is_leader else SilentJournal
    identity = identity_of(interface.name, settings, inputs)
    return Loop(
        engine=group.engine,
        settings=settings,
        classes=len(inputs.labels),
        training=loaders.training,
        validation=loaders.validation,
        journal=journal_type(interface.lines, settings.epochs, loaders.training.steps),
        checkpoints=Checkpoints(request.paths.checkpoints, identity),
        world=group.world,
        should_stop=should_stop,
        is_out_of_time=should_stop.is_out_of_time,
    )


def _train(loop: Loop, request: JobRequest, group: ProcessGroup) -> None:
    """Train, from a checkpoint if there is one."""
    loop.resume()
    if group.is_leader:
        loop.journal.observers = _observers(request, loop.history)
    engine = group.engine
    loop.journal.model_lines(engine.parameter_count, engine.trainable_parameter_count)
    loop.run()
    loop.journal.duration_lines(loop.history.epochs)


def _observers(request: JobRequest, earlier: History) -> list[EpochObserver]:
    observers = [history_writer(request.paths.output_data, earlier)]
    if request.settings.tensorboard:
        observers.append(tensorboard_writer(request.paths.tensorboard))
    return observers


def _write(paths: JobPaths, results: Results, engine: Engine) -> Artifact:
    write_predictions(paths.output_data / PREDICTIONS_FILE, results)
    artifact = write_results(paths.model, results, engine)
    history, fitted = results.history, results.calibration
    served = "" if fitted.reason else f" ({fitted.loss_after:.6f} as served, calibrated)"
    _logger.info(
        "The best epoch was %d with validation %s %.6f and loss %.6f%s; artifact in %s",
        history.best_epoch + 1,
        history.metric,
        history.accuracies[history.best_epoch],
        fitted.loss_before,
        served,
        paths.model,
    )
    return artifact
