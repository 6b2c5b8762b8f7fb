"""Runs a graph with ONNX Runtime, and reports which one failed: the model or the device.

The only module that imports onnxruntime.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime

from image_classification import errors
from image_classification.artifact import GraphFile
from image_classification.contract import environment
from image_classification.samples import FloatArray, UInt8Array
from image_classification.serving.admission import GpuSettings, return_free_memory
from image_classification.serving.graph_file import check_graph
from image_classification.serving.graph_outputs import RANKS, Outputs, with_features
from image_classification.serving.half_precision import to_half

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
"""ONNX Runtime's names for the device that can be lost, and for the one that cannot."""

_CUDA_FAILURE = re.compile("(?:CUDA|CUDNN|CUBLAS|CUFFT|CURAND)[A-Z_]* (?:failure|error)|CUDA_ERROR")
_NO_GRAPH = re.compile("graph capture|cuda ?graph", re.IGNORECASE)
_NO_DEVICE_MEMORY = re.compile("Failed to allocate memory|out of memory|ALLOC_FAILED|BFCArena")
_MOST_REASON = 500  # characters of ONNX Runtime's text, which can repeat a shape of any length

_DEFAULT_SETTINGS = GpuSettings()

_logger = logging.getLogger(__name__)
_locked: list[UInt8Array] = []  # never freed: the driver knows its pages


class Graph(Protocol):
    """Executes the artifact's graph: a `Runtime`, or a wrapper of one.

    Attributes:
        providers: ONNX Runtime's names of what executes it.
        outputs: those of FEATURES and MAP that it has.
    """

    providers: list[str]
    outputs: frozenset[str]

    def run(self, images: UInt8Array) -> FloatArray:
        """Return probabilities, float32 (N, classes), of uint8 N·H·W·C images; from any thread."""

    def run_outputs(self, images: UInt8Array, wanted: Collection[str]) -> Outputs:
        """Return the probabilities and the wanted `outputs` of images, as `run` does."""


