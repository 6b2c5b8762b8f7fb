"""One training job, from the platform's files to the artifact.

Read `run_job` from top to bottom: each line is a module. Everything that can be wrong with a job
— hyperparameters, channels, data — is found before a deep-learning framework is imported.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from image_classification import backends
from image_classification.artifact import Artifact
from image_classification.backends.base import Engine, ModelSpec, World
from image_classification.contract import environment
from image_classification.contract.channels import ChannelInput, check_channels, read_channels
from image_classification.contract.environment import Cluster, JobPaths, read_cluster, read_json
from image_classification.contract.hyperparameters import Value
from image_classification.contract.interface import Interface, recognise
from image_classification.data.bad_samples import BadSamples
from image_classification.data.loader import Loader
from image_classification.data.sources.stream import StreamSource
from image_classification.data.tfrecord import require_checksums
from image_classification.errors import ChannelError, HyperparameterError
from image_classification.training.calibration import at_temperature, calibrate, reliability
from image_classification.training.checkpoint import Checkpoints, History
from image_classification.training.epoch_files import (
    EpochObserver,
    history_writer,
    tensorboard_writer,
)
from image_classification.training.evaluation import metrics_of
from image_classification.training.initial_weights import load_initial_weights
from image_classification.training.inputs import Inputs, open_inputs
from image_classification.training.journal import Journal, SilentJournal
from image_classification.training.loaders import loader_of
from image_classification.training.loop import Loop
from image_classification.training.multi_label import positive_weights
from image_classification.training.process_group import ProcessGroup, world_of
from image_classification.training.report import surest_mistakes
from image_classification.training.results import (
    Results,
    plain,
    write_predictions,
    write_results,
)
from image_classification.training.settings import Settings, settings_of
from image_classification.training.stopping import stop_on_sigterm

PREDICTIONS_FILE = "validation-predictions.jsonl"
"""Written to output/data: what the validation pass said of each image."""

_logger = logging.getLogger(__name__)


def run_job(paths: JobPaths, overrides: Mapping[str, str] | None = None) -> Artifact | None:
    """Run the job of `paths` and write its artifact; `overrides` win over its hyperparameters.

    SIGTERM ends training after the step that is running; the best epoch so far is written. Of
    several hosts the first one writes and returns the artifact, the others return None.

    Raises:
        UserError: hyperparameters, channels or data must change; nothing was written.
    """
    given = read_json(paths.config / "hyperparameters.json") | dict(overrides or {})
    channels = read_channels(paths)
    interface = recognise(channels, given)
    check_channels(interface.channels, channels)
    values = interface.parse(given)
    settings = settings_of(interface.name, values)
    cluster = read_cluster(paths)
    _check_shards(cluster, channels)
    if settings.tensorboard:
        require_checksums()  # not after hours of training
    inputs = open_inputs(channels, settings, interface.training_channel)
    _check_binary(settings, inputs)
    settings = _completed(settings, inputs)
    _log_settings(interface, settings, inputs)

    with stop_on_sigterm() as should_stop:
        world = world_of(cluster)
        engine, started_from = _build_engine(settings, inputs, channels.get("model"), world)
        try:
            group = ProcessGroup(engine, world)
            results = _train(paths, interface, settings, inputs, group, should_stop)
            artifact = None
            if results:
                origins = _origins(interface, values, given)
                results = replace(results, started_from=started_from, hyperparameters=origins)
                artifact = _write(paths, results, engine)
            group.wait()  # a host that ended before the first has saved would end the job
        finally:
            engine.release()
    return artifact


def _origins(
    interface: Interface, values: Mapping[str, Value], given: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    """(name, value, the name it was given by, or "default") of each hyperparameter."""
    rows = []
    for entry in interface.hyperparameters:
        names = [name for name in (entry.name, *entry.aliases) if name in given]
        value = values[entry.name]
        shown = "unset" if value is None else str(value)
        rows.append((entry.name, shown, names[0] if names else "default"))
    return rows


def _write(paths: JobPaths, results: Results, engine: Engine) -> Artifact:
    write_predictions(paths.output_data / PREDICTIONS_FILE, results)
    artifact = write_results(paths.model, results, engine)
    history = results.history
    _logger.info(
        "The best epoch was %d with validation %s %.6f; artifact in %s",
        history.best_epoch + 1,
        history.metric,
        history.accuracies[history.best_epoch],
        paths.model,
    )
    return artifact


def _train(
    paths: JobPaths,
    interface: Interface,
    settings: Settings,
    inputs: Inputs,
    group: ProcessGroup,
    should_stop: Callable[[], bool],
) -> Results | None:
    """Train, from a checkpoint if there is one; the leader measures the best weights."""
    engine, world = group.engine, group.world
    sources = {"train": inputs.training, "validation": inputs.validation, "test": inputs.test}
    count = sum(len(source) for source in sources.values() if source is not None)
    bad_samples = BadSamples.allowing(settings.max_bad_samples, count)
    loaders = {
        name: loader_of(name, source, settings, bad_samples, world, on_cpu=engine.device == "cpu")
        for name, source in sources.items()
        if source is not None
    }
    journal_type = Journal if group.is_leader else SilentJournal
    identity = _identity(interface, settings, inputs, world.size)
    if isinstance(inputs.training, StreamSource):
        inputs.training.should_stop = should_stop
    loop = Loop(
        engine=engine,
        settings=settings,
        classes=len(inputs.labels),
        training=loaders["train"],
        validation=loaders["validation"],
        journal=journal_type(interface.name, settings.epochs, loaders["train"].steps),
        checkpoints=Checkpoints(paths.checkpoints, identity),
        world=world,
        should_stop=should_stop,
    )
    loop.resume()
    if group.is_leader:
        loop.journal.observers = _observers(paths, settings, loop.history)
    loop.journal.model_lines(engine.parameter_count, engine.trainable_parameter_count)
    with loop.journal.watching():
        loop.run()
        loop.journal.duration_lines(loop.history.epochs)
        results = None
        if group.is_leader:
            results = _measured(loop, loaders, interface, inputs, bad_samples)
    for loader in loaders.values():
        loader.close()
        loader.source.close()
    return results


def _observers(paths: JobPaths, settings: Settings, earlier: History) -> list[EpochObserver]:
    observers = [history_writer(paths.output_data, earlier)]
    if settings.tensorboard:
        observers.append(tensorboard_writer(paths.tensorboard))
    return observers


def _measured(
    loop: Loop,
    loaders: Mapping[str, Loader],
    interface: Interface,
    inputs: Inputs,
    bad_samples: BadSamples,
) -> Results:
    """What the best weights reach, in the probabilities that will be served."""
    settings, outcomes = loop.settings, loop.evaluate()
    calibration = calibrate(outcomes, is_wanted=settings.calibrate)
    _logger.info("%s", calibration.line())
    test, start = None, time.monotonic()
    if "test" in loaders:
        test = at_temperature(loop.outcomes_of(loaders["test"]), calibration.temperature)
        measured = metrics_of(test, settings.top_k, settings.binary_metric)
        loop.journal.test_lines(measured, len(test.keys), time.monotonic() - start)
    validation = at_temperature(outcomes, calibration.temperature)
    return Results(
        interface=interface.name,
        settings=settings,
        inputs=inputs,
        history=loop.history,
        validation=validation,
        test=test,
        calibration=calibration,
        reliability=(reliability(outcomes), reliability(validation)),
        mistakes=surest_mistakes(validation, inputs.validation),
        bad_samples=bad_samples,
        last_weights=loop.last_weights,
    )


def _check_binary(settings: Settings, inputs: Inputs) -> None:
    if settings.binary_mode and len(inputs.labels) != 2:
        raise HyperparameterError(
            f"binary_mode=True needs two classes, the data has {len(inputs.labels)}: "
            f"{', '.join(inputs.labels.names[:20])}; leave binary_mode out"
        )


def _check_shards(cluster: Cluster, channels: Mapping[str, ChannelInput]) -> None:
    sharded = [name for name, channel in channels.items() if channel.is_sharded]
    if len(cluster.hosts) > 1 and sharded:
        raise ChannelError(
            f"channel {', '.join(sharded)}: with {len(cluster.hosts)} hosts every host must see "
            "all samples, of which it then takes its part: set S3DataDistributionType to "
            "FullyReplicated instead of ShardedByS3Key"
        )


def _completed(settings: Settings, inputs: Inputs) -> Settings:
    """What the data decides: image files need a `resize` before the crop, records were resized."""
    max_pixels = environment.MAX_PIXELS.read_integer(1)
    preprocessing = replace(settings.preprocessing, max_pixels=max_pixels)
    if preprocessing.mode == "crop" and preprocessing.resize is None and not inputs.are_records:
        backbone = settings.backbone
        side = max(preprocessing.height, preprocessing.width)
        resize = round(side * backbone.resize / backbone.input_size)
        preprocessing = replace(preprocessing, resize=resize)
        _logger.info("resize is not set and the channel holds image files: using %d", resize)
    return replace(settings, preprocessing=preprocessing)


def _log_settings(interface: Interface, settings: Settings, inputs: Inputs) -> None:
    """The final configuration, one line a setting, as the MXNet built-in shows it."""
    _logger.info("---- Parameters ----")
    shown: dict[str, Any] = {"interface": interface.name, **vars(settings)}
    shown |= {"backbone": settings.backbone.name, "num_classes": len(inputs.labels)}
    for name in ("classes", "labels", "expected_samples"):
        del shown[name]
    for name, value in shown.items():
        _logger.info("%s: %s", name, value)
    _logger.info("labels: %s", ", ".join(inputs.labels.names[:20]))


def _build_engine(
    settings: Settings, inputs: Inputs, model_channel: ChannelInput | None, world: World
) -> tuple[Engine, str]:
    """The engine with its first weights, and where those come from."""
    preprocessing = settings.preprocessing
    backend = backends.load(settings.backend)
    spec = ModelSpec(
        backbone=settings.backbone.name,
        classes=len(inputs.labels),
        input_shape=(preprocessing.channels, preprocessing.height, preprocessing.width),
        mean=preprocessing.mean,
        std=preprocessing.std,
        dropout_rate=settings.dropout_rate,
        seed=settings.seed,
        train_only_head=settings.train_only_head,
        averages_weights=settings.recipe.ema_decay > 0,
        precision=settings.precision,
        compiles=settings.compiles,
        multi_label=settings.multi_label,
        positive_weights=_positive_weights(settings, inputs),
    )
    engine = backend.build(spec, settings.optimizer, world)
    started_from = load_initial_weights(engine, backend, settings, inputs.labels, model_channel)
    _logger.info(
        "Built %s on %s: %d parameters, %d of them trained",
        spec.backbone,
        engine.device,
        engine.parameter_count,
        engine.trainable_parameter_count,
    )
    return engine, started_from


_MAY_CHANGE = (
    *("epochs", "max_minutes", "expected_samples", "max_bad_samples"),
    *("checkpoint_frequency", "checkpoint_steps", "checkpoint_minutes"),
    *("calibrate", "head", "keep_last_weights", "tensorboard"),
)
"""Settings that a job may change when it goes on from its checkpoints."""


def _positive_weights(settings: Settings, inputs: Inputs) -> tuple[float, ...]:
    rows = inputs.training.multi_hot
    return positive_weights(rows) if settings.weighted_loss and rows is not None else ()


def _identity(
    interface: Interface, settings: Settings, inputs: Inputs, hosts: int
) -> dict[str, Any]:
    """What must be equal for a checkpoint to continue this job."""
    values = plain(replace(settings, schedule=replace(settings.schedule, epochs=0)))
    for name in _MAY_CHANGE:
        del values[name]
    return values | {
        "interface": interface.name,
        "hosts": hosts,
        "labels": list(inputs.labels.names),
        "training_samples": len(inputs.training),
        "validation_samples": len(inputs.validation),
    }
