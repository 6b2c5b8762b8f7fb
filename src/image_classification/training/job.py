"""One training job, from the platform's files to the artifact.

Read `run_job` from top to bottom: each line is a module. Everything that can be wrong with a job
— hyperparameters, channels, data — is found before a deep-learning framework is imported.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path
from platform import python_version
from typing import Any

from safetensors.numpy import save

from image_classification import __version__, backends
from image_classification import artifact as artifacts
from image_classification.backends.base import WEIGHT_PREFIX, Engine, ModelSpec, World
from image_classification.contract import environment
from image_classification.contract.channels import (
    ChannelInput,
    check_channels,
    read_channels,
)
from image_classification.contract.environment import JobPaths, read_cluster, read_json
from image_classification.contract.interface import Interface, recognise
from image_classification.data.bad_samples import BadSamples
from image_classification.data.files import write_text
from image_classification.data.loader import Loader
from image_classification.data.preprocessing import Preprocessing
from image_classification.errors import UserError
from image_classification.training import report
from image_classification.training.checkpoint import Checkpoints, History
from image_classification.training.evaluation import Outcomes, metrics_of
from image_classification.training.initial_weights import load_initial_weights
from image_classification.training.inputs import Inputs, open_inputs
from image_classification.training.journal import Journal
from image_classification.training.loop import Loop
from image_classification.training.settings import Settings, settings_of

PREDICTIONS_FILE = "validation-predictions.jsonl"
"""Written to output/data: what the validation pass said of each image."""

_logger = logging.getLogger(__name__)


def run_job(paths: JobPaths, overrides: Mapping[str, str] | None = None) -> artifacts.Artifact:
    """Run the job of `paths` and write its artifact; `overrides` win over its hyperparameters.

    Raises:
        UserError: hyperparameters, channels or data must change; nothing was written.
    """
    given = read_json(paths.config / "hyperparameters.json") | dict(overrides or {})
    channels = read_channels(paths)
    interface = recognise(channels, given)
    check_channels(interface.channels, channels)
    settings = settings_of(interface.name, interface.parse(given))
    _refuse_several_hosts(paths)
    inputs = open_inputs(channels, settings, interface.training_channel)
    settings = _completed(settings, inputs)
    _log_settings(interface, settings, inputs)

    sample_count = len(inputs.training) + len(inputs.validation)
    bad_samples = BadSamples.allowing(settings.max_bad_samples, sample_count)
    engine = _build_engine(settings, inputs, channels.get("model"))
    training, validation = _loaders(settings, inputs, bad_samples, engine)
    checkpoints = Checkpoints(paths.checkpoints, _identity(interface, settings, inputs))
    journal = Journal(interface.name, settings.epochs, training.steps)
    loop = Loop(engine, settings, len(inputs.labels), training, validation, journal, checkpoints)
    if loop.resume():
        _logger.info("Resumed after epoch %d from %s", len(loop.history.epochs), paths.checkpoints)
    loop.run()

    outcomes = loop.evaluate()
    _write_predictions(paths.output_data / PREDICTIONS_FILE, outcomes, inputs)
    artifact = _write_artifact(
        paths.model, interface, settings, inputs, loop, outcomes, bad_samples
    )
    engine.release()
    for resource in (training, validation, inputs.training, inputs.validation):
        resource.close()
    _logger.info(
        "The best epoch was %d with validation accuracy %.6f; artifact in %s",
        loop.history.best_epoch + 1,
        max(loop.history.accuracies),
        paths.model,
    )
    return artifact


def _refuse_several_hosts(paths: JobPaths) -> None:
    hosts = read_cluster(paths).hosts
    if len(hosts) > 1:
        raise UserError(
            f"instance_count is {len(hosts)}: this version trains on one host; set instance_count=1"
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
    for name in ("classes", "expected_samples"):
        del shown[name]
    for name, value in shown.items():
        _logger.info("%s: %s", name, value)
    _logger.info("labels: %s", ", ".join(inputs.labels.names[:20]))


def _build_engine(settings: Settings, inputs: Inputs, model_channel: ChannelInput | None) -> Engine:
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
    )
    engine = backend.build(spec, settings.optimizer, World(threads=environment.cpu_count()))
    load_initial_weights(engine, backend, settings, inputs.labels, model_channel)
    _logger.info(
        "Built %s on %s: %d parameters, %d of them trained",
        spec.backbone,
        engine.device,
        engine.parameter_count,
        engine.trainable_parameter_count,
    )
    return engine


def _loaders(
    settings: Settings, inputs: Inputs, bad_samples: BadSamples, engine: Engine
) -> tuple[Loader, Loader]:
    """Decode threads: all CPUs beside a GPU; few beside a CPU engine, which needs them itself."""
    cpus = environment.cpu_count()
    threads = max(1, cpus // 4) if engine.device == "cpu" else cpus
    training = Loader(
        inputs.training,
        settings.preprocessing,
        settings.batch_size,
        augmentation=settings.augmentation,
        shuffle=True,
        seed=settings.seed,
        threads=threads,
        bad_samples=bad_samples,
    )
    validation = Loader(
        inputs.validation,
        settings.preprocessing,
        settings.batch_size,
        threads=threads,
        bad_samples=bad_samples,
    )
    return training, validation


def _identity(interface: Interface, settings: Settings, inputs: Inputs) -> dict[str, Any]:
    """What must be equal for a checkpoint to continue this job; more epochs are allowed."""
    return {
        "interface": interface.name,
        "backbone": settings.backbone.name,
        "labels": list(inputs.labels.names),
        "image_shape": [
            settings.preprocessing.channels,
            settings.preprocessing.height,
            settings.preprocessing.width,
        ],
        "optimizer": settings.optimizer.name,
        "batch_size": settings.batch_size,
        "train_only_head": settings.train_only_head,
        "seed": settings.seed,
        "training_samples": len(inputs.training),
    }


def _write_predictions(path: Path, outcomes: Outcomes, inputs: Inputs) -> None:
    """One JSON line a validation sample: key, its label, the probabilities."""
    names = inputs.labels.names
    lines = (
        json.dumps(
            {"key": key, "label": names[target], "probabilities": row.tolist()}, ensure_ascii=False
        )
        for key, target, row in zip(
            outcomes.keys, outcomes.targets, outcomes.probabilities, strict=True
        )
    )
    write_text(path, "\n".join(lines))


def served_preprocessing(settings: Settings) -> Preprocessing:
    """What was validated; the server enlarges small images instead of refusing them.

    `inference_resize=squash` restores what the MXNet built-in serves: a resize without regard to
    the aspect ratio, which is not what was validated.
    """
    validated = replace(settings.preprocessing, small_images="enlarge")
    if settings.served_resize in {None, validated.mode}:
        return validated
    _logger.warning(
        "inference_resize=%s: the server prepares images otherwise than validation did; expect "
        "other accuracies",
        settings.served_resize,
    )
    return replace(validated, mode=settings.served_resize, resize=None)


def _write_artifact(
    directory: Path,
    interface: Interface,
    settings: Settings,
    inputs: Inputs,
    loop: Loop,
    outcomes: Outcomes,
    bad_samples: BadSamples,
) -> artifacts.Artifact:
    description = _description(interface, settings, inputs, loop.history, outcomes)
    preprocessing = served_preprocessing(settings)
    facts = report.Facts(
        description=description,
        labels=inputs.labels,
        preprocessing=preprocessing.to_json(),
        history=loop.history,
        outcomes=outcomes,
        bad_samples=tuple(bad_samples.reasons.items()),
    )
    write = Path.write_bytes
    weights = {
        name.removeprefix(WEIGHT_PREFIX): value
        for name, value in loop.engine.state().items()
        if name.startswith(WEIGHT_PREFIX)
    }
    return artifacts.write_artifact(
        directory,
        description,
        inputs.labels,
        preprocessing,
        {
            artifacts.MODEL_FILE: loop.engine.export,
            artifacts.WEIGHTS_FILE: lambda path: write(path, save(weights)),
            artifacts.REPORT_FILE: lambda path: write(path, report.page(facts).encode("utf-8")),
            artifacts.MODEL_CARD_FILE: lambda path: write(
                path, report.model_card(facts).encode("utf-8")
            ),
        },
    )


def _description(
    interface: Interface, settings: Settings, inputs: Inputs, history: History, outcomes: Outcomes
) -> dict[str, Any]:
    """What the manifest says of the job."""
    best = history.epochs[history.best_epoch]
    return {
        "interface": interface.name,
        "backend": settings.backend,
        "backbone": settings.backbone.name,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "job": environment.JOB_NAME.read(),
        "metrics": {
            "best_epoch": best.epoch + 1,
            "epochs": len(history.epochs),
            "train": best.train,
            "validation": metrics_of(outcomes, settings.top_k),
            "training_samples": len(inputs.training),
            "validation_samples": len(outcomes.keys),
        },
        "hyperparameters": _plain(settings),
        "versions": {"sagemaker-image-classification": __version__, "python": python_version()},
    }


def _plain(settings: Settings) -> Mapping[str, Any]:
    """The settings as JSON values."""
    values = asdict(settings) | {"backbone": settings.backbone.name}
    return dict(json.loads(json.dumps(values, default=str)))
