"""A loaded model: artifact, runtime and the one path from encoded images to predictions.

The server, `predict` and `evaluate` all go through `Model.predict`, which prepares an image with
the same function as validation does in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from image_classification.artifact import Artifact
from image_classification.data.images import encode_jpeg
from image_classification.data.preprocessing import prepare
from image_classification.data.samples import FloatArray, UInt8Array
from image_classification.errors import ArtifactError
from image_classification.serving.observation import decoding
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
        max_pixels: larger images are refused; None keeps the artifact's own limit.

    Raises:
        ArtifactError: the first real prediction does not give what the artifact promises.
    """

    def __init__(self, artifact: Artifact, runtime: Graph, max_pixels: int | None = None) -> None:
        self.artifact = artifact
        self._preprocessing = artifact.preprocessing
        if max_pixels is not None:
            self._preprocessing = replace(artifact.preprocessing, max_pixels=max_pixels)
        self._runtime = runtime
        self._warm_up()

    @property
    def providers(self) -> list[str]:
        """What executes the graph, by ONNX Runtime's names."""
        return self._runtime.providers

    def predict(self, images: Sequence[bytes]) -> list[Prediction]:
        """Predictions of encoded images, in order; an ImageError of the first unusable one."""
        preprocessing = self._preprocessing
        shape = (len(images), preprocessing.height, preprocessing.width, preprocessing.channels)
        batch = np.empty(shape, np.uint8)
        with decoding():
            for image, slot in zip(images, batch, strict=True):
                prepare(image, preprocessing, out=slot)
        labels, is_multi = self.artifact.labels, self.artifact.is_multi_label
        return [Prediction(row, labels, is_multi) for row in self._runtime.run(batch)]

    def _warm_up(self) -> None:
        """One real prediction, from the bytes of a JPEG: what a ping of 200 rests on."""
        grey = np.full((64, 64, 3), 127, np.uint8)
        (prediction,) = self.predict([encode_jpeg(grey, 90)])
        probabilities, expected = prediction.probabilities, (len(self.artifact.labels),)
        if probabilities.shape != expected or not np.isfinite(probabilities).all():
            raise ArtifactError(
                f"{self.artifact.model_file}: expected finite probabilities of shape {expected}, "
                f"got shape {probabilities.shape}"
            )
