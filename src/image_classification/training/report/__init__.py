"""The human side of an artifact: one HTML page without a network, and a model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from image_classification.errors import DataError
from image_classification.images.encode import thumbnail
from image_classification.labels.label_map import LabelMap
from image_classification.loading.sources import Source
from image_classification.training.calibration import Calibration, Reliability
from image_classification.training.checkpoint import History
from image_classification.training.evaluation import Outcomes

MOST_MISTAKES = 24  # about 4 KB each in the page


@dataclass(frozen=True)
class Mistake:
    """A wrong answer.

    Attributes:
        key: of the sample.
        target, predicted: class indices.
        probability: 0–1, of the predicted class.
        target_probability: 0–1, of the true one.
        picture: a `data:` URI, or None where there is nothing to see.
    """

    key: str
    target: int
    predicted: int
    probability: float
    target_probability: float
    picture: str | None


def confident_mistakes(outcomes: Outcomes, source: Source) -> list[Mistake]:
    """Return at most MOST_MISTAKES mistakes, the most confident first; `source` has the pictures.

    An image with multiple labels is seldom right or wrong as a whole: there are no mistakes then.
    """
    if outcomes.targets.ndim == 2:
        return []
    predicted = outcomes.probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predicted != outcomes.targets)
    confidence = outcomes.probabilities[wrong, predicted[wrong]]
    shown = wrong[np.argsort(-confidence, kind="stable")][:MOST_MISTAKES].tolist()
    positions = {source.key(position): position for position in range(len(source)) if shown}
    mistakes = []
    for index in shown:
        row, key = outcomes.probabilities[index], outcomes.keys[index]
        target, answer = int(outcomes.targets[index]), int(predicted[index])
        picture = _picture(source, positions[key]) if key in positions else None
        mistakes.append(
            Mistake(key, target, answer, float(row[answer]), float(row[target]), picture)
        )
    return mistakes


def _picture(source: Source, position: int) -> str | None:
    try:
        return thumbnail(source.read(position).data)
    except DataError:  # the file is gone by now
        return None


@dataclass(frozen=True)
class Facts:
    """A finished job.

    Attributes:
        description: the manifest's part about the job.
        labels: class names.
        preprocessing: as in preprocessing.json.
        history: every epoch.
        outcomes: the validation pass with the best weights, as served.
        calibration: what was fitted.
        reliability: of the validation pass before the temperature, and after it.
        mistakes: the surest errors, with pictures.
        class_counts: split → images of each class; without a split that was streamed.
        bad_samples: (key, reason) of the images that could not be used.
        hyperparameters: (name, value, where it comes from) of all of the interface.
    """

    description: Mapping[str, Any]
    labels: LabelMap
    preprocessing: Mapping[str, Any]
    history: History
    outcomes: Outcomes
    calibration: Calibration
    reliability: tuple[Reliability, Reliability]
    mistakes: Sequence[Mistake]
    class_counts: Mapping[str, Sequence[int]]
    bad_samples: Sequence[tuple[str, str]]
    hyperparameters: Sequence[tuple[str, str, str]]

    @property
    def is_multi_label(self) -> bool:
        """Whether an image may have several classes."""
        return self.outcomes.targets.ndim == 2
