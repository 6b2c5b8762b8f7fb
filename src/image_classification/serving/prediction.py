"""A loaded model: artifact, runtime and the one path from encoded images to predictions.

The server and `predict` go through `Model.predict_each`, `evaluate` through `Model.predict`; both
prepare an image with the same function as validation does in training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from image_classification.labels.label_map import LabelMap
from image_classification.samples import FloatArray, UInt8Array


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Attributes:
        probabilities: float32 (classes,), adding to 1 unless `is_multi_label`.
        labels: the label map; position = class index.
        is_multi_label: whether an image may have several classes, or none.
    """

    probabilities: FloatArray
    labels: LabelMap
    is_multi_label: bool = False

    @property
    def class_index(self) -> int:
        """The most probable class; the lowest index of equals."""
        return int(self.probabilities.argmax())

    @property
    def label(self) -> str:
        """The name of the most probable class."""
        return self.labels.names[self.class_index]

    def labels_from(self, threshold: float) -> list[str]:
        """The names of the classes with this probability or more, in label order."""
        return [self.labels.names[i] for i in np.flatnonzero(self.probabilities >= threshold)]

    def to_list(self) -> list[float]:
        """The probabilities in label order, as they are written: see `short`."""
        return [short(value) for value in self.probabilities.tolist()]

    def top(self, count: int, threshold: float = 0.0) -> list[tuple[str, float]]:
        """(name, probability) of the `count` most probable classes, in falling order.

        Those below `threshold` are left out; probabilities are as in `to_list`.
        """
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [
            (self.labels.names[i], short(float(self.probabilities[i])))
            for i in order
            if self.probabilities[i] >= threshold
        ]


def short(value: float) -> float:
    """A float32 as the number of nine digits next to it, of which `repr` and `json` write no more.

    Nine digits tell any two float32 apart; as a float64 the value itself has seventeen.
    """
    return float(f"{value:.9g}")


@dataclass(frozen=True)
class Failure:
    """What stands in the place of a prediction: why this image cannot be used."""

    reason: str


class Graph(Protocol):
    """What executes the artifact's graph: `runtime.Runtime`."""

    providers: list[str]

    def run(self, images: UInt8Array) -> FloatArray:
        """Probabilities, float32 (N, classes), of uint8 N·H·W·C images; from any thread."""
        ...
