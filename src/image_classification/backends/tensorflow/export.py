"""The classifier as an ONNX file, checked against TensorFlow before it is written.

Shared backbones use the writer of all backends (`onnx_graph`); tf2onnx translates the others.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf

from image_classification.backends import base, import_errors, onnx_graph
from image_classification.backends.tensorflow.model import Classifier, SharedTrunk
from image_classification.errors import BackendError


def _graph_bytes(classifier: Classifier, spec: base.ModelSpec, temperature: float) -> bytes:
    with import_errors(f"the export of backbone {spec.backbone!r} needs tf2onnx", "tensorflow"):
        import tf2onnx
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    function = probabilities_function(classifier, spec, temperature)
    try:
        with tf.device("/CPU:0"), _inlined():
            model, _ = tf2onnx.convert.from_function(
                function,
                input_signature=function.input_signature,
                opset=onnx_graph.OPSET,
                custom_op_handlers={"Erfc": (_erfc, [])},
            )
        return onnx_graph.serialized(model)
    except (
        *(ValueError, RuntimeError, TypeError, KeyError),
        *(tf.errors.OpError, onnx.checker.ValidationError),
    ) as error:
        reason = " ".join(str(error).split())[:300]
        raise BackendError(
            f"tf2onnx cannot translate backbone {spec.backbone!r} into a graph: {reason}"
        ) from error


def probabilities_function(classifier: Classifier, spec: base.ModelSpec, temperature: float) -> Any:
    """Return a traced function of uint8 images to `{"probabilities": …}`."""
    channels, height, width = spec.input_shape
    images = tf.TensorSpec([None, height, width, channels], tf.uint8, name="images")

    def probabilities(images: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = classifier.logits(images) / temperature
        activation = tf.sigmoid if spec.multi_label else tf.nn.softmax
        return {"probabilities": activation(logits)}

    return tf.function(probabilities, input_signature=[images])


@contextmanager
def _inlined() -> Iterator[None]:
    """Inline the functions that a traced function calls.

    Keras lets XLA compile a convolution in groups (ConvNeXt's); tf2onnx cannot translate that call.
    """
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _erfc(context: Any, node: Any, *_: Any, **__: Any) -> None:
    """Translate 1 − erf(x) of GELU in place, which tf2onnx cannot."""
    value, output, dtypes, shapes = (
        node.input[0],
        node.output,
        node.output_dtypes,
        node.output_shapes,
    )
    one = context.make_const(f"{node.name}.one", np.array(1.0, np.float32))
    context.remove_node(node.name)
    erf = context.make_node("Erf", [value], dtypes=dtypes, shapes=shapes)
    context.make_node(
        "Sub", [one.output[0], erf.output[0]], outputs=output, dtypes=dtypes, shapes=shapes
    )


def export(
    classifier: Classifier,
    spec: base.ModelSpec,
    path: Path,
    temperature: float,
    predict: onnx_graph.Predict,
) -> None:
    """Write the ONNX file of a classifier; see `base.Engine.export`."""
    if isinstance(classifier.trunk, SharedTrunk):
        network, weights = classifier.trunk.network, classifier.state()
        onnx_graph.write(path, network, weights, spec, temperature, predict)
        return
    graph = _graph_bytes(classifier, spec, temperature)
    onnx_graph.write_checked(path, graph, spec, temperature, predict)
