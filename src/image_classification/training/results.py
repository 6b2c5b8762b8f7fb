"""What a finished job leaves: the artifact with its report, and the validation predictions."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from platform import python_version
from typing import Any

import numpy as np
from safetensors.numpy import save

from image_classification import __version__
from image_classification import artifact as artifacts
from image_classification.backends.base import WEIGHT_PREFIX, Engine, State
from image_classification.contract import environment
from image_classification.files import write_text
from image_classification.images.preprocessing import Preprocessing
from image_classification.loading.bad_samples import BadSamples
from image_classification.training.calibration import Calibration, Reliability
from image_classification.training.checkpoint import History
from image_classification.training.evaluation import Outcomes, metrics_of
from image_classification.training.inputs import Inputs, class_counts
from image_classification.training.progress import LastWeights
from image_classification.training.report import Facts, Mistake
from image_classification.training.report.model_card import model_card
from image_classification.training.report.page import page
from image_classification.training.settings import Settings

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Results:
    """A finished job.

    Attributes:
        interface: mxnet or tensorflow.
        settings, inputs: what was asked for and what it was trained on.
        history: every epoch.
        validation, test: outcomes with the best weights, calibrated as they will be served; test is
            None without that channel.
        calibration: what was fitted on validation.
        reliability: of the validation pass before the temperature, and after it.
        mistakes: its surest errors.
        bad_samples: the images that were skipped.
        last_weights: those that training ended with, where the job asked for them.
        started_from: where the first weights come from, in a few words.
        hyperparameters: (name, value, where it comes from).
    """

    interface: str
    settings: Settings
    inputs: Inputs
    history: History
    validation: Outcomes
    test: Outcomes | None
    calibration: Calibration
    reliability: tuple[Reliability, Reliability]
    mistakes: Sequence[Mistake]
    bad_samples: BadSamples
    last_weights: LastWeights | None = None
    started_from: str = ""
    hyperparameters: Sequence[tuple[str, str, str]] = ()


def write_predictions(path: Path, results: Results) -> None:
    """One JSON line a validation sample: key, its label, the probabilities."""
    names, outcomes = results.inputs.labels.names, results.validation
    lines = (
        json.dumps(
            {"key": key, **_named(target, names), "probabilities": row.tolist()},
            ensure_ascii=False,
        )
        for key, target, row in zip(
            outcomes.keys, outcomes.targets, outcomes.probabilities, strict=True
        )
    )
    write_text(path, "\n".join(lines))


def _named(target: Any, names: Sequence[str]) -> dict[str, object]:
    """`label` of a class index, `labels` of a multi-hot row."""
    if np.ndim(target):
        return {"labels": [names[index] for index in np.flatnonzero(target)]}
    return {"label": names[target]}


def write_results(directory: Path, results: Results, engine: Engine) -> artifacts.Artifact:
    """Write the artifact of `engine`, which holds the best weights, into `directory`."""
    description = _description(results)
    preprocessing = served_preprocessing(results.settings)
    facts = Facts(
        description=description,
        labels=results.inputs.labels,
        preprocessing=preprocessing.to_json(),
        history=results.history,
        outcomes=results.validation,
        calibration=results.calibration,
        reliability=results.reliability,
        mistakes=results.mistakes,
        class_counts=_class_counts(results.inputs),
        bad_samples=tuple(results.bad_samples.reasons.items()),
        hyperparameters=results.hyperparameters,
    )
    pages: dict[str, artifacts.FileWriter] = {
        artifacts.REPORT_FILE: lambda path: path.write_text(page(facts), "utf-8"),
        artifacts.MODEL_CARD_FILE: lambda path: path.write_text(model_card(facts), "utf-8"),
    }
    writers = engine_writers(engine, results.calibration.temperature) | pages
    if results.last_weights is not None:
        writers[artifacts.LAST_WEIGHTS_FILE] = weights_writer(results.last_weights.weights)
    labels = results.inputs.labels
    return artifacts.write_artifact(directory, description, labels, preprocessing, writers)


def _class_counts(inputs: Inputs) -> dict[str, list[int]]:
    """Split → samples that have each class; not of a pipe, which is not counted beforehand."""
    counts = {}
    for name, source in inputs.splits.items():
        if source.is_countable:
            counts[name] = class_counts(source, len(inputs.labels)).tolist()
    if inputs.whole is not None:
        counts["train"] = inputs.whole.class_counts.tolist()
    return counts


def engine_writers(engine: Engine, temperature: float = 1.0) -> dict[str, artifacts.FileWriter]:
    """What writes the graph and the weights of an engine into an artifact."""
    return {
        artifacts.MODEL_FILE: lambda path: engine.export(path, temperature),
        artifacts.WEIGHTS_FILE: weights_writer(engine.state()),
    }


def weights_writer(state: State) -> artifacts.FileWriter:
    """What writes the weights of a state under their neutral names."""
    weights = {
        name.removeprefix(WEIGHT_PREFIX): value
        for name, value in state.items()
        if name.startswith(WEIGHT_PREFIX)
    }
    return lambda path: path.write_bytes(save(weights))


def description_of(backend: str, backbone: str, interface: str) -> dict[str, Any]:
    """What every manifest says of its model."""
    return {
        "interface": interface,
        "backend": backend,
        "backbone": backbone,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"sagemaker-image-classification": __version__, "python": python_version()},
    }


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


def plain(settings: Settings) -> dict[str, Any]:
    """The settings as JSON values."""
    values: Mapping[str, Any] = asdict(settings) | {"backbone": settings.backbone.name}
    return dict(json.loads(json.dumps(values, default=str)))


def _weights_named(results: Results) -> dict[str, Any]:
    """Which epoch, 1 for the first, each file of weights holds; which step of one cut short."""
    history, last = results.history, results.last_weights
    best_record = history.epochs[history.best_epoch]
    best = _place(best_record.epoch, best_record.cut_after) | {"is": "best"}
    named = {artifacts.MODEL_FILE: best, artifacts.WEIGHTS_FILE: best}
    if last is not None:
        named[artifacts.LAST_WEIGHTS_FILE] = _place(last.epoch, last.cut_after) | {"is": "last"}
    return named


def _place(epoch: int, cut_after: int) -> dict[str, Any]:
    return {"epoch": epoch + 1} | ({"step": cut_after} if cut_after else {})


def _description(results: Results) -> dict[str, Any]:
    settings, history = results.settings, results.history
    best = history.epochs[history.best_epoch]
    measured: dict[str, Any] = {
        "best_epoch": best.epoch + 1,
        "epochs": len(history.epochs),
        "train": best.train,
        "validation": metrics_of(results.validation, settings.top_k, settings.binary_metric),
        "validation_before_calibration": best.validation,
        "training_samples": results.inputs.training_samples,
        "validation_samples": len(results.validation.keys),
    }
    if results.test is not None:
        measured["test"] = metrics_of(results.test, settings.top_k, settings.binary_metric)
        measured["test_samples"] = len(results.test.keys)
    return description_of(settings.backend, settings.backbone.name, results.interface) | {
        "job": environment.JOB_NAME.read(),
        "multi_label": settings.multi_label,
        "metrics": measured,
        "calibration": results.calibration.to_json(),
        "weights": _weights_named(results),
        "started_from": results.started_from,
        "hyperparameters": plain(settings),
    }
