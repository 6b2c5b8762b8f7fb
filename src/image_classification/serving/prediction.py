"""What the model says of one image: the form that crosses from the runtime to the answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from image_classification.data.labels import LabelMap
from image_classification.data.samples import FloatArray


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

    @property
    def predicted_labels(self) -> list[str]:
        """The names of the classes with a probability of 0.5 or more, in label order."""
        return [self.labels.names[i] for i in np.flatnonzero(self.probabilities >= 0.5)]

    def top(self, count: int) -> list[tuple[str, float]]:
        """(name, probability) of the `count` most probable classes, in falling order."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.labels.names[i], float(self.probabilities[i])) for i in order]
