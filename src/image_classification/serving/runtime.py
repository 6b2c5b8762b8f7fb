"""ONNX Runtime: executes an artifact's graph. The only module that imports onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from image_classification.data.samples import FloatArray, UInt8Array
from image_classification.errors import ArtifactError


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
        providers = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in available]
        try:
            self._session = onnxruntime.InferenceSession(
                str(model_file), sess_options=options, providers=providers
            )
        except Exception as error:  # onnxruntime's errors share no public base class
            raise ArtifactError(f"{model_file}: ONNX Runtime cannot load it: {error}") from error
        self._input = self._session.get_inputs()[0].name
        self.providers: list[str] = self._session.get_providers()

    def run(self, images: UInt8Array) -> FloatArray:
        """Probabilities, float32 (N, classes), of uint8 N·H·W·C images."""
        (probabilities,) = self._session.run(None, {self._input: images})
        return np.asarray(probabilities, np.float32)
