"""A verified artifact that predicts: decode, preprocess and run the graph, each step guarded.

The server and `predict` go through `Model.predict_each`, `evaluate` through `Model.predict`; both
preprocess an image with the function that validation uses in training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from image_classification import errors
from image_classification.artifact import Artifact
from image_classification.contract import environment
from image_classification.feature_index import INDEX_FILE
from image_classification.images.encode import encode_jpeg
from image_classification.images.header import ImageHeader, read_header
from image_classification.images.preprocessing import Box, preprocess, seen_box
from image_classification.samples import FloatArray, UInt8Array
from image_classification.serving.codec.accept import DETAILS
from image_classification.serving.codec.answers import Failure, Prediction
from image_classification.serving.decoding import Decoder
from image_classification.serving.explanation import explain
from image_classification.serving.graph_outputs import MAP, Outputs
from image_classification.serving.observation import Health, Pace, current_request
from image_classification.serving.runtime import CUDA, Graph
from image_classification.serving.scheduling import ManyImages

_Found = TypeVar("_Found", FloatArray, Outputs)


class GuardedGraph:
    """A graph whose runs are recorded and watched, and start only if a client still waits.

    Args:
        graph: executes the runs.
        health: watches how long each run takes, and is marked faulty when the device fails.
    """

    def __init__(self, graph: Graph, health: Health) -> None:
        self._graph, self._health = graph, health
        self.providers, self.outputs = graph.providers, graph.outputs

    def run(self, images: UInt8Array) -> FloatArray:
        """Return probabilities, float32 (N, classes), of uint8 N·H·W·C images.

        Raises:
            RequestError: no client waits for the answer any more (499, 503), or the GPU has no
                memory for it now (503).
            DeviceError: the runtime failed; the process is unhealthy from now on.
        """
        return self._guarded(len(images), lambda: self._graph.run(images))

    def run_outputs(self, images: UInt8Array, wanted: Collection[str]) -> Outputs:
        """Return the probabilities and the wanted `outputs` of images, as `run` does."""
        return self._guarded(len(images), lambda: self._graph.run_outputs(images, wanted))

    def _guarded(self, count: int, compute: Callable[[], _Found]) -> _Found:
        record = current_request()
        record.refuse_if_abandoned()
        begin = record.busy_ms()
        try:
            with self._health.running():
                found = compute()
        except errors.DeviceError as error:
            self._health.fail(str(error), is_device_lost=CUDA in self.providers)
            raise
        except MemoryError as error:  # of a GPU, which other requests or processes fill for a while
            raise errors.RequestError(503, f"{error}; send the request again later") from error
        record.computed(count, record.busy_ms() - begin)
        if record.is_bulk:
            self._health.renew()
        return found


def _why_not(manifest: Mapping[str, Any], parameter: str) -> str:
    """Return why an artifact's graph does not have the output that a parameter needs."""
    if environment.CUDA_GRAPHS.read_switch():
        return f"Accept parameter {parameter}: not available with {environment.CUDA_GRAPHS.name}"
    if manifest["format_version"] == 1:
        return (
            f"Accept parameter {parameter}: the model has format version 1, whose graph returns "
            "only probabilities: train or export it again"
        )
    return f"Accept parameter {parameter}: not defined for {manifest['backbone']}, " + (
        "which does not end with the mean over all positions and one dense layer"
        if DETAILS[parameter] == MAP
        else "which does not end with a dense layer"
    )


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
        self._classes, self._index = len(artifact.labels), artifact.read_index()
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
        self, images: Sequence[bytes | Failure], details: frozenset[str] = frozenset()
    ) -> Generator[list[Prediction | Failure]]:
        """Predict like `predict_each`; yield the results of as many images as run together.

        `details` are names of `accept.DETAILS`: what predictions are to hold besides probabilities.
        On a server, many images are computed in slices; what a caller does with a part belongs to
        the slice.

        Raises:
            RequestError: the request is not to be computed, see `scheduling.ManyImages.parts`; 406
                if the network has not what `details` asks for.
        """
        self._check(details)
        work = ManyImages(len(images), self._pace)
        for part in work.parts():
            results = self._predict_some(images[part], work.until, details)
            work.did(len(results))
            yield results

    def _predict_some(
        self, images: Sequence[bytes | Failure], until: float, details: frozenset[str]
    ) -> list[Prediction | Failure]:
        """Predict images together: those that are decoded when the time `until` comes."""
        failures: dict[int, Failure] = {}
        batch = self._empty(len(images))
        seen: list[Box] = []  # of each usable image
        with current_request().decoding():
            for index, image in enumerate(images):
                if index and time.monotonic() > until:
                    images = images[:index]
                    break
                try:
                    if isinstance(image, Failure):
                        failures[index] = image
                        continue
                    header = self._preprocess(image, batch[len(seen)])
                    seen.append(seen_box(header.upright_size, self._preprocessing))
                except errors.ImageError as error:
                    failures[index] = Failure(f"the image cannot be used: {error}")
        found = iter(self._run(batch[: len(seen)], details, seen) if seen else [])
        return [failures.get(index) or next(found) for index in range(len(images))]

    def _preprocess(self, image: bytes, slot: UInt8Array) -> ImageHeader:
        """Decode and preprocess into `slot`; a RequestError if no client waits any more."""
        header = read_header(image)
        if self._decoder is not None:
            self._decoder.preprocess(image, header, self._preprocessing, slot)
            return header
        try:
            preprocess(image, self._preprocessing, slot, header)
        except MemoryError as error:  # of this image; one of the graph is no image's fault
            raise errors.ImageTooLargeError(errors.OUT_OF_MEMORY) from error
        return header

    def _empty(self, count: int) -> UInt8Array:
        shape = self._preprocessing
        return np.empty((count, shape.height, shape.width, shape.channels), np.uint8)

    def _check(self, details: frozenset[str]) -> None:
        """Refuse with 406 what the model does not have, by name."""
        lacking = sorted(name for name in details if DETAILS[name] not in self._graph.outputs)
        if lacking:
            raise errors.RequestError(406, _why_not(self.artifact.manifest, lacking[0]))
        if "score" in details and self._index is None:
            raise errors.RequestError(
                406,
                "Accept parameter score: the model has no feature index of its training images: "
                "train it with feature_index=True",
            )

    def _run(
        self, batch: UInt8Array, details: frozenset[str] = frozenset(), seen: Sequence[Box] = ()
    ) -> list[Prediction]:
        """Run the graph; an ArtifactError if it fails or gives no valid probabilities."""
        if details:
            found = self._graph.run_outputs(batch, {DETAILS[name] for name in details})
        else:
            found = Outputs(self._graph.run(batch))
        rows, expected = found.probabilities, (len(batch), self._classes)
        if rows.shape != expected or not np.isfinite(rows).all():
            raise errors.ArtifactError(
                f"{self.artifact.model_file.name}: expected finite probabilities of shape "
                f"{expected}, got shape {rows.shape}"
                + ("" if rows.shape != expected else " with NaN or infinity")
            )
        results = [Prediction(row, self._labels, self._is_multi_label) for row in rows]
        if not details:
            return results
        features = found.features if "features" in details else None
        scores = self._scores(found) if "score" in details else None
        return [
            replace(
                result,
                features=None if features is None else features[i],
                score=None if scores is None else float(scores[i]),
                explanation=None if found.maps is None else explain(found.maps[i], seen[i]),
            )
            for i, result in enumerate(results)
        ]

    def _scores(self, found: Outputs) -> FloatArray:
        assert self._index is not None and found.features is not None
        if found.features.shape[1] != self._index.rows.shape[1]:
            raise errors.ArtifactError(
                f"{INDEX_FILE}: expected {found.features.shape[1]} features of an image, as the "
                f"graph gives, found {self._index.rows.shape[1]}"
            )
        return self._index.scores(found.features)

    def _warm_up(self) -> None:
        """Predict one JPEG, so that a ping of 200 proves a real prediction."""
        gray = np.full((1, 1, 3), 127, np.uint8)  # within any limit of pixels
        self.predict([encode_jpeg(gray, 90)])
