"""The results of a finished job: measure the best weights, write the artifact and predictions."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from image_classification.training.calibration import (
    Calibration,
    Reliability,
    at_temperature,
    calibrate,
    reliability,
)
from image_classification.training.checkpoint import History
from image_classification.training.evaluation import Outcomes, metrics_of
from image_classification.training.final_settings import plain
from image_classification.training.inputs import Inputs, class_counts
from image_classification.training.loaders import Loaders
from image_classification.training.loop import LastWeights, Loop
from image_classification.training.report import Facts, Mistake, confident_mistakes
from image_classification.training.report.model_card import model_card
from image_classification.training.report.page import page
from image_classification.training.request import JobRequest
from image_classification.training.settings import Settings

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Results:
    """A finished job.

    Attributes:
        interface: mxnet or tensorflow.
        settings, inputs: of the job.
        history: every epoch.
        validation, test: outcomes of the best weights with the probabilities to be served; test is
            None without that channel.
        calibration: fitted on validation.
        reliability: on validation, before and after calibration.
        mistakes: the most confident ones on validation.
        bad_samples: the images that were skipped.
        last_weights: None unless the job keeps them.
        started_from: the origin of the first weights, in a few words.
        hyperparameters: (name, value, origin).
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
    last_weights: LastWeights | None
    started_from: str
    hyperparameters: Sequence[tuple[str, str, str]]

    def line(self) -> str:
        """Return the log line about the best epoch."""
        history, fitted = self.history, self.calibration
        best, loss = history.best_epoch, f"{fitted.loss_before:.6f}"
        if not fitted.reason:
            loss += f" ({fitted.loss_after:.6f} as served, calibrated)"
        return (
            f"The best epoch was {best + 1} with validation {history.metric} "
            f"{history.accuracies[best]:.6f} and loss {loss}"
        )


def measure(
    request: JobRequest, inputs: Inputs, loaders: Loaders, loop: Loop, started_from: str
) -> Results:
    """Fit the temperature on validation, measure the `test` channel, collect the report's data.

    Args:
        request, inputs, loaders: of the job.
        loop: after training; its engine holds the best weights.
        started_from: the origin of the first weights, in a few words.
    """
    settings, outcomes = loop.settings, loop.evaluate()
    fitted = calibrate(outcomes, is_wanted=settings.calibrate)
    _logger.info("%s", fitted.line())
    validation = at_temperature(outcomes, fitted.temperature)
    return Results(
        interface=request.interface.name,
        settings=settings,
        inputs=inputs,
        history=loop.history,
        validation=validation,
        test=_test(loop, loaders, fitted.temperature),
        calibration=fitted,
        reliability=(reliability(outcomes), reliability(validation)),
        mistakes=confident_mistakes(validation, inputs.validation),
        bad_samples=loaders.bad_samples,
        last_weights=loop.last_weights,
        started_from=started_from,
        hyperparameters=request.origins(),
    )


def _test(loop: Loop, loaders: Loaders, temperature: float) -> Outcomes | None:
    if loaders.test is None:
        return None
    start, settings = time.monotonic(), loop.settings
    found = loop.outcomes_of(loaders.test)
    if found is None:
        _logger.warning("Stopping: the test channel is not measured")
        return None
    outcomes = at_temperature(found, temperature)
    measured = metrics_of(outcomes, settings.top_k, settings.binary_metric)
    loop.journal.test_lines(measured, len(outcomes.keys), time.monotonic() - start)
    return outcomes


def write_predictions(path: Path, results: Results) -> None:
    """Write one JSON line per validation sample: its key, its label, the probabilities."""
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
    if np.ndim(target):
        return {"labels": [names[index] for index in np.flatnonzero(target)]}
    return {"label": names[target]}


def write_results(directory: Path, results: Results, engine: Engine) -> artifacts.Artifact:
    """Write the artifact of `engine`, which holds the best weights, to `directory`."""
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
    """Return the samples of each class by split, without splits that cannot be counted (pipes)."""
    counts = {}
    for name, source in inputs.splits.items():
        if source.is_countable:
            counts[name] = class_counts(source, len(inputs.labels)).tolist()
    if inputs.totals is not None:
        counts["train"] = inputs.totals.class_counts.tolist()
    return counts


def engine_writers(engine: Engine, temperature: float = 1.0) -> dict[str, artifacts.FileWriter]:
    """Return the writers of an engine's graph and weights, by the artifact's file names."""
    return {
        artifacts.MODEL_FILE: lambda path: engine.export(path, temperature),
        artifacts.WEIGHTS_FILE: weights_writer(engine.state()),
    }


def weights_writer(state: State) -> artifacts.FileWriter:
    """Return what writes the weights of a state under their neutral names."""
    weights = {
        name.removeprefix(WEIGHT_PREFIX): value
        for name, value in state.items()
        if name.startswith(WEIGHT_PREFIX)
    }
    return lambda path: path.write_bytes(save(weights))


def description_of(backend: str, backbone: str, interface: str) -> dict[str, Any]:
    """Return the fields that every manifest has."""
    return {
        "interface": interface,
        "backend": backend,
        "backbone": backbone,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"sagemaker-image-classification": __version__, "python": python_version()},
    }


def served_preprocessing(settings: Settings) -> Preprocessing:
    """Return the preprocessing of validation, except that small images are enlarged, not refused.

    `inference_resize=squash` restores what the MXNet built-in serves, a resize that ignores the
    aspect ratio. The model was not validated with it.
    """
    validated = replace(settings.preprocessing, small_images="enlarge")
    if settings.served_resize in {None, validated.mode}:
        return validated
    _logger.warning(
        "inference_resize=%s: the server preprocesses images differently from validation; expect a "
        "different accuracy",
        settings.served_resize,
    )
    return replace(validated, mode=settings.served_resize, resize=None)


def _weights_named(results: Results) -> dict[str, Any]:
    """Return for each file of weights its epoch, from 1, and the step if a stop cut that short."""
    history, last = results.history, results.last_weights
    best_record = history.epochs[history.best_epoch]
    best = _position(best_record.epoch, best_record.cut_after) | {"is": "best"}
    named = {artifacts.MODEL_FILE: best, artifacts.WEIGHTS_FILE: best}
    if last is not None:
        last_position = _position(last.epoch, last.cut_after)
        named[artifacts.LAST_WEIGHTS_FILE] = last_position | {"is": "last"}
    return named


def _position(epoch: int, cut_after: int) -> dict[str, Any]:
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
