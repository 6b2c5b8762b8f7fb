"""A verified artifact that predicts: decode, preprocess and run the graph, each step guarded.

The server and `predict` go through `Model.predict_each`, `evaluate` through `Model.predict`; both
preprocess an image with the function that validation uses in training.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np

from image_classification import errors
from image_classification.artifact import Artifact
from image_classification.images.encode import encode_jpeg
from image_classification.images.header import read_header
from image_classification.images.preprocessing import preprocess
from image_classification.samples import FloatArray, UInt8Array
from image_classification.serving.codec.answers import Failure, Prediction
from image_classification.serving.decoding import Decoder
from image_classification.serving.observation import Health, Pace, current_request
from image_classification.serving.runtime import CUDA, Graph
from image_classification.serving.scheduling import ManyImages


class GuardedGraph:
    """A graph whose runs are recorded and watched, and start only if a client still waits.

    Args:
        graph: executes the runs.
        health: watches how long each run takes, and is marked faulty when the device fails.
    """

    def __init__(self, graph: Graph, health: Health) -> None:
        self._graph, self._health = graph, health
        self.providers = graph.providers

    def run(self, images: UInt8Array) -> FloatArray:
        """Return probabilities, float32 (N, classes), of uint8 N·H·W·C images.

        Raises:
            RequestError: no client waits for the answer any more (499, 503), or the GPU has no
                memory for it now (503).
            DeviceError: the runtime failed; the process is unhealthy from now on.
        """
        record = current_request()
        record.refuse_if_abandoned()
        begin = record.busy_ms()
        try:
            with self._health.running():
                probabilities = self._graph.run(images)
        except errors.DeviceError as error:
            self._health.fail(str(error), is_device_lost=CUDA in self.providers)
            raise
        except MemoryError as error:  # of a GPU, which other requests or processes fill for a while
            raise errors.RequestError(503, f"{error}; send the request again later") from error
        record.computed(len(images), record.busy_ms() - begin)
        if record.is_bulk:
            self._health.renew()
        return probabilities


class Model:
    """An artifact ready to answer.

    Args:
        artifact: verified artifact.
        graph: executes its graph.
        max_pixels: larger images are refused; None keeps the artifact's own limit.
        decoder: decodes the images within the memory of a server; None: they are decoded here.

    Raises:
        ArtifactError: the first real prediction contradicts the artifact.
    """

    def __init__(
        self,
        artifact: Artifact,
        graph: Graph,
        max_pixels: int | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        self.artifact = artifact
        self._preprocessing = artifact.preprocessing
        if max_pixels is not None:
            self._preprocessing = replace(artifact.preprocessing, max_pixels=max_pixels)
        self._labels, self._is_multi_label = artifact.labels, artifact.is_multi_label
        self._classes = len(artifact.labels)
        self._graph, self._decoder = graph, decoder
        self._pace = Pace()
        self._warm_up()
        start = time.monotonic()
        self._warm_up()  # the first run also allocates
        self._pace.took(time.monotonic() - start, 1)

    @property
    def providers(self) -> list[str]:
        """The execution providers of the graph, by ONNX Runtime's names."""
        return self._graph.providers

    def predict(self, images: Sequence[bytes]) -> list[Prediction]:
        """Predict encoded images, in order; raise the ImageError of the first unusable one."""
        batch = self._empty(len(images))
        with current_request().decoding():
            for image, slot in zip(images, batch, strict=True):
                self._preprocess(image, slot)
        return self._run(batch)

    def predict_each(self, images: Sequence[bytes | Failure]) -> list[Prediction | Failure]:
        """Predict encoded images, in order; an unusable one fails alone, in its position.

        Args:
            images: of any number; a Failure stays where it is.
        """
        return [result for part in self.predict_in_parts(images) for result in part]

    def predict_in_parts(
        self, images: Sequence[bytes | Failure]
    ) -> Generator[list[Prediction | Failure]]:
        """Predict like `predict_each`; yield the results of as many images as run together.

        On a server, many images are computed in slices; what a caller does with a part belongs to
        the slice.

        Raises:
            RequestError: the request is not to be computed, see `scheduling.ManyImages.parts`.
        """
        work = ManyImages(len(images), self._pace)
        for part in work.parts():
            results = self._predict_some(images[part], work.until)
            work.did(len(results))
            yield results

    def _predict_some(
        self, images: Sequence[bytes | Failure], until: float
    ) -> list[Prediction | Failure]:
        """Predict images together: those that are decoded when the time `until` comes."""
        failures: dict[int, Failure] = {}
        batch = self._empty(len(images))
        usable = 0
        with current_request().decoding():
            for index, image in enumerate(images):
                if index and time.monotonic() > until:
                    images = images[:index]
                    break
                try:
                    if isinstance(image, Failure):
                        failures[index] = image
                        continue
                    self._preprocess(image, batch[usable])
                    usable += 1
                except errors.ImageError as error:
                    failures[index] = Failure(f"the image cannot be used: {error}")
        found = iter(self._run(batch[:usable]) if usable else [])
        return [failures.get(index) or next(found) for index in range(len(images))]

    def _preprocess(self, image: bytes, slot: UInt8Array) -> None:
        """Decode and preprocess into `slot`; a RequestError if no client waits any more."""
        header = read_header(image)
        if self._decoder is not None:
            self._decoder.preprocess(image, header, self._preprocessing, slot)
            return
        try:
            preprocess(image, self._preprocessing, slot, header)
        except MemoryError as error:  # of this image; one of the graph is no image's fault
            raise errors.ImageTooLargeError(errors.OUT_OF_MEMORY) from error

    def _empty(self, count: int) -> UInt8Array:
        shape = self._preprocessing
        return np.empty((count, shape.height, shape.width, shape.channels), np.uint8)

    def _run(self, batch: UInt8Array) -> list[Prediction]:
        """Run the graph; an ArtifactError if it fails or gives no valid probabilities."""
        rows, expected = self._graph.run(batch), (len(batch), self._classes)
        if rows.shape != expected or not np.isfinite(rows).all():
            raise errors.ArtifactError(
                f"{self.artifact.model_file.name}: expected finite probabilities of shape "
                f"{expected}, got shape {rows.shape}"
                + ("" if rows.shape != expected else " with NaN or infinity")
            )
        return [Prediction(row, self._labels, self._is_multi_label) for row in rows]

    def _warm_up(self) -> None:
        """Predict one JPEG, so that a ping of 200 proves a real prediction."""
        gray = np.full((1, 1, 3), 127, np.uint8)  # within any limit of pixels
        self.predict([encode_jpeg(gray, 90)])
