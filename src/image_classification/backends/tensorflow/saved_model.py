"""A SavedModel as a backbone, from TensorFlow Hub, the closed built-in or Keras.

In: a folder that contains a `saved_model.pb`; the model is callable with float32 images (N, H, W,
C), or its signature `serving_default` takes such images. Out: its output as features; maps are
averaged over their positions. Weights are `trunk.<number>.<own name>` in TensorFlow's layouts.
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

from image_classification.backends.base import ModelSpec
from image_classification.backends.tensorflow.layers import Weight
from image_classification.errors import ArtifactError, BackendError

MODEL_FILE = "saved_model.pb"

_VARIABLES = {"VarHandleOp", "ReadVariableOp", "VarIsInitializedOp", "DisableCopyOnRead"}
_ASSIGNMENTS = {"AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"}
_CALLS = {"StatefulPartitionedCall", "PartitionedCall", "If", "While", "Case", "Assert"}
_RANDOM = {"RandomUniform", "RandomStandardNormal", "RandomUniformInt", "TruncatedNormal"}
_INPUTS = {"Placeholder", "PlaceholderWithDefault", "NoOp"}
_WITH_EFFECTS = _VARIABLES | _ASSIGNMENTS | _CALLS | _RANDOM | _INPUTS
_FORBIDDEN = {  # TensorFlow registers these as free of effects
    *("ReadFile", "MatchingFiles", "ImmutableConst", "PyFuncStateless", "LoadAndRemapMatrix"),
    *("Restore", "RestoreSlice", "RestoreV2", "ShardedFilespec", "DebugIdentity"),
}
_SAVER_FUNCTIONS = ("__inference__traced_save", "__inference__traced_restore")


def check_saved_model(folder: Path) -> bool:
    """Check the operations of a SavedModel without loading it; return whether any is random.

    Raises:
        ArtifactError: it is damaged, of TensorFlow 1, or has a forbidden operation.
    """
    path = folder / MODEL_FILE
    try:
        model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except (DecodeError, OSError) as error:
        raise ArtifactError(f"{path} is not a SavedModel: {error}") from error
    if len(model.meta_graphs) != 1 or not model.meta_graphs[0].HasField("object_graph_def"):
        raise ArtifactError(
            f"{path}: expected a SavedModel of TensorFlow 2, with one graph and its objects, got "
            "one of TensorFlow 1: load it with TensorFlow 2 and save it again"
        )
    is_random = False
    for function, operation in _operations(model.meta_graphs[0].graph_def):
        definition = op_def_registry.get(operation)
        is_known = definition is not None
        has_effects = is_known and definition.is_stateful and operation not in _WITH_EFFECTS
        if not is_known or has_effects or operation in _FORBIDDEN:
            raise ArtifactError(
                f"{path}: function {function!r} has the operation {operation!r}, which is unknown "
                "or uses files, Python or other resources outside the model; a backbone may only "
                "compute"
            )
        is_random |= _is_random(operation)
    return is_random


def _is_random(operation: str) -> bool:
    return "Random" in operation or operation == "TruncatedNormal"


def _operations(graph: Any) -> Iterator[tuple[str, str]]:
    """Yield (function, operation) of every function except those that save and restore.

    Those two are never called, because loading itself reads the variables; the main graph only
    calls them. A function of that name counts if another function calls it.
    """
    own = {function.signature.name: function.node_def for function in graph.library.function}
    called = {name for nodes in own.values() for name in _callees(nodes)}
    for name, nodes in own.items():
        if name.startswith(_SAVER_FUNCTIONS) and name not in called:
            continue
        for node in nodes:
            if node.op not in own:
                yield name, node.op


def _callees(nodes: Iterable[Any]) -> Iterator[str]:
    for node in nodes:
        yield node.op
        for value in node.attr.values():
            yield value.func.name
            yield from (function.name for function in value.list.func)


_logger = logging.getLogger(__name__)

_SIGNATURE = "serving_default"
_LAYER = re.compile(r"layer-(\d+)")

_Function = Callable[[tf.Tensor, bool], Any]
_Variables = list[tuple[tf.Variable, bool]]


class SavedModelTrunk:
    """The `model.Trunk` of the SavedModel in `spec.folder`.

    Attributes:
        head: `head.weight` and `head.bias` of a model that the closed built-in has fine-tuned, or
            None; the features are then those before that head.
    """

    def __init__(self, spec: ModelSpec) -> None:
        folder = find_saved_model(spec.folder)
        is_random = check_saved_model(folder)
        self._loaded = _load(folder)
        tuned = _fine_tuned_layers(self._loaded)
        if tuned:  # the dropout of its head, which is not used, says nothing about the features
            is_random = _draws_numbers(tuned[0])
        self._has_training_mode = not is_random
        if is_random:
            _logger.warning(
                "The SavedModel draws random numbers, which a resumed job could not repeat: "
                "training uses its evaluation mode (no dropout, BatchNorms keep their statistics)"
            )
        self.head = _head_of(tuned[1]) if tuned else None
        candidates, variables = _functions(tuned[0] if tuned else self._loaded, folder)
        self._function, features = _first_that_answers(candidates, spec.input_shape)
        self.width = int(features.shape[-1])
        self.weights = {
            f"trunk.{number}.{variable.name.split(':')[0].replace('/', '.')}": Weight(
                variable, tuple(range(len(variable.shape))), learns
            )
            for number, (variable, learns) in enumerate(variables)
        }

    def features(self, images: tf.Tensor, is_training: bool) -> tf.Tensor:
        return _pooled(
            self._function(tf.cast(images, tf.float32), self._has_training_mode and is_training)
        )

    def start_step(self, entropy: int) -> None:
        """Do nothing: the mode in use is not random."""


def find_saved_model(folder: Path | None) -> Path:
    """Return the folder of the only `saved_model.pb`; ArtifactError for none or several."""
    found = sorted(folder.rglob(MODEL_FILE)) if folder else []
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(folder or ".")) for path in found) or "none"
        raise ArtifactError(
            f"backbone=saved_model: expected one {MODEL_FILE} in the channel model, found {names}"
        )
    return found[0].parent


def _load(folder: Path) -> Any:
    try:
        return tf.saved_model.load(str(folder))
    except (ValueError, OSError, KeyError, AssertionError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ArtifactError(
            f"the SavedModel of the channel model cannot be loaded: {reason}"
        ) from error


def _fine_tuned_layers(loaded: Any) -> tuple[Any, Any] | None:
    """Return (features, head) of a model as the built-in's script saves it, or None.

    Its Keras layers are the input, the features, a dropout and the dense head `classification`.
    """
    numbers = {name: _LAYER.fullmatch(name) for name in vars(loaded)}
    found = sorted((int(match[1]), name) for name, match in numbers.items() if match)
    layers = [getattr(loaded, name) for _, name in found]
    if len(layers) < 3 or not callable(layers[-3]) or getattr(layers[-2], "variables", None):
        return None
    kernel, bias = getattr(layers[-1], "kernel", None), getattr(layers[-1], "bias", None)
    if kernel is None or bias is None or len(kernel.shape) != 2 or len(bias.shape) != 1:
        return None
    return (layers[-3], layers[-1]) if kernel.name.startswith("classification") else None


def _draws_numbers(layer: Any) -> bool:
    """Return whether a layer of a loaded model has a random operation."""
    for function in getattr(layer.__call__, "concrete_functions", ()):
        graph = function.graph.as_graph_def()
        nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
        if any(_is_random(node.op) for node in nodes):
            return True
    return False


def _head_of(dense: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Return the neutral weights of a dense layer; of one output, as two classes."""
    weight, bias = dense.kernel.numpy().T, dense.bias.numpy()
    if len(bias) == 1:  # softmax([-z/2, z/2]) is (1 - sigmoid(z), sigmoid(z))
        weight, bias = (np.concatenate([-value, value]) / 2 for value in (weight, bias))
    return {"head.weight": weight, "head.bias": bias}


