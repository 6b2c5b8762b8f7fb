"""Runs a graph with ONNX Runtime, and reports which one failed: the model or the device.

The only module that imports onnxruntime.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnxruntime

from image_classification import errors
from image_classification.artifact import GraphFile
from image_classification.samples import FloatArray, UInt8Array
from image_classification.serving.admission import return_free_memory
from image_classification.serving.graph_file import check_graph

CUDA = "CUDAExecutionProvider"
"""ONNX Runtime's name for the device that can be lost."""

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
        file: the graph, which is verified again: the same bytes that are loaded.
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
        providers = [p for p in (CUDA, "CPUExecutionProvider") if p in available]
        try:
            with _in_memory(graph) as source:
                self._session = onnxruntime.InferenceSession(
                    source, options, providers, enable_fallback=CUDA in providers
                )
            inputs = [_Value.of(value) for value in self._session.get_inputs()]
            outputs = [_Value.of(value) for value in self._session.get_outputs()]
        except Exception as error:  # onnxruntime's errors share no public base class
            raise errors.ArtifactError(f"{name}: ONNX Runtime cannot load it: {error}") from error
        shape, rows = (None, *file.input_shape), (None, file.classes)
        self._input = _only(name, "input", inputs, "tensor(uint8)", shape)
        self._output = _only(name, "output", outputs, "tensor(float)", rows)
        self.providers: list[str] = self._session.get_providers()
        return_free_memory()  # 27 MB of 60 with EfficientNet-Lite0

    @property
    def device(self) -> str:
        """Where the graph runs: `cuda` or `cpu`."""
        return "cuda" if CUDA in self.providers else "cpu"

    def run(self, images: UInt8Array, *, frees: bool = False) -> FloatArray:
        """Return probabilities, float32 (N, classes), of uint8 N·H·W·C images.

        Args:
            images: of any number.
            frees: whether to give back the memory of the run, which takes a third more CPU time.

        Raises:
            ArtifactError: the graph cannot compute them.
            DeviceError: the device failed.
        """
        options = onnxruntime.RunOptions()
        if frees:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        try:
            (probabilities,) = self._session.run([self._output], {self._input: images}, options)
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


@contextmanager
def _in_memory(graph: bytes) -> Iterator[str | bytes]:
    """Yield what ONNX Runtime can load, out of everybody's reach.

    A file in memory is free once it is loaded; ONNX Runtime would keep bytes (13 MB of 51).
    """
    if sys.platform != "linux":
        yield graph
        return
    with os.fdopen(os.memfd_create("graph"), "wb", buffering=0) as file:
        rest = memoryview(graph)
        while rest:
            rest = rest[file.write(rest) :]
        yield f"/proc/self/fd/{file.fileno()}"


@dataclass(frozen=True)
class _Value:
    """An input or output of a graph; a dimension is a number, a name or None."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]

    @classmethod
    def of(cls, value: onnxruntime.NodeArg) -> _Value:
        """Read it; an error of any class if its name is not text."""
        return cls(value.name, value.type, tuple(value.shape))


def _only(
    file: str,
    role: str,
    found: Sequence[_Value],
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
    dims = value.shape
    if value.type == element and (not dims or len(dims) == len(shape)):
        known = [(dim, size) for dim, size in zip(dims, shape, strict=False) if type(dim) is int]
        if all(dim == size for dim, size in known):
            return value.name
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
