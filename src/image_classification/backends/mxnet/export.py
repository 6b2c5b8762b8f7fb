"""The classifier as an ONNX file, checked against MXNet before it is written.

Shared backbones use the writer of all backends (`onnx_graph`). MXNet's own exporter writes those of
Gluon's zoo; its graph is then brought into the same form.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import onnx

from image_classification.backends import base, networks, onnx_graph
from image_classification.backends.mxnet.model import IMAGES, Graph
from image_classification.samples import FloatArray


def export(
    path: Path,
    spec: base.ModelSpec,
    graph: Graph,
    weights: Mapping[str, FloatArray],
    temperature: float,
    predict: onnx_graph.Predict,
) -> None:
    """Write the ONNX file of a graph with these weights; see `base.Engine.export`."""
    if networks.is_shared(spec.backbone):
        network = networks.network(spec.backbone, spec.input_shape)
        onnx_graph.write(path, network, weights, spec, temperature, predict)
        return
    exported = _exported(spec, graph, weights, temperature)
    onnx_graph.write_checked(path, exported, spec, temperature, predict)


def _exported(
    spec: base.ModelSpec, graph: Graph, weights: Mapping[str, FloatArray], temperature: float
) -> bytes:
    head = {name: mx.sym.var(name) for name in ("head.weight", "head.bias")}
    logits = mx.sym.FullyConnected(graph.features, *head.values(), num_hidden=spec.classes)
    if temperature != 1:
        logits = logits / temperature
    answer = mx.sym.sigmoid(logits) if spec.multi_label else mx.sym.softmax(logits, axis=1)
    arrays = {**weights, **graph.constants}
    inputs = dict(zip(graph.features.list_inputs(), graph.names, strict=True))
    params = {
        name: mx.nd.array(arrays[neutral]) for name, neutral in inputs.items() if neutral != IMAGES
    }
    params |= {name: mx.nd.array(arrays[name]) for name in head}
    channels, height, width = spec.input_shape
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder, "model.onnx")
        mx.onnx.export_model(
            answer,
            params,
            [(1, height, width, channels)],
            [np.uint8],
            str(path),
            dynamic=True,
            dynamic_input_shapes=[("batch", height, width, channels)],
        )
        model = onnx.load(path)
    _tidy(model)
    return onnx_graph.serialized(model)


def _tidy(model: onnx.ModelProto) -> None:
    """Remove weights from the inputs (ONNX Runtime would not fold them) and name the output."""
    graph = model.graph
    images = [value for value in graph.input if value.name == IMAGES]
    del graph.input[:]
    graph.input.extend(images)
    old = graph.output[0].name
    graph.output[0].name = "probabilities"
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = "probabilities"


@contextlib.contextmanager
def _quiet() -> Any:
    """Silence MXNet's exporter, which logs every node with the root logger."""
    level = logging.getLogger().level
    with contextlib.redirect_stdout(io.StringIO()):
        logging.getLogger().setLevel(logging.WARNING)
        try:
            yield
        finally:
            logging.getLogger().setLevel(level)
