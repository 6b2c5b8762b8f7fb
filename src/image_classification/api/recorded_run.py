"""What is known about a finished run: its model, and the files that the job left next to it.

In: the output of `train`, the base folder of a job, or an artifact. Out: a `Run`. History and
predictions are data, read up to a limit; those that do not belong to the model are left out with a
remark, because a comparison with them would be wrong.
"""

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from image_classification.api.model import Model
from image_classification.artifact import MANIFEST_FILE
from image_classification.samples import THRESHOLD

HISTORY_FILE, PREDICTIONS_FILE = "history.json", "validation-predictions.jsonl"

_MOST_HISTORY_BYTES = 64 << 20
_MOST_EPOCHS = 100_000
_MOST_LINE_BYTES, _MOST_LINES = 1 << 20, 300_000  # predictions: about 300 bytes each in memory
_MOST_DEPTH = 6  # of settings in each other
_SEVERAL = "|"
_NAME = re.compile(r"(#\d+) \(.*\)$", re.DOTALL)  # of the packed image, behind its record


class Answer(NamedTuple):
    """A run's prediction for one image: the class, or several joined by `|`, and a probability."""

    text: str
    probability: float


class Stored(NamedTuple):
    """A validation image: its key, its class in the data, and the prediction."""

    key: str
    label: str
    answer: Answer


@dataclass
class Run:
    """A run with what is known about it.

    Attributes:
        name: the end of its path that no other run has.
        model: its model.
        epochs: the records of history.json, one for each epoch; none if it is not there.
        stored: the predictions for its validation images, by their keys without the names of packed
            images, which a run has only if it knew their list.
        remarks: what is missing, as sentences.
    """

    name: str
    model: Model
    epochs: Sequence[Mapping[str, Any]] = ()
    stored: Mapping[str, Stored] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def manifest(self) -> Mapping[str, Any]:
        return self.model.manifest

    @property
    def is_multi_label(self) -> bool:
        return bool(self.manifest.get("multi_label", False))

    def number(self, *path: str) -> float | None:
        """Return a number of the manifest, as metrics, validation, accuracy; None if absent."""
        return _number(self.manifest, *path)

    def curve(self, split: str, metric: str) -> list[float]:
        """Return the values by epoch; none where an epoch lacks it. `split` "" is the epoch."""
        path = (split, metric) if split else (metric,)
        values = [_number(record, *path) for record in self.epochs]
        return [value for value in values if value is not None] if None not in values else []

    def settings(self) -> dict[str, object]:
        """Return the settings that determined the model, under the names of the manifest."""
        found: dict[str, object] = {}
        for name in ("interface", "backend", "backbone", "started_from", "versions"):
            found.update(_flat(name, self.manifest.get(name)))
        settings = self.manifest.get("hyperparameters")
        for name, value in settings.items() if isinstance(settings, dict) else ():
            found.update(_flat(str(name), value))
        return found

    def given(self) -> dict[str, object] | None:
        """Return the settings that the user of the job gave; None if the manifest lacks them."""
        found = self.manifest.get("given_hyperparameters")
        return found if isinstance(found, dict) else None

    def seconds(self) -> float | None:
        """Return the time of all epochs; None without a history."""
        return sum(self.curve("", "seconds")) if self.epochs else None


@dataclass(frozen=True)
class Setting:
    """A setting that differs: its name, and for each run its value, None where it is not set."""

    name: str
    values: Sequence[object]


