"""What a model answers in Python: predictions, evaluations and trials, as values and small tables.

The tables are HTML for notebooks. Text of the data is escaped and cut; the number of rows is
bounded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from image_classification.curation import wilson_interval
from image_classification.errors import ImageError, UserError
from image_classification.files import written_together
from image_classification.samples import THRESHOLD, FloatArray, IntArray

if TYPE_CHECKING:
    from image_classification.loading.sources import Source
    from image_classification.training.evaluation import Outcomes
    from image_classification.training.trials import Trial

TRIALS_FILE = "trials.json"
"""In the folder of a run of `tune`: what was tried, and what was chosen."""

_MOST_CONFUSED = 2000  # classes: the matrix has 32 MB
_MOST_ROWS = 20  # of a table in a notebook
_MOST_TEXT = 80  # characters of a name in it


def trials_in(folder: Path) -> list[dict[str, Any]]:
    """Return the trials of a run of `tune`; none if the folder has none.

    Raises:
        UserError: `tune` did not write the file.
    """
    path = folder / TRIALS_FILE
    try:
        return list(json.loads(path.read_text("utf-8"))["trials"])
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path}: expected the trials of tune, found {error!r}") from error


def trial_row(trial: Trial, *, is_chosen: bool) -> dict[str, Any]:
    """Return a trial of `tune` as `trials.json` has it."""
    candidate, settings = trial.candidate, trial.candidate.settings
    measured = trial.images > 0 and not trial.has_diverged
    return {
        "backbone": candidate.backbone,
        "preset": candidate.preset,
        "learning_rate": settings.schedule.learning_rate,
        "weight_decay": settings.optimizer.weight_decay,
        "accuracy": round(trial.accuracy, 6) if measured else None,
        "interval": [round(end, 6) for end in trial.interval] if measured else None,
        "images": trial.images,
        "folds": trial.folds,
        "diverged": trial.has_diverged,
        "cpu_seconds": round(trial.cpu_seconds, 2),
        "seconds": round(trial.seconds, 2),
        "chosen": is_chosen,
    }


@dataclass(frozen=True, eq=False)
class Prediction:
    """The model's answer to one image.

    Attributes:
        source: the path of the image as it was given; "" for bytes, a picture or an array.
        labels: the class names in the order of the probabilities.
        error: why the image cannot be used; "" if it was. Only an image of a folder or a list has
            an error; the properties below then raise it as an ImageError.
        is_multi_label: whether each class has its own probability; otherwise they add up to 1.
    """

    source: str
    labels: Sequence[str]
    _row: FloatArray | None = field(repr=False)
    error: str = ""
    is_multi_label: bool = False

    @property
    def probabilities(self) -> FloatArray:
        """The probabilities, float32 (classes,), in the order of `labels`."""
        if self._row is None:
            raise ImageError(f"{self.source}: {self.error}" if self.source else self.error)
        return self._row

    @property
    def label(self) -> str:
        """The name of the most probable class."""
        return self.labels[int(self.probabilities.argmax())]

    @property
    def probability(self) -> float:
        """The probability of the most probable class, 0 to 1."""
        return float(self.probabilities.max())

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """Return (name, probability) of the `count` most probable classes, in descending order."""
        order = (-self.probabilities).argsort(kind="stable")[: max(0, count)]
        return [(self.labels[int(i)], float(self.probabilities[i])) for i in order]

    def labels_from(self, threshold: float = THRESHOLD) -> list[str]:
        """Return the names of the classes with this probability or more, in the order of `labels`.

        For a model that gives an image several classes.
        """
        return [self.labels[int(i)] for i in (self.probabilities >= threshold).nonzero()[0]]

    def __repr__(self) -> str:
        where = f"{self.source!r}: " if self.source else ""
        if self._row is None:
            return f"<Prediction {where}{self.error}>"
        return f"<Prediction {where}{self.label} {self.probability:.3f}>"

    def _repr_html_(self) -> str:
        if self._row is None:
            return table(self.source, ("error",), [(self.error,)])
        rows = [(name, f"{probability:.1%}") for name, probability in self.top()]
        return table(self.source, ("class", "probability"), rows)


@dataclass(frozen=True)
class ClassScore:
    """How a model does on one class.

    Attributes:
        label: the name of the class.
        samples: images that have it.
        precision: share (0–1) of its predictions that are right; None without any.
        recall: share (0–1) of its images that are found; None without any.
        f1: harmonic mean of both; None if both are, 0 if one of them is.
    """

    label: str
    samples: int
    precision: float | None
    recall: float | None

    @property
    def f1(self) -> float | None:
        """2 · precision · recall / (precision + recall).

        A class that is never predicted, or only where it is wrong, has 0; one that has neither an
        image nor a prediction has none.
        """
        if self.precision is None and self.recall is None:
            return None
        precision, recall = self.precision or 0.0, self.recall or 0.0
        return 2 * precision * recall / (precision + recall) if precision and recall else 0.0


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction.

    Attributes:
        source: the key of the image: its path in the data, or its record.
        label: the class in the data.
        predicted: the class of the model.
        probability: of `predicted`, 0 to 1.
    """

    source: str
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True, eq=False)
class Origin:
    """Where an evaluation comes from, for its report.

    Attributes:
        source: the labeled images.
        data, model: the paths as they were given.
        manifest: of the model.
    """

    source: Source
    data: str
    model: str
    manifest: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The metrics of a model on labeled images.

    Attributes:
        samples: number of images that were used.
        metrics: name → value, as `image-classification evaluate --json` has them.
        per_class: one score for each class, in the order of the model's labels.
        confusion: int64 (classes, classes): images of the class of the row that got the class of
            the column. Empty (0, 0) with several classes per image, or with more than 2,000.
        errors: the wrong predictions, the most confident first; empty with several classes per
            image, which is seldom right or wrong as a whole.
        skipped: key → reason, of the images that could not be used.
        labels: the class names in the order of the probabilities.
        outcomes: the classes and probabilities of each image.
        origin: the images and the model; None if they are not known.
    """

    samples: int
    metrics: Mapping[str, float]
    per_class: Sequence[ClassScore]
    confusion: IntArray
    errors: Sequence[Mistake]
    skipped: Mapping[str, str]
    labels: Sequence[str] = field(repr=False)
    outcomes: Outcomes = field(repr=False)
    origin: Origin | None = field(default=None, repr=False)

    @property
    def accuracy(self) -> float:
        """The share of right predictions, 0 to 1; with several classes per image, of labels."""
        return self.metrics["accuracy"]

    @property
    def loss(self) -> float:
        """The mean cross entropy, in nats."""
        return self.metrics["loss"]

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95% interval of the accuracy (Wilson), 0 to 1.

        None with several classes per image: the decisions on one image depend on each other.
        """
        if self.outcomes.targets.ndim == 2:
            return None
        return wilson_interval(self.accuracy, self.samples)

    @property
    def macro_f1(self) -> float:
        """The mean F1, 0 to 1, of the classes that have an image or a prediction; 0 without any."""
        scores = [score.f1 for score in self.per_class if score.f1 is not None]
        return sum(scores) / max(1, len(scores))

    def confusions(self) -> list[tuple[tuple[int, int], int]]:
        """Return ((class in the data, class of the model), images), the most frequent first.

        Class indices; empty with several classes per image.
        """
        from image_classification.training import evaluation

        return list(evaluation.confusions(self.outcomes).items())

    def write_csv(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write a table with a line for each image that was used; return its path.

        Its columns are file, label, predicted, probability, correct, and a probability for each
        class; above 1,000 classes, the five most probable ones. Text is safe in spreadsheets.

        Raises:
            DataError: `path` is a folder.
            UsageError: it exists and `overwrite` is False, or it is not a table of predictions.
        """
        from image_classification.api import predictions_file

        target = Path(path)
        predictions_file.check_predictions_file(target, overwrites=overwrite)
        predictions_file.write_predictions(target, self.outcomes, self.labels)
        return target

    def write_report(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write a page about the evaluation, with pictures, and the table; return the page's path.

        The page is `report.html`, one file that loads nothing; the table is `predictions.csv`.

        Raises:
            DataError: `folder` cannot be written.
            UsageError: `folder` is not empty, unless it only holds an earlier report and
                `overwrite` is True.
        """
        from image_classification.api import predictions_file
        from image_classification.training.report.pages import evaluation_page
        from image_classification.training.report.sections import pictures_of

        target = Path(folder)
        predictions_file.check_report_folder(target, overwrites=overwrite)
        origin, keys = self.origin, self.outcomes.keys
        page = evaluation_page(
            *(self.outcomes, self.labels),
            pictures_of(origin.source, keys) if origin else lambda *_: None,
            data=origin.data if origin else "",
            model=origin.model if origin else "",
            about=origin.manifest if origin else {},
            metrics=self.metrics,
            skipped=self.skipped,
        )
        name, table_name = predictions_file.REPORT_FILES
        with written_together(target, name) as partial_path:
            predictions_file.write_predictions(partial_path(table_name), self.outcomes, self.labels)
            partial_path(name).write_text(page, "utf-8")
        return target / name

    def __repr__(self) -> str:
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        return f"<Evaluation accuracy {self.accuracy:.4f} of {self.samples} images{skipped}>"

    def _repr_html_(self) -> str:
        rows = (
            (score.label, score.samples, *map(_share, (score.precision, score.recall, score.f1)))
            for score in self.per_class
        )
        title = f"accuracy {self.accuracy:.1%} of {self.samples} images"
        return table(title, ("class", "images", "precision", "recall", "F1"), rows)


def evaluation_of(
    outcomes: Outcomes,
    names: Sequence[str],
    top_k: int | None,
    skipped: Mapping[str, str],
    origin: Origin | None = None,
) -> Evaluation:
    """Return the evaluation of a model's outcomes.

    Args:
        outcomes: targets and probabilities.
        names: the class names.
        top_k: measure the top-k accuracy too.
        skipped: key → reason, of the images that could not be used.
        origin: the images and the model, if they are known.
    """
    from image_classification.training import evaluation

    count = len(names)
    is_small = outcomes.targets.ndim == 1 and count <= _MOST_CONFUSED
    confusion = np.zeros((count, count) if is_small else (0, 0), np.int64)
    if is_small:
        for (target, predicted), samples in evaluation.confusions(outcomes).items():
            confusion[target, predicted] = samples
    rows: list[dict[str, Any]] = evaluation.per_class(outcomes, names)
    return Evaluation(
        samples=len(outcomes.keys),
        metrics=evaluation.metrics_of(outcomes, top_k),
        per_class=[ClassScore(**row) for row in rows],
        confusion=confusion,
        errors=_mistakes(outcomes, names),
        skipped=skipped,
        labels=names,
        outcomes=outcomes,
        origin=origin,
    )


def _mistakes(outcomes: Outcomes, names: Sequence[str]) -> list[Mistake]:
    """Return the wrong predictions, the most confident first."""
    from image_classification.training.evaluation import predicted_classes, probabilities_of

    if outcomes.targets.ndim == 2:
        return []
    predicted = predicted_classes(outcomes.probabilities)
    confidence = probabilities_of(predicted, outcomes.probabilities)
    wrong = np.flatnonzero(predicted != outcomes.targets)
    return [
        Mistake(
            outcomes.keys[i], names[outcomes.targets[i]], names[predicted[i]], float(confidence[i])
        )
        for i in wrong[np.argsort(-confidence[wrong], kind="stable")].tolist()
    ]


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return an HTML table of at most 20 rows, with a line about those that are left out."""
    lines = list(rows)
    cells = "".join(f"<th>{_cell(name)}</th>" for name in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>"
        for row in lines[:_MOST_ROWS]
    )
    more = len(lines) - _MOST_ROWS
    rest = f'<tr><td colspan="{len(head)}">… and {more} more</td></tr>' if more > 0 else ""
    caption = f"<caption>{_cell(title)}</caption>" if title else ""
    return f"<table>{caption}<thead><tr>{cells}</tr></thead><tbody>{body}{rest}</tbody></table>"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _cell(value: object) -> str:
    text = str(value).encode("utf-8", "backslashreplace").decode()
    return escape(text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 1] + "…")
