"""A verified artifact that predicts: decode, preprocess and run the graph, each step guarded.

The server and `predict` go through `Model.predict_each`, `evaluate` through `Model.predict`; both
preprocess an image with the function that validation uses in training. The only module that
imports onnxruntime.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import onnxruntime

from image_classification import errors
from image_classification.artifact import Artifact, GraphFile
from image_classification.images.decode import check_pixels
from image_classification.images.encode import encode_jpeg
from image_classification.images.header import ImageHeader, read_header
from image_classification.images.preprocessing import preprocess
from image_classification.samples import FloatArray, UInt8Array
from image_classification.serving.codec.answers import Failure, Prediction
from image_classification.serving.graph_file import check_graph
from image_classification.serving.observation import Health, current_request

_TOGETHER = 32  # images of a request in one run: thousands at once could exhaust the memory
_FREE_PIXELS = 8 << 20  # fit into a thread's own memory in the plan
_JPEG_SHARE = 4  # libjpeg-turbo writes 3 bytes per pixel and keeps nothing else
_CUDA = "CUDAExecutionProvider"
_DECODER = "the decoder of images"
_CUDA_FAILURE = re.compile("CUDA|CUDNN|CUBLAS|CUFFT|allocate")
_MOST_REASON = 500  # characters of ONNX Runtime's text, which can repeat a shape of any length


class Graph(Protocol):
    """Executes the artifact's graph: a `Runtime`, or a wrapper of one."""

    providers: list[str]

    def run(self, images: UInt8Array) -> FloatArray:
        """Return probabilities, float32 (N, classes), of uint8 N·H·W·C images; from any thread."""


class Runtime:
    """An ONNX Runtime session; `run` may be called from several threads at once.

    Args:
        file: the graph, which is verified again in the very bytes that are loaded.
        threads: threads one run may use. Request threads share the session, so with as many
            request threads as CPUs one is right: two that spin for each other cost 4× (measured).

    Raises:
        ArtifactError: the graph has changed, cannot be loaded, or needs more than its own file.
    """

    def __init__(self, file: GraphFile, threads: int = 1) -> None:
        graph, name = file.read(), file.path
        try:
            check_graph(graph)
        except errors.ArtifactError as error:
            raise errors.ArtifactError(f"{name}: {error}") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # fatal; an error is raised too, and a request can cause it
        options.add_session_config_entry("session.load_model_format", "ONNX")
        available = onnxruntime.get_available_providers()
        providers = [p for p in (_CUDA, "CPUExecutionProvider") if p in available]
        try:
            self._session = onnxruntime.InferenceSession(
                graph, sess_options=options, providers=providers
            )
        except Exception as error:  # onnxruntime's errors share no public base class
            raise errors.ArtifactError(f"{name}: ONNX Runtime cannot load it: {error}") from error
        shape, rows = (None, *file.input_shape), (None, file.classes)
        self._input = _only(name, "input", self._session.get_inputs(), "tensor(uint8)", shape)
        self._output = _only(name, "output", self._session.get_outputs(), "tensor(float)", rows)
        self.providers: list[str] = self._session.get_providers()

    @property
    def device(self) -> str:
        """Where the graph runs: `cuda` or `cpu`."""
        return "cuda" if _CUDA in self.providers else "cpu"

    def run(self, images: UInt8Array) -> FloatArray:
        """Return probabilities, float32 (N, classes), of uint8 N·H·W·C images.

        Raises:
            ArtifactError: the graph cannot compute them.
            DeviceError: the device failed.
        """
        try:
            (probabilities,) = self._session.run([self._output], {self._input: images})
        except Exception as error:
            raise _failure_of_run(error, len(images), self.device) from error
        return np.asarray(probabilities, np.float32)

    def bound(self, shape: tuple[int, ...]) -> BoundRun:
        """Return a run of images of one shape, N·H·W·C, on buffers that stay on the device."""
        binding = self._session.io_binding()
        images = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.uint8), self.device, 0)
        binding.bind_ortvalue_input(self._input, images)
        binding.bind_output(self._output, self.device)
        return BoundRun(self._session, binding, images)


@dataclass(frozen=True)
class BoundRun:
    """Runs of one batch size on fixed device buffers, for one thread (ONNX Runtime's IO binding).

    Nothing is allocated on the device while serving, and a batch is copied to it once.
    """

    session: onnxruntime.InferenceSession
    binding: onnxruntime.IOBinding
    images: onnxruntime.OrtValue

    def run(self, images: UInt8Array) -> FloatArray:
        """Return probabilities, float32 (N, classes), of images of the bound shape.

        Raises:
            ArtifactError: the graph cannot compute them.
            DeviceError: the device failed.
        """
        try:
            self.images.update_inplace(images)
            self.session.run_with_iobinding(self.binding)
            return np.asarray(self.binding.copy_outputs_to_cpu()[0], np.float32)
        except Exception as error:
            raise _failure_of_run(error, len(images), self.images.device_name()) from error


def _only(
    file: str,
    role: str,
    found: Sequence[onnxruntime.NodeArg],
    element: str,
    shape: tuple[int | None, ...],
) -> str:
    """Return the name of the graph's only input or output; None in `shape` is any number.

    Raises:
        ArtifactError: it has several or none, or one of another type or shape.
    """
    expected = f"{element} of shape {_shape_text(shape)}"
    if len(found) != 1:
        raise errors.ArtifactError(f"{file}: expected one {role}, {expected}, got {len(found)}")
    (value,) = found
    dims = list(value.shape)
    if value.type == element and (not dims or len(dims) == len(shape)):
        known = [(dim, size) for dim, size in zip(dims, shape, strict=False) if type(dim) is int]
        if all(dim == size for dim, size in known):
            return str(value.name)
    raise errors.ArtifactError(
        f"{file}: expected the {role} {value.name!r} to be {expected}, got {value.type} of shape "
        f"{_shape_text(dims)}"
    )