def read_run(path: Path, name: str) -> Run:
    """Read a run; ArtifactError without a model."""
    is_job = path.is_dir() and not (path / MANIFEST_FILE).exists()
    artifact = path / "model" if is_job and (path / "model" / MANIFEST_FILE).exists() else path
    run = Run(name, Model(artifact))
    folder = artifact if artifact.is_dir() else artifact.parent
    folders = (folder, folder.parent / "output" / "data") if artifact.is_dir() else (folder,)
    for file, read in ((HISTORY_FILE, _add_history), (PREDICTIONS_FILE, _add_predictions)):
        found = next((one / file for one in folders if (one / file).is_file()), None)
        if found is None:
            run.remarks.append(f"there is no {file} next to the model (it is in a job's output)")
            continue
        try:
            read(run, found)
        except (
            OSError,
            ValueError,
            LookupError,
            TypeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            run.remarks.append(f"{found} is left out: {error}")
    return run


def _add_history(run: Run, path: Path) -> None:
    with path.open("rb") as file:
        content = file.read(_MOST_HISTORY_BYTES + 1)
    if len(content) > _MOST_HISTORY_BYTES:
        raise ValueError(f"it has more than {_MOST_HISTORY_BYTES >> 20} MiB")
    history = _object(content)
    epochs, best = history["epochs"], history["best_epoch"]
    if not isinstance(epochs, list) or not 1 <= best <= len(epochs) <= _MOST_EPOCHS:
        raise ValueError("it is not the history of a run")
    own = run.number("metrics", "validation_before_calibration", "loss")
    found = _number(epochs[best - 1], "validation", "loss")
    if own is None or found is None or not math.isclose(own, found, rel_tol=1e-6):
        raise ValueError("its best epoch is not that of the model")
    run.epochs = epochs


def _add_predictions(run: Run, path: Path) -> None:
    stored: dict[str, Stored] = {}
    lines = 0
    with path.open("rb") as file:
        while line := file.readline(_MOST_LINE_BYTES + 1):
            lines += 1
            if len(line) > _MOST_LINE_BYTES or lines > _MOST_LINES:
                raise ValueError(
                    f"expected at most {_MOST_LINES:,} lines of {_MOST_LINE_BYTES >> 20} MiB; use "
                    "--data"
                )
            read = _read_prediction(_object(line), run)
            stored[_NAME.sub(r"\1", read.key)] = read
    accuracy = run.number("metrics", "validation", "accuracy")
    correct = sum(one.label == one.answer.text for one in stored.values())
    is_same = lines == len(stored) == run.number("metrics", "validation_samples")
    if not is_same or not (
        run.is_multi_label or math.isclose(accuracy or -1, correct / lines, abs_tol=1e-9)
    ):
        raise ValueError("its lines are not the predictions that the model was measured with")
    run.stored = stored


def _object(content: bytes) -> dict[str, Any]:
    found = json.loads(content)
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, got {content[:40]!r}")
    return found


def _read_prediction(line: Mapping[str, Any], run: Run) -> Stored:
    names = line.get("top_labels", run.model.labels)
    values = np.array(line.get("top_probabilities", line.get("probabilities")), np.float32)
    if values.shape != (len(names),) or not len(names) or not np.isfinite(values).all():
        raise ValueError(f"expected {len(names)} probabilities, got {str(values)[:80]}")
    labels = line["labels"] if run.is_multi_label else [line["label"]]
    answer = answer_of(values, names, run.is_multi_label)
    return Stored(str(line["key"]), sys.intern(joined(labels)), answer)


def answer_of(values: Any, names: Sequence[str], is_multi_label: bool) -> Answer:
    """Return the prediction of float32 (classes,) probabilities."""
    best = int(values.argmax())
    chosen = np.flatnonzero(values >= THRESHOLD).tolist() if is_multi_label else [best]
    return Answer(sys.intern(joined([names[i] for i in chosen])), float(values[best]))


def joined(names: Sequence[str]) -> str:
    """Return the classes of an image as one text, the same in any order."""
    return _SEVERAL.join(sorted(map(str, names)))


def differing(runs: Sequence[Mapping[str, object] | None]) -> list[Setting]:
    """Return the settings of runs that differ, in the order of the first run that has them.

    A run of which nothing is known is left out of the comparison; its values are "unknown".
    """
    known = [run for run in runs if run is not None]
    found = []
    for name in dict.fromkeys(name for run in known for name in run):
        if any(run.get(name) != known[0].get(name) for run in known):
            values = ["unknown" if run is None else run.get(name) for run in runs]
            found.append(Setting(name, values))
    return found


def _flat(name: str, value: object, depth: int = 0) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and depth < _MOST_DEPTH:
        for inner, one in value.items():
            yield from _flat(f"{name}.{inner}", one, depth + 1)
    else:
        yield name, value


def _number(value: object, *path: str) -> float | None:
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e300:
        return None
    return float(value)
