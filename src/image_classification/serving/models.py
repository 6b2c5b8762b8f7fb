"""From a verified artifact to a model that has answered once."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from image_classification.artifact import Artifact
from image_classification.contract import environment
from image_classification.errors import ArtifactError, ImageError
from image_classification.images.decode import check_pixels
from image_classification.images.encode import encode_jpeg
from image_classification.images.header import read_header
from image_classification.images.preprocessing import preprocess
from image_classification.samples import UInt8Array
from image_classification.serving import memory
from image_classification.serving.admission import GuardedGraph, PixelGate, Plan
from image_classification.serving.batching import Batcher
from image_classification.serving.health import Health
from image_classification.serving.observation import current_request, decoding
from image_classification.serving.prediction import Failure, Graph, Prediction
from image_classification.serving.runtime import Runtime

_TOGETHER = 32  # images of a request in one run: thousands must not take the memory of all


class Model:
    """An artifact ready to answer.

    Args:
        artifact: verified artifact.
        runtime: executes its graph.
        max_pixels: larger images are refused; None keeps the artifact's own limit.
        gate: where large images wait for each other; None: they do not.

    Raises:
        ArtifactError: the first real prediction does not give what the artifact promises.
    """

    def __init__(
        self,
        artifact: Artifact,
        runtime: Graph,
        max_pixels: int | None = None,
        gate: PixelGate | None = None,
    ) -> None:
        self.artifact = artifact
        self._preprocessing = artifact.preprocessing
        if max_pixels is not None:
            self._preprocessing = replace(artifact.preprocessing, max_pixels=max_pixels)
        self._runtime = runtime
        self._gate = gate
        self._warm_up()

    @property
    def providers(self) -> list[str]:
        """What executes the graph, by ONNX Runtime's names."""
        return self._runtime.providers

    def predict(self, images: Sequence[bytes]) -> list[Prediction]:
        """Predictions of encoded images, in order; an ImageError of the first unusable one."""
        batch = self._empty(len(images))
        with decoding():
            for image, slot in zip(images, batch, strict=True):
                self._prepare(image, slot)
        return self._run(batch)

    def predict_each(self, images: Sequence[bytes | Failure]) -> list[Prediction | Failure]:
        """A prediction for each encoded image, in order; an unusable one fails only its own place.

        Args:
            images: of any number; a Failure stays where it is.
        """
        starts = range(0, len(images), _TOGETHER)
        return [
            r for start in starts for r in self._predict_part(images[start : start + _TOGETHER])
        ]

    def _predict_part(self, images: Sequence[bytes | Failure]) -> list[Prediction | Failure]:
        """The same for as many images as run together."""
        failures: dict[int, Failure] = {}
        batch = self._empty(len(images))
        usable = 0
        with decoding():
            for place, image in enumerate(images):
                try:
                    if isinstance(image, Failure):
                        failures[place] = image
                        continue
                    self._prepare(image, batch[usable])
                    usable += 1
                except ImageError as error:
                    failures[place] = Failure(f"the image cannot be used: {error}")
        found = iter(self._run(batch[:usable]) if usable else [])
        return [failures.get(place) or next(found) for place in range(len(images))]

    def _prepare(self, image: bytes, slot: UInt8Array) -> None:
        """Decode and prepare into `slot`; a RequestError if nobody waits for it any more."""
        header = read_header(image)
        check_pixels(header.width, header.height, self._preprocessing.max_pixels)
        if self._gate is None:
            preprocess(image, self._preprocessing, slot, header)
            return
        with self._gate.decoding(header):
            current_request().refuse_if_abandoned()
            preprocess(image, self._preprocessing, slot, header)

    def _empty(self, count: int) -> UInt8Array:
        shape = self._preprocessing
        return np.empty((count, shape.height, shape.width, shape.channels), np.uint8)

    def _run(self, batch: UInt8Array) -> list[Prediction]:
        labels, is_multi = self.artifact.labels, self.artifact.is_multi_label
        return [Prediction(row, labels, is_multi) for row in self._runtime.run(batch)]

    def _warm_up(self) -> None:
        """One real prediction, from the bytes of a JPEG: what a ping of 200 rests on."""
        gray = np.full((8, 8, 3), 127, np.uint8)  # within any limit of pixels
        (prediction,) = self.predict([encode_jpeg(gray, 90)])
        probabilities, expected = prediction.probabilities, (len(self.artifact.labels),)
        if probabilities.shape != expected or not np.isfinite(probabilities).all():
            raise ArtifactError(
                f"{self.artifact.model_file}: expected finite probabilities of shape {expected}, "
                f"got shape {probabilities.shape}"
            )


_logger = logging.getLogger(__name__)


def load_model(artifact: Artifact, plan: Plan, health: Health, gate: PixelGate) -> Model:
    """The model of `artifact`, run as `plan` says and watched by `health`.

    `gate` is the process's: all its models decode in the same memory.

    Raises:
        ArtifactError: its graph cannot be loaded, or does not give what the artifact promises.
    """
    runtime = Runtime(artifact.model_file)
    graph: Graph = runtime
    if plan.max_batch > 1:
        size = artifact.preprocessing
        graph = Batcher(runtime, (size.height, size.width, size.channels), plan.max_batch)
    max_pixels = environment.MAX_PIXELS.read_integer(1)
    return Model(artifact, GuardedGraph(graph, health), max_pixels, gate)


def log_start(model: Model, plan: Plan) -> None:
    """One line that says what serves, on what, how many at once and with how much memory."""
    artifact = model.artifact
    manifest = artifact.manifest
    _logger.info(
        "Serving %s (%s classes, %s interface, trained by %s) with %s; %s; %d MiB of %d MiB used",
        manifest["backbone"],
        manifest["classes"],
        artifact.interface,
        manifest["backend"],
        ", ".join(model.providers),
        plan,
        memory.used() >> 20,
        memory.limit() >> 20,
    )
