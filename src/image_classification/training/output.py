"""The output of a job: the artifact with its report, and the validation predictions."""

import csv
import itertools
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
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
from image_classification.feature_index import INDEX_FILE
from image_classification.files import written_beside
from image_classification.images.preprocessing import Preprocessing
from image_classification.inventory.tables import RELABEL, REVIEW_COLUMNS, shown_label, shown_path
from image_classification.samples import FloatArray
from image_classification.training.evaluation import Outcomes, metrics_of, pieces
from image_classification.training.final_settings import plain
from image_classification.training.report.pages import model_card, report_page
from image_classification.training.results import Results
from image_classification.training.settings import Settings

_logger = logging.getLogger(__name__)


_ALL_CLASSES = 100
"""Classes up to which a prediction has the probabilities of all."""
_TOP_CLASSES = 20


def write_predictions(path: Path, results: Results) -> None:
    """Write one JSON line per validation sample, one after another.

    It has the key, the label and the probabilities of all classes; if there are more than
    _ALL_CLASSES of them, the probability of the label and the _TOP_CLASSES most probable classes.
    """
    names, outcomes = results.inputs.labels.names, results.validation
    with written_beside(path) as partial, partial.open("w", encoding="utf-8") as file:
        for which, piece in pieces(outcomes.probabilities):
            rows = zip(outcomes.keys[which], outcomes.targets[which], piece, strict=True)
            for key, target, row in rows:
                line = {"key": key, **_named(target, names), **_predicted(target, row, names)}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def write_label_lists(folder: Path, results: Results) -> None:
    """Write `label-review-<split>.csv` for each split whose labels were judged.

    It has every image of the split, as a list for `preprocess --list`: below the folder of the
    channel. A label that is more probably wrong than right is replaced by the suggested class.
    """
    review, names = results.label_review, results.inputs.labels.names
    for split in review.splits if review else ():
        assert review is not None
        suspects = {found.position: found for found in review.suspects if found.split == split}
        unlike = {found.position for found in review.outliers if found.split == split}
        source = results.inputs.splits[split]
        path = folder / f"label-review-{split}.csv"
        with (
            written_beside(path) as partial,
            partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["path", "label", *REVIEW_COLUMNS])
            for position, target in enumerate(source.class_indices.tolist()):
                found, label = suspects.get(position), names[target]
                problems = ["unlike all others"] if position in unlike else []
                action = was = ""
                if found is not None:
                    problems.append(f"perhaps {names[found.suggested]} ({found.score:.2f})")
                    if found.score >= _WRONG:
                        action, was, label = RELABEL, label, names[found.suggested]
                cells = shown_label(label), "; ".join(problems), action, shown_label(was)
                writer.writerow([shown_path(source.path(position)), *cells])
            _keep_older(path)


def _keep_older(path: Path) -> None:
    """Rename the list of an earlier job, which a person may have edited."""
    if not path.exists():
        return
    numbers = itertools.count(1)
    names = (path.with_name(f"{path.stem}-old-{number}{path.suffix}") for number in numbers)
    older = next(name for name in names if not name.exists())
    path.rename(older)
    _logger.info("The list of an earlier job, %s, is now %s", path, older.name)


_WRONG = 0.5  # the score of a label that is more probably wrong than right


def _named(target: Any, names: Sequence[str]) -> dict[str, object]:
    if np.ndim(target):
        return {"labels": [names[index] for index in np.flatnonzero(target)]}
    return {"label": names[target]}


def _predicted(target: Any, row: FloatArray, names: Sequence[str]) -> dict[str, object]:
    if len(names) <= _ALL_CLASSES:
        return {"probabilities": row.tolist()}
    top = np.sort(np.argpartition(-row, _TOP_CLASSES)[:_TOP_CLASSES])
    top = top[np.argsort(-row[top], kind="stable")]
    own = {} if np.ndim(target) else {"label_probability": float(row[target])}
    return own | {
        "top_labels": [names[index] for index in top],
        "top_probabilities": row[top].tolist(),
    }


def write_artifact(directory: Path, results: Results, engine: Engine) -> artifacts.Artifact:
    """Write the artifact of `engine`, which holds the best weights, to `directory`."""
    description = manifest_of(results)
    preprocessing = _served_preprocessing(results.settings)
    report = report_page(results, description)
    card = model_card(results, description, preprocessing)
    pages: dict[str, artifacts.FileWriter] = {
        artifacts.REPORT_FILE: lambda path: path.write_text(report, "utf-8"),
        artifacts.MODEL_CARD_FILE: lambda path: path.write_text(card, "utf-8"),
    }
    writers = engine_writers(engine, results.calibration.temperature) | pages
    if results.last_weights is not None:
        writers[artifacts.LAST_WEIGHTS_FILE] = weights_writer(results.last_weights.weights)
    index = results.known_images
    if index is not None:
        description["feature_index"] = index.described()
        writers[INDEX_FILE] = lambda path: path.write_bytes(index.rows.tobytes())
    labels = results.inputs.labels
    return artifacts.write_artifact(directory, description, labels, preprocessing, writers)


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


def _served_preprocessing(settings: Settings) -> Preprocessing:
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


def _measured(outcomes: Outcomes, settings: Settings) -> dict[str, float]:
    return metrics_of(outcomes, settings.top_k, is_binary=settings.binary_mode)


def manifest_of(results: Results) -> dict[str, Any]:
    """Return the manifest's description of a job and its model."""
    settings, history = results.settings, results.history
    best = history.epochs[history.best_epoch]
    measured: dict[str, Any] = {
        "best_epoch": best.epoch + 1,
        "epochs": len(history.epochs),
        "train": best.train,
        "validation": _measured(results.validation, settings),
        "validation_before_calibration": best.validation,
        "training_samples": results.inputs.training_samples,
        "validation_samples": len(results.validation.keys),
    }
    if results.test is not None:
        measured["test"] = _measured(results.test, settings)
        measured["test_samples"] = len(results.test.keys)
    single = {"binary_answer": settings.binary_answer} if settings.binary_mode else {}
    return description_of(settings.backend, settings.backbone.name, results.interface) | {
        **single,
        "job": environment.JOB_NAME.read(),
        "multi_label": settings.multi_label,
        "metrics": measured,
        "calibration": results.calibration.to_json(),
        "weights": _weights_named(results),
        "started_from": results.started_from,
        "hyperparameters": plain(settings),
        "given_hyperparameters": {
            name: value
            for name, value, origin in results.hyperparameters
            if origin != "default" and not origin.startswith("preset ")
        },
    }
