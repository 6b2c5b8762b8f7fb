"""The graph of a reference model, by the writer that all backends share."""

from __future__ import annotations

from pathlib import Path

from image_classification.backends import onnx_graph
from image_classification.backends.onnx_check import Predict
from image_classification.backends.reference.model import Classifier
from image_classification.samples import FloatArray


def export(
    classifier: Classifier,
    tensors: dict[str, FloatArray],
    path: Path,
    temperature: float,
    predict: Predict,
) -> None:
    """Write the ONNX file of `tensors`, checked against `predict`; see `onnx_graph.write`."""
    onnx_graph.write(path, classifier.network, tensors, classifier.spec, temperature, predict)