class Runtime:
    """An ONNX Runtime session; `run` may be called from several threads at once.

    Args:
        file: the graph, which is verified again: the same bytes that are loaded.
        threads: threads one run may use. Request threads share the session, so with as many
            request threads as CPUs one is right: two that spin for each other cost 4× (measured).
        device: cpu or cuda.
        settings: of a GPU.
        has_features: make features an output of a graph of format version 1 too.

    Raises:
        ArtifactError: the graph has changed, cannot be loaded, or needs more than its own file.
        UnusableDeviceError: ONNX Runtime cannot use the GPU, or not with the settings.
        MemoryError: the graph does not fit into the GPU's memory.
    """

    def __init__(
        self,
        file: GraphFile,
        threads: int = 1,
        device: str = "cpu",
        settings: GpuSettings = _DEFAULT_SETTINGS,
        has_features: bool = False,
    ) -> None:
        graph, name = file.read(), file.path
        self._settings, self._classes = settings, file.classes
        try:
            check_graph(graph)
            if has_features:
                graph = with_features(graph)
            if settings.is_half:
                graph = to_half(graph)
        except errors.ArtifactError as error:
            raise errors.ArtifactError(f"{name}: {error}") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # fatal; an error is raised too, and a request can cause it
        options.add_session_config_entry("session.load_model_format", "ONNX")
        is_gpu = device == "cuda"
        try:
            with _in_memory(graph) as source:
                # Without a fallback: a device that is lost would become a CPU that nobody planned.
                self._session = onnxruntime.InferenceSession(
                    source,
                    options,
                    _providers(settings) if is_gpu else [CPU],
                    enable_fallback=0,
                )
            if is_gpu and CUDA not in self._session.get_providers():
                raise errors.UnusableDeviceError(f"{_NO_PROVIDER}; {_WAYS_OUT}")
            inputs = [_Value.of(value) for value in self._session.get_inputs()]
            outputs = [_Value.of(value) for value in self._session.get_outputs()]
        except errors.UnusableDeviceError:
            raise
        except Exception as error:  # onnxruntime's errors share no public base class
            if is_gpu:
                _raise_failure_of_gpu(error, settings)
            raise errors.ArtifactError(f"{name}: ONNX Runtime cannot load it: {error}") from error
        shape, rows = (None, *file.input_shape), (None, file.classes)
        self._input = _only(name, "input", inputs, "tensor(uint8)", shape)
        answers = [value for value in outputs if value.name not in RANKS]
        self._output = _only(name, "output", answers, "tensor(float)", rows)
        # ONNX Runtime replays a CUDA graph with the outputs that it has recorded.
        self.outputs = frozenset(
            value.name
            for value in outputs
            if value.type == "tensor(float)" and len(value.shape) == RANKS.get(value.name)
            if not settings.has_cuda_graphs
        )
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
            MemoryError: the device has no memory for them now.
        """
        return self.run_outputs(images, (), frees=frees).probabilities

    def run_outputs(
        self, images: UInt8Array, wanted: Collection[str], *, frees: bool = False
    ) -> Outputs:
        """Return the probabilities and the wanted `outputs` of images, as `run` does."""
        options = onnxruntime.RunOptions()
        if frees:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        names = [name for name in RANKS if name in wanted]
        try:
            rows = self._session.run([self._output, *names], {self._input: images}, options)
        except Exception as error:
            raise _failure_of_run(error, len(images), self.device) from error
        return Outputs.of(len(images), rows[0], dict(zip(names, rows[1:], strict=True)))

    def host_buffer(self, shape: tuple[int, ...]) -> UInt8Array:
        """Return memory for the images of batches; for a GPU page-locked, and never freed."""
        images = np.zeros(shape, np.uint8)
        if self.device == "cuda":
            _lock_pages(images)
        return images

    def bound(self, shape: tuple[int, ...]) -> BoundRun:
        """Return a run of images of one shape, N·H·W·C, on buffers that stay on the device.

        With CUDA graphs, the first run of a size records its graph, and the probabilities have an
        address of their own too. All runs must be in the thread of the first one.
        """
        binding = self._session.io_binding()
        images = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.uint8), self.device, 0)
        binding.bind_ortvalue_input(self._input, images)
        options = onnxruntime.RunOptions()
        if self._settings.has_cuda_graphs:
            options.add_run_config_entry("gpu_graph_id", str(shape[0]))
            rows = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                (shape[0], self._classes), np.float32, self.device, 0
            )
            binding.bind_ortvalue_output(self._output, rows)
        else:
            binding.bind_output(self._output, self.device)
        return BoundRun(self._session, binding, images, options)


@dataclass(frozen=True)
class BoundRun:
    """Runs of one batch size on fixed device buffers, for one thread (ONNX Runtime's IO binding).

    Nothing is allocated on the device while serving, and a batch is copied to it once.
    """

    session: onnxruntime.InferenceSession
    binding: onnxruntime.IOBinding
    images: onnxruntime.OrtValue
    options: onnxruntime.RunOptions

    def run(self, images: UInt8Array) -> FloatArray:
        """Return probabilities, float32 (N, classes), of images of the bound shape.

        Raises:
            ArtifactError: the graph cannot compute them.
            DeviceError: the device failed.
        """
        try:
            self.images.update_inplace(images)
            self.session.run_with_iobinding(self.binding, self.options)
            return np.asarray(self.binding.copy_outputs_to_cpu()[0], np.float32)
        except Exception as error:
            raise _failure_of_run(error, len(images), self.images.device_name()) from error


def _lock_pages(images: UInt8Array) -> None:
    """Page-lock memory through the CUDA runtime that ONNX Runtime has loaded; log a refusal.

    Other memory goes through a buffer of the driver, while the copy holds Python's lock.
    """
    try:
        maps = Path("/proc/self/maps").read_text()
        found = re.search(r"/\S*/libcudart\.so\S*", maps)
        if found is None:
            raise OSError("libcudart is not loaded")
        library = ctypes.CDLL(found.group())
        address = ctypes.c_void_p(images.ctypes.data)
        status = library.cudaHostRegister(address, ctypes.c_size_t(images.nbytes), 0)
        if status:
            library.cudaGetLastError()  # or the next run would find the error and fail
            raise OSError(f"CUDA error {status}")
        _locked.append(images)
    except (OSError, AttributeError) as error:
        _logger.warning("Batches are copied to the GPU from pageable memory, slower: %s", error)


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


_NO_PROVIDER = (
    "this machine has an NVIDIA GPU, but ONNX Runtime cannot use it: the lines above have its "
    "reason, for example a CUDA library that is missing"
)
_WAYS_OUT = f"use our serve image, or set {environment.DEVICE.name}=cpu to compute on the CPU"


def _providers(settings: GpuSettings) -> list[Any]:
    """Return the providers of a session on a GPU, with their options.

    TF32 rounds to 10 bits: the served probabilities would differ from those of validation by 0.001
    (ResNet-50) to 0.003 (EfficientNet-Lite0), emulated. Memory grows by what is asked for, because
    the default doubles it, and several models share the device.
    """
    options = {
        "use_tf32": str(int(environment.TF32.read_switch())),
        "arena_extend_strategy": "kSameAsRequested",
    }
    if settings.prefers_nhwc:
        options["prefer_nhwc"] = "1"
    if settings.has_cuda_graphs:
        options["enable_cuda_graph"] = "1"
    return [(CUDA, options), CPU]


def _raise_failure_of_gpu(error: Exception, settings: GpuSettings) -> None:
    """Raise what a failed start on a GPU means, unless the graph is at fault."""
    reason = _reason(error)
    if settings.has_cuda_graphs and _NO_GRAPH.search(reason):
        raise errors.UnusableDeviceError(
            f"ONNX Runtime cannot run this model as a CUDA graph ({reason}); unset "
            f"{environment.CUDA_GRAPHS.name}"
        ) from error
    if _NO_DEVICE_MEMORY.search(reason):
        raise MemoryError(f"the GPU has no memory for the model: {reason}") from error
    if _CUDA_FAILURE.search(reason):
        raise errors.UnusableDeviceError(
            f"ONNX Runtime cannot use the GPU of this machine ({reason}); {_WAYS_OUT}"
        ) from error


def _reason(error: Exception) -> str:
    """Return ONNX Runtime's text from where it names the failure of a CUDA library, if it does.

    The signatures of its C++ functions are before that, and places in its source after it.
    """
    text = " ".join(str(error).split())
    found = _CUDA_FAILURE.search(text)
    if found is not None:
        text = text[found.start() :].partition(" ; GPU=")[0]
    return text[:_MOST_REASON]


def _failure_of_run(error: Exception, images: int, device: str) -> Exception:
    """Return the error to raise for a failed run: is the model at fault, or the device?

    A CPU does not fail by itself, so a node that fails there is the model's; so is an invalid
    argument anywhere. On a GPU, CUDA's libraries name themselves when they fail. A GPU without
    memory is not lost: the next run can have room.
    """
    reason = _reason(error)
    if device != "cpu" and _NO_DEVICE_MEMORY.search(reason):
        return MemoryError(f"{device} has no memory for {images} image(s) now: {reason}")
    if device == "cpu" or not _CUDA_FAILURE.search(reason):
        return errors.ArtifactError(f"the graph fails on {images} image(s): {reason}")
    return errors.DeviceError(f"ONNX Runtime failed on {device}: {reason}")