def _functions(loaded: Any, folder: Path) -> tuple[list[_Function], _Variables]:
    """Return functions that may compute the features, the best first, and their variables."""
    if callable(loaded):
        # TensorFlow Hub's callables have a training mode.
        candidates = [
            lambda images, is_training: loaded(images, training=is_training),
            lambda images, _: loaded(images),
        ]
        traced = getattr(loaded.__call__, "concrete_functions", ())
        return candidates, _variables([v for function in traced for v in function.variables])
    signature = dict(loaded.signatures).get(_SIGNATURE)
    inputs = signature.structured_input_signature[1] if signature is not None else {}
    if signature is None or len(inputs) != 1:
        raise ArtifactError(
            f"{folder.name}: expected a SavedModel that is callable or has a signature "
            f"{_SIGNATURE!r} with one input, got neither"
        )
    (name,) = inputs
    # A signature has no training mode: BatchNorms keep their statistics.
    return [lambda images, _: signature(**{name: images})], _variables(signature.variables)


def _variables(captured: Iterable[tf.Variable]) -> _Variables:
    """Return each float32 variable once, and whether it learns."""
    once = {variable.ref(): variable for variable in captured}
    return [(v, bool(v.trainable)) for v in once.values() if v.dtype == tf.float32]


def _first_that_answers(
    candidates: Sequence[_Function], shape: tuple[int, int, int]
) -> tuple[_Function, tf.Tensor]:
    channels, height, width = shape
    images, reasons = tf.zeros([2, height, width, channels]), []
    for function in candidates:
        try:
            return function, _pooled(function(images, False))
        except (ValueError, TypeError, tf.errors.OpError) as error:
            reasons.append(" ".join(str(error).split())[:300])
    raise BackendError(
        f"the SavedModel of the channel model does not accept float32 images of {height} × "
        f"{width} × {channels}: set image_shape to its input shape ({reasons[-1]})"
    )


def _pooled(output: Any) -> tf.Tensor:
    if isinstance(output, dict):
        output = _only(output)
    if len(output.shape) == 4:
        output = tf.reduce_mean(output, axis=[1, 2])
    if len(output.shape) != 2 or output.dtype != tf.float32:
        raise BackendError(
            "the SavedModel of the channel model: expected float32 features (N, width) or maps "
            f"(N, H, W, C), got {output.dtype.name} of shape {output.shape}"
        )
    return output


def _only(outputs: dict[str, tf.Tensor]) -> tf.Tensor:
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    if "default" in outputs:  # TensorFlow Hub's name
        return outputs["default"]
    raise BackendError(
        "the SavedModel of the channel model: expected one output, or one called default, got "
        f"{', '.join(sorted(outputs))}"
    )
