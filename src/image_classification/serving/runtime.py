"""ONNX Runtime: executes an artifact's graph. The only module that imports onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from image_classification.errors import AlgorithmError, ArtifactError, DeviceError
from image_classification.samples import FloatArray, UInt8Array

_CUDA = "CUDAExecutionProvider"


class Runtime:
    """A session on an artifact's graph; `run` may be called from several threads at once.

    Args:
        model_file: the ONNX graph.
        threads: threads one run may use. Request threads share the session, so with as many
            request threads as CPUs one is right: two that spin for each other cost 4× (measured).
    """

    def __init__(self, model_file: Path, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        available = onnxruntime.get_available_providers()
        providers = [p for p in (_CUDA, "CPUExecutionProvider") if p in available]
        try:
            self._session = onnxruntime.InferenceSession(
                str(model_file), sess_options=options, providers=providers
            )
        except Exception as error:  # onnxruntime's errors share no public base class
            raise ArtifactError(f"{model_file}: ONNX Runtime cannot load it: {error}") from error
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name
        self.providers: list[str] = self._session.get_providers()

    @property
    def device(self) -> str:
        """Where the graph runs: `cuda` or `cpu`."""
        return "cuda" if _CUDA in self.providers else "cpu"

    def run(self, images: UInt8Array) -> FloatArray:
        """Probabilities, float32 (N, classes), of uint8 N·H·W·C images.

        Raises:
            DeviceError: the runtime failed.
        """
        try:
            (probabilities,) = self._session.run(None, {self._input: images})
        except InvalidArgument as error:
            raise AlgorithmError(f"the graph does not take its input: {error}") from error
        except Exception as error:
            raise DeviceError(f"ONNX Runtime failed on {self.device}: {error}") from error
        return np.asarray(probabilities, np.float32)

    def bound(self, shape: tuple[int, ...]) -> BoundRun:
        """A run of images of one shape, N·H·W·C, on buffers that stay on the device."""
        return BoundRun(self._session, self._input, self._output, shape, self.device)


class BoundRun:
    """Runs of one batch size on fixed device buffers, for one thread (ONNX Runtime's IO binding).

    Nothing is allocated on the device while serving, and a batch is copied to it once.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        input_name: str,
        output_name: str,
        shape: tuple[int, ...],
        device: str,
    ) -> None:
        self._session, self._device = session, device
        self._binding = session.io_binding()
        self._images = onnxruntime.OrtValue.ortvalue_from_numpy(
            np.zeros(shape, np.uint8), device, 0
        )
        self._binding.bind_ortvalue_input(input_name, self._images)
        self._binding.bind_output(output_name, device)

    def run(self, images: UInt8Array) -> FloatArray:
        """Probabilities, float32 (N, classes), of images of the bound shape.

        Raises:
            DeviceError: the runtime failed.
        """
        try:
            self._images.update_inplace(images)
            self._session.run_with_iobinding(self._binding)
            return np.asarray(self._binding.copy_outputs_to_cpu()[0], np.float32)
        except Exception as error:
            raise DeviceError(f"ONNX Runtime failed on {self._device}: {error}") from error
