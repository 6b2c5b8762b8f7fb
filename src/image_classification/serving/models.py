"""A loaded model: artifact, runtime and the one path from encoded images to predictions.

The server, `predict` and `evaluate` all go through `Model.predict`, which prepares an image with
the same function as validation does in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from image_classification.artifact import Artifact
from image_classification.data.preprocessing import prepare
from image_classification.data.samples import FloatArray, UInt8Array
from image_classification.errors import ArtifactError
from image_classification.serving.prediction import Prediction


class Graph(Protocol):
    """What executes the artifact's graph: `runtime.Runtime`."""

    providers: list[str]

    def run(self, images: UInt8Array) -> FloatArray:
        """Probabilities, float32 (N, classes), of uint8 N·H·W·C images; from any thread."""
        ...


class Model:
    """An artifact ready to answer.

    Args:
        artifact: verified artifact.
        runtime: executes its graph.

    Raises:
        ArtifactError: the first real prediction does not give what the artifact promises.
    """

    def __init__(self, artifact: Artifact, runtime: Graph) -> None:
        self.artifact = artifact
        self._runtime = runtime
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
