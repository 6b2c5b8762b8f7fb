"""The classifier as an ONNX file, checked against TensorFlow before anybody relies on it."""

from __future__ import annotations

from pathlib import Path

from image_classification.backends import onnx_graph
from image_classification.backends.base import ModelSpec
from image_classification.backends.onnx_check import Predict, check
from image_classification.backends.tensorflow.export import traced
from image_classification.backends.tensorflow.model import Classifier
from image_classification.backends.tensorflow.model.shared import SharedTrunk
from image_classification.data import files


def export(
    classifier: Classifier, spec: ModelSpec, path: Path, temperature: float, predict: Predict
) -> None:
    """Write the file; the same weights give the same bytes.

    Args:
        classifier: whose weights are written; it is left as it was.
        spec: of the model.
        path: of the file to write; its folder exists.
        temperature: > 0; what the logits are divided by first.
        predict: the engine's own logits of images.

    Raises:
        AlgorithmError: ONNX Runtime and TensorFlow disagree by more than 1e-4.
    """
    if isinstance(classifier.trunk, SharedTrunk):
        network, weights = classifier.trunk.network, classifier.state()
        onnx_graph.write(path, network, weights, spec, temperature, predict)
        return
    graph = traced.graph_bytes(classifier, spec, temperature)
    check(graph, predict, spec, temperature)
    files.write_bytes(path, graph)