def _shape_text(shape: Sequence[int | str | None]) -> str:
    return "(" + ", ".join(str(size) if type(size) is int else "any" for size in shape) + ")"


def _failure_of_run(error: Exception, images: int, device: str) -> Exception:
    """Return the error to raise for a failed run: is the model at fault, or the device?

    A CPU does not fail by itself, so a node that fails there is the model's; so is an invalid
    argument anywhere. On a GPU, CUDA's libraries name themselves when they fail.
    """
    reason = " ".join(str(error).split())[:_MOST_REASON]
    if device == "cpu" or not _CUDA_FAILURE.search(reason):
        return errors.ArtifactError(f"the graph fails on {images} image(s): {reason}")
    return errors.DeviceError(f"ONNX Runtime failed on {device}: {reason}")


class GuardedGraph:
    """A graph whose runs are recorded and watched, and begin only if a client still waits.

    Args:
        graph: executes the runs.
        health: told when the device fails, and asked how long a run lasts.
    """

    def __init__(self, graph: Graph, health: Health) -> None:
        self._graph, self._health = graph, health
        self.providers = graph.providers

    def run(self, images: UInt8Array) -> FloatArray:
        """Return probabilities, float32 (N, classes), of uint8 N·H·W·C images.

        Raises:
            RequestError: no client waits for the answer any more (499, 503).
            DeviceError: the runtime failed; the process is unhealthy from now on.
        """
        record = current_request()
        record.refuse_if_abandoned()
        begin = record.busy_ms()
        try:
            with self._health.running():
                probabilities = self._graph.run(images)
        except errors.DeviceError as error:
            self._health.fail(str(error), is_device_lost=_CUDA in self.providers)
            raise
        record.computed(len(images), record.busy_ms() - begin)
        return probabilities


class LargeImages:
    """Limits the pixels of large images that are decoded at once, first come, first served.

    Images of up to 8 megapixels, and baseline JPEGs of up to 32, never wait here.

    Args:
        limit: pixels; an image that has more is decoded while no other large one is.
        health: watches each image that is decoded, large or not.
    """

    def __init__(self, limit: int, health: Health | None = None) -> None:
        self._limit, self._health = max(1, limit), health or Health()
        self._used = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def decoding(self, header: ImageHeader) -> Iterator[None]:
        """Wait until the image of `header` may be decoded; count it as decoded after the block.

        The wait counts as queueing of the thread's current request.
        """
        pixels = header.width * header.height
        if header.format == "JPEG" and not header.is_progressive:
            pixels //= _JPEG_SHARE
        if pixels <= _FREE_PIXELS:
            with self._health.running(_DECODER):
                yield
            return
        pixels = min(pixels, self._limit)
        self._enter(pixels)
        try:
            with self._health.running(_DECODER):
                yield
        finally:
            with self._changed:
                self._used -= pixels
                self._changed.notify_all()

    def _enter(self, pixels: int) -> None:
        ticket, start = object(), time.monotonic()
        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(
                lambda: self._waiting[0] is ticket and self._used + pixels <= self._limit
            )
            self._waiting.popleft()
            self._used += pixels
            self._changed.notify_all()  # there may be room for the next one too
        current_request().waited(time.monotonic() - start)


class Model:
    """An artifact ready to answer.

    Args:
        artifact: verified artifact.
        graph: executes its graph.
        max_pixels: larger images are refused; None keeps the artifact's own limit.
        large_images: where large images wait for each other; None: they do not.

    Raises:
        ArtifactError: the first real prediction contradicts the artifact.
    """

    def __init__(
        self,
        artifact: Artifact,
        graph: Graph,
        max_pixels: int | None = None,
        large_images: LargeImages | None = None,
    ) -> None:
        self.artifact = artifact
        self._preprocessing = artifact.preprocessing
        if max_pixels is not None:
            self._preprocessing = replace(artifact.preprocessing, max_pixels=max_pixels)
        self._labels, self._is_multi_label = artifact.labels, artifact.is_multi_label
        self._classes = len(artifact.labels)
        self._graph, self._large_images = graph, large_images
        self._warm_up()

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
        starts = range(0, len(images), _TOGETHER)
        return [
            r for start in starts for r in self._predict_some(images[start : start + _TOGETHER])
        ]

    def _predict_some(self, images: Sequence[bytes | Failure]) -> list[Prediction | Failure]:
        """Predict as many images as run together."""
        failures: dict[int, Failure] = {}
        batch = self._empty(len(images))
        usable = 0
        with current_request().decoding():
            for index, image in enumerate(images):
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
        check_pixels(header.width, header.height, self._preprocessing.max_pixels)
        if self._large_images is None:
            preprocess(image, self._preprocessing, slot, header)
            return
        with self._large_images.decoding(header):
            current_request().refuse_if_abandoned()
            preprocess(image, self._preprocessing, slot, header)

    def _empty(self, count: int) -> UInt8Array:
        shape = self._preprocessing
        return np.empty((count, shape.height, shape.width, shape.channels), np.uint8)

    def _run(self, batch: UInt8Array) -> list[Prediction]:
        """Run the graph; an ArtifactError if it fails, or its answer is none."""
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
        gray = np.full((8, 8, 3), 127, np.uint8)  # within any limit of pixels
        self.predict([encode_jpeg(gray, 90)])
