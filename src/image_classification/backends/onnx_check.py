"""A written ONNX graph against the model it came from, before anybody relies on it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime

from image_classification.backends.base import ModelSpec
from image_classification.errors import AlgorithmError
from image_classification.samples import FloatArray, UInt8Array

TOLERANCE = 1e-4  # largest difference of a probability between ONNX Runtime and the backend
_BATCHES = (1, 2, 7)

Predict = Callable[[UInt8Array], FloatArray]
"""Uint8 images N·H·W·C to logits, float32 (N, classes)."""


def check(graph: bytes, predict: Predict, spec: ModelSpec, temperature: float = 1.0) -> None:
    """Compare ONNX Runtime's probabilities with the backend's in batches of several sizes.

    Args:
        graph: the serialized ONNX model.
        predict: the backend's own logits of images.
        spec: of the model.
        temperature: > 0; what the graph divides the logits by.

    Raises:
        AlgorithmError: they differ by more than TOLERANCE, or are no finite numbers.
    """
    channels, height, width = spec.input_shape
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (max(_BATCHES), height, width, channels), np.uint8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # more of them spin beside the framework's: slower
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    for size in _BATCHES:
        batch = images[:size]
        logits = predict(batch)
        if not np.isfinite(logits).all():
            raise AlgorithmError("the model's own answers are no finite numbers: it has diverged")
        expected = probabilities_of(logits, spec, temperature)
        (probabilities,) = session.run(["probabilities"], {"images": batch})
        difference = float(np.abs(probabilities - expected).max())
        if not difference <= TOLERANCE:  # written so that a NaN fails as well
            raise AlgorithmError(
                f"the exported graph differs from the model by {difference:.2g} in a batch of "
                f"{size}; at most {TOLERANCE:g} is allowed"
            )


def probabilities_of(logits: FloatArray, spec: ModelSpec, temperature: float = 1.0) -> FloatArray:
    """Float32 (N, classes): a sigmoid of each logit, or a softmax over them."""
    scaled = logits.astype(np.float64) / temperature
    if spec.multi_label:
        return np.asarray(0.5 + 0.5 * np.tanh(scaled / 2), np.float32)
    odds = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True), np.float32)
