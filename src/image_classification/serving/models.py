"""A loaded model: artifact, runtime and the one path from encoded images to predictions.

The server, `predict` and `evaluate` all go through `Model.predict`, which prepares an image with
the same function as validation does in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from image_classification.artifact import Artifact
from image_classification.data.labels import LabelMap
from image_classification.data.preprocessing import prepare
from image_classification.data.samples import FloatArray
from image_classification.errors import ArtifactError
from image_classification.serving.runtime import Runtime


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Attributes:
        probabilities: float32 (classes,), adding to 1.
        labels: the label map; position = class index.
    """

    probabilities: FloatArray
    labels: LabelMap

    @property
    def class_index(self) -> int:
        """The most probable class; the lowest index of equals."""
        return int(self.probabilities.argmax())

    @property
    def label(self) -> str:
        """The name of the most probable class."""
        return self.labels.names[self.class_index]

    def top(self, count: int) -> list[tuple[str, float]]:
        """(name, probability) of the `count` most probable classes, in falling order."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.labels.names[i], float(self.probabilities[i])) for i in order]


class Model:
    """An artifact ready to answer.

    Args:
        artifact: verified artifact.
        threads: threads one run of the graph may use.

    Raises:
        ArtifactError: the graph cannot be loaded, or the first real prediction fails.
    """

    def __init__(self, artifact: Artifact, threads: int = 1) -> None:
        self.artifact = artifact
        self._runtime = Runtime(artifact.model_file, threads)
        self._warm_up()

    @property
    def providers(self) -> list[str]:
        """What executes the graph, by ONNX Runtime's names."""
        return self._runtime.providers

    def predict(self, images: Sequence[bytes]) -> list[Prediction]:
        """Predictions of encoded images, in order; an ImageError of the first unusable one."""
        preprocessing = self.artifact.preprocessing
        shape = (len(images), preprocessing.height, preprocessing.width, preprocessing.channels)
        batch = np.empty(shape, np.uint8)
        for image, slot in zip(images, batch, strict=True):
            prepare(image, preprocessing, out=slot)
        labels = self.artifact.labels
        return [Prediction(row, labels) for row in self._runtime.run(batch)]

    def _warm_up(self) -> None:
        """One real prediction: what a ping of 200 rests on."""
        preprocessing = self.artifact.preprocessing
        shape = (1, preprocessing.height, preprocessing.width, preprocessing.channels)
        probabilities = self._runtime.run(np.zeros(shape, np.uint8))
        expected = (1, len(self.artifact.labels))
        if probabilities.shape != expected or not np.isfinite(probabilities).all():
            raise ArtifactError(
                f"{self.artifact.model_file}: expected finite probabilities of shape {expected}, "
                f"got shape {probabilities.shape}"
            )
