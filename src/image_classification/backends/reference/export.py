"""The classifier as an ONNX file, by the writer of all backends."""

from pathlib import Path

from image_classification.backends import onnx_graph
from image_classification.backends.reference.model import Classifier
from image_classification.samples import FloatArray


def export(
    classifier: Classifier,
    tensors: dict[str, FloatArray],
    path: Path,
    temperature: float,
    predict: onnx_graph.Predict,
) -> None:
    """Write the ONNX file of a classifier with these tensors; see `base.Engine.export`."""
    onnx_graph.write(path, classifier.network, tensors, classifier.spec, temperature, predict)
