"""What the report of a job and that of an evaluation share: how good the predictions are.

In: `Outcomes`, the class names, and a function that gives the picture of a sample. Out: the values
of the template `pages/quality.html`. Pictures, rows and curves are bounded in number, so the page
stays below about 2.5 MB whatever the number of classes and samples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from image_classification.curation import wilson_interval
from image_classification.errors import DataError
from image_classification.images.encode import SIDE, thumbnail
from image_classification.loading.sources import Source
from image_classification.pages import curves as charts
from image_classification.samples import THRESHOLD, IntArray
from image_classification.training import quality
from image_classification.training.calibration import Reliability
from image_classification.training.evaluation import Outcomes, confusions, metrics_of, pieces

MOST_MISTAKES, MOST_BORDERLINE = 24, 12
"""Large pictures, about 15 KB each in the page."""
MOST_OF_CELLS = 160
"""Small pictures behind the confusions, about 5 KB each."""
BARS = 10
"""Intervals of the confidence in the reliability chart."""
LARGE_SIDE = 256  # pixels
_MOST_OF_ONE_CELL = 8
_MOST_CONFUSIONS = 15
_LARGEST_MATRIX = 30  # classes
_STRONG = 0.5  # shade of a cell from which its text is light
_MOST_OPEN_ROWS, _MOST_ROWS = 30, 1000  # of the class table
_MOST_SMALL_CURVES, _MOST_NAMED_CURVES, _MOST_GRAY_CURVES = 30, 4, 40
_MOST_LABELS = 5  # of one image in a caption
_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_DECISION_THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

PictureOf = Callable[[int, int], str | None]
"""Returns the picture of a sample, by its position in the outcomes and the longest side in pixels,
as `data:` URI; None if it cannot be read."""


@dataclass(frozen=True)
class Answer:
    """One image with the model's prediction, to be shown.

    Attributes:
        key: of the sample.
        label: the true class or classes.
        predicted: the predicted class or decision.
        probability: of that, 0–1.
        other: the class to compare with: the true one, or the second most probable one.
        other_probability: of that, 0–1; None if there is nothing to compare with.
        is_right: whether the prediction is correct.
        picture: a `data:` URI, or None.
    """

    key: str
    label: str
    predicted: str
    probability: float
    other: str
    other_probability: float | None
    is_right: bool
    picture: str | None


@dataclass(frozen=True)
class Cell:
    """The pictures of the images of one class that are predicted as one class.

    Attributes:
        anchor: the id of its element in the page.
        target, predicted: class names.
        count: images, of which `answers` has the first ones.
        answers: of a confusion the most confident first, of correct ones the least confident.
    """

    anchor: str
    target: str
    predicted: str
    count: int
    answers: Sequence[Answer]

    @property
    def is_right(self) -> bool:
        return self.target == self.predicted


@dataclass(frozen=True)
class ClassRow:
    """A row of the class table: the scores of a class, its name, and the areas below its curves."""

    label: str
    score: quality.ClassScore
    auc: float | None
    average_precision: float | None


def pictures_of(source: Source, keys: Sequence[str]) -> PictureOf:
    """Return what reads the pictures of the samples with these keys."""
    positions: dict[str, int] = {}

    def picture(index: int, side: int = SIDE) -> str | None:
        if not positions:
            positions.update((source.key(place), place) for place in range(len(source)))
        place = positions.get(keys[index])
        try:
            return None if place is None else thumbnail(source.read(place).data, side)
        except DataError:  # the file is gone by now
            return None

    return picture


def quality_of(
    outcomes: Outcomes,
    names: Sequence[str],
    picture: PictureOf,
    reliabilities: Mapping[str, Reliability],
    *,
    has_cells: bool = True,
) -> dict[str, Any]:
    """Return the values of `quality.html`.

    Args:
        outcomes: at least one sample.
        names: of all classes.
        picture: of a sample.
        reliabilities: one or two: title → answers by confidence, in BARS intervals.
        has_cells: False leaves out the pictures behind the confusions, to save time.
    """
    is_multi_label = outcomes.targets.ndim == 2
    things = "decisions" if is_multi_label else "images"
    scores = quality.class_scores(outcomes, len(names))
    scores.sort(key=lambda score: (score.f1 is None, score.f1 or 0.0, -score.samples))
    curves = quality.curves(outcomes, _with_curves(scores, outcomes))
    accuracy = metrics_of(outcomes)["accuracy"]
    values = {
        "is_multi_label": is_multi_label,
        "things": things,
        "samples": len(outcomes.keys),
        "is_cut": outcomes.probabilities.size > quality.MOST_VALUES,
        "accuracy": accuracy,
        "interval": None if is_multi_label else wilson_interval(accuracy, len(outcomes.keys)),
        "mean": quality.mean_f1(outcomes, len(names)),
        **_classes(scores, curves, names),
        **_curve_charts(curves, names),
        "reliability": [
            charts.reliability_chart(title, _bars(found), things)
            for title, found in reliabilities.items()
        ],
    }
    if is_multi_label:
        return values | _of_decisions(outcomes, names, picture)
    return values | _of_answers(outcomes, names, picture, has_cells=has_cells)


def _with_curves(scores: Sequence[quality.ClassScore], outcomes: Outcomes) -> list[int]:
    """Return the classes to compute curves of: all, or some with the lowest F1 if that is much."""
    chosen = [score.index for score in scores if score.samples]
    is_small = outcomes.probabilities.size <= quality.MOST_VALUES
    return chosen if is_small else chosen[:_MOST_SMALL_CURVES]


def _classes(
    scores: Sequence[quality.ClassScore], curves: Sequence[quality.Curves], names: Sequence[str]
) -> dict[str, Any]:
    areas = {found.index: (found.auc, found.average_precision) for found in curves}
    rows = [
        ClassRow(names[score.index], score, *areas.get(score.index, (None, None)))
        for score in scores[:_MOST_ROWS]
    ]
    return {
        "rows": rows[:_MOST_OPEN_ROWS],
        "more_rows": rows[_MOST_OPEN_ROWS:],
        "classes": len(names),
    }


def _curve_charts(curves: Sequence[quality.Curves], names: Sequence[str]) -> dict[str, Any]:
    """Return both charts of all classes, and a small one of each; the worst classes first."""
    worst = sorted(curves, key=lambda found: found.average_precision)
    named, rest = worst[:_MOST_NAMED_CURVES], worst[_MOST_NAMED_CURVES:]
    gray = rest[:: max(1, -(-len(rest) // _MOST_GRAY_CURVES))]
    if not worst:
        return {"curve_charts": [], "small_curves": [], "curves": 0}
    return {
        "curve_charts": [
            charts.curve_chart(
                "Precision and recall",
                ("recall", "precision"),
                [(names[found.index], found.precision_recall) for found in named],
                [found.precision_recall for found in gray],
            ),
            charts.curve_chart(
                "ROC",
                ("false positive rate", "true positive rate"),
                [(names[found.index], found.roc) for found in named],
                [found.roc for found in gray],
                has_diagonal=True,
            ),
        ],
        "small_curves": [
            (
                names[found.index],
                found,
                charts.small_curve(
                    f"Precision by recall of {names[found.index]}", found.precision_recall
                ),
                charts.small_curve(
                    f"ROC curve of {names[found.index]}", found.roc, has_diagonal=True
                ),
            )
            for found in worst[:_MOST_SMALL_CURVES]
        ],
        "curves": len(worst),
    }


def _bars(found: Reliability) -> list[charts.ReliabilityBar]:
    columns = (found.samples.tolist(), found.confidence.tolist(), found.accuracy.tolist())
    return [
        charts.ReliabilityBar(
            (number / len(found.samples), (number + 1) / len(found.samples)),
            *(count, confidence, accuracy),
            wilson_interval(accuracy, count) if count else (0.0, 1.0),
        )
        for number, (count, confidence, accuracy) in enumerate(zip(*columns, strict=True))
    ]


def _of_answers(
    outcomes: Outcomes, names: Sequence[str], picture: PictureOf, *, has_cells: bool
) -> dict[str, Any]:
    """Return the values about samples with one class."""
    predicted, confidence, is_correct = quality.confidences(outcomes)
    show = partial(_answer, outcomes, names, predicted, picture)
    wrong = np.flatnonzero(~is_correct)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    counts = confusions(outcomes)
    mistaken = [(pair, count) for pair, count in counts.items() if pair[0] != pair[1]]
    shown = mistaken[:_MOST_CONFUSIONS]
    if len(names) <= _LARGEST_MATRIX:
        shown = mistaken + sorted((pair, n) for pair, n in counts.items() if pair[0] == pair[1])
    members = quality.members(outcomes, [pair for pair, _ in shown], _MOST_OF_ONE_CELL)
    cells = _cells(shown, members, show, names) if has_cells else {}
    return {
        "mistakes": [show(i, int(outcomes.targets[i])) for i in wrong[:MOST_MISTAKES].tolist()],
        "wrong": len(wrong),
        "borderline": [
            show(i, second) for i, second in quality.borderline(outcomes, MOST_BORDERLINE)
        ],
        "matrix": _matrix(counts, cells, names) if len(names) <= _LARGEST_MATRIX else [],
        "names": names,
        "confusions": [
            (names[target], names[guess], count, cells.get((target, guess)))
            for (target, guess), count in mistaken[:_MOST_CONFUSIONS]
        ],
        "cells": list(cells.values()),
        "coverage": charts.coverage_chart(quality.coverage(confidence, is_correct), "images"),
        "thresholds": quality.at_thresholds(confidence, is_correct, _THRESHOLDS),
    }


def _answer(
    outcomes: Outcomes,
    names: Sequence[str],
    predicted: IntArray,
    picture: PictureOf,
    index: int,
    other: int,
    side: int = LARGE_SIDE,
) -> Answer:
    row, target, guess = outcomes.probabilities[index], outcomes.targets[index], predicted[index]
    return Answer(
        outcomes.keys[index],
        names[target],
        names[guess],
        float(row[guess]),
        names[other],
        float(row[other]),
        bool(target == guess),
        picture(index, side),
    )


def _cells(
    shown: Sequence[tuple[tuple[int, int], int]],
    members: Mapping[tuple[int, int], Sequence[int]],
    show: Callable[..., Answer],
    names: Sequence[str],
) -> dict[tuple[int, int], Cell]:
    """Return the cells that have pictures: at most MOST_OF_CELLS in all."""
    cells, left = {}, MOST_OF_CELLS
    for (target, guess), count in shown:
        chosen = members[target, guess][: max(left, 0)]
        if not chosen:
            break
        left -= len(chosen)
        answers = [show(index, target, SIDE) for index in chosen]
        anchor = f"cell-{target}-{guess}"
        cells[target, guess] = Cell(anchor, names[target], names[guess], count, answers)
    return cells


def _matrix(
    counts: Mapping[tuple[int, int], int],
    cells: Mapping[tuple[int, int], Cell],
    names: Sequence[str],
) -> list[tuple[str, list[tuple[int, str, str, float]]]]:
    """Return (true class, [(count, anchor or "", CSS classes, opacity)]), shaded by the share of
    the row."""
    rows = []
    for target, name in enumerate(names):
        own = [counts.get((target, guess), 0) for guess in range(len(names))]
        row = []
        for guess, count in enumerate(own):
            share = count / max(sum(own), 1)
            shade = min(1.0, share if target == guess else 2 * share)
            style = "right" if target == guess else "wrong"
            opacity = 0.15 + shade
            if shade > _STRONG:  # in between, neither dark nor light text has enough contrast
                style, opacity = f"{style} strong", 0.76 + 0.24 * shade
            cell = cells.get((target, guess))
            row.append((count, cell.anchor if cell else "", style, round(opacity, 2)))
        rows.append((name, row))
    return rows


def _of_decisions(outcomes: Outcomes, names: Sequence[str], picture: PictureOf) -> dict[str, Any]:
    """Return the values about samples with multiple labels."""
    exact, wrong = 0, 0
    for which, piece in pieces(outcomes.probabilities):
        differs = (piece >= THRESHOLD) != (outcomes.targets[which] > 0)
        exact += int((~differs.any(axis=1)).sum())
        wrong += int(differs.sum())
    samples = len(outcomes.keys)
    return {
        "mistakes": [
            _decision(outcomes, names, picture, *place)
            for place in quality.wrong_decisions(outcomes, MOST_MISTAKES)
        ],
        "wrong": wrong,
        "exact": (exact / samples, wilson_interval(exact / samples, samples)),
        "thresholds": quality.decisions_at(outcomes, _DECISION_THRESHOLDS),
    }


def _decision(
    outcomes: Outcomes, names: Sequence[str], picture: PictureOf, sample: int, index: int
) -> Answer:
    """Return an answer whose `predicted` is one class, or "not" and that class."""
    own = np.flatnonzero(outcomes.targets[sample]).tolist()
    label = ", ".join(names[i] for i in own[:_MOST_LABELS]) or "none"
    label += f" and {len(own) - _MOST_LABELS} more" if len(own) > _MOST_LABELS else ""
    probability = float(outcomes.probabilities[sample, index])
    says = names[index] if probability >= THRESHOLD else f"not {names[index]}"
    return Answer(
        outcomes.keys[sample],
        label,
        says,
        max(probability, 1 - probability),
        "",
        None,
        False,
        picture(sample, LARGE_SIDE),
    )
