"""What a SavedModel's functions may do, asked before TensorFlow loads them.

A SavedModel is a program: its operations could read files, write them, or call Python. One that
only computes needs none of that, so every operation of its functions must be one that computes, or
one of the few below that keep variables, draw random numbers or choose a branch.

Source of the format: tensorflow/core/protobuf/saved_model.proto; operations and whether they have
effects: TensorFlow's own register.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

from image_classification.errors import ArtifactError

MODEL_FILE = "saved_model.pb"

_VARIABLES = {"VarHandleOp", "ReadVariableOp", "VarIsInitializedOp", "DisableCopyOnRead"}
_ASSIGNMENTS = {"AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"}
_CALLS = {"StatefulPartitionedCall", "PartitionedCall", "If", "While", "Case", "Assert"}
_RANDOM = {"RandomUniform", "RandomStandardNormal", "RandomUniformInt", "TruncatedNormal"}
_INPUTS = {"Placeholder", "PlaceholderWithDefault", "NoOp"}
_WITH_EFFECTS = _VARIABLES | _ASSIGNMENTS | _CALLS | _RANDOM | _INPUTS
_FORBIDDEN = {  # registered as if they had no effect
    *("ReadFile", "MatchingFiles", "ImmutableConst", "PyFuncStateless", "LoadAndRemapMatrix"),
    *("Restore", "RestoreSlice", "RestoreV2", "ShardedFilespec", "DebugIdentity"),
}
_SAVER_FUNCTIONS = ("__inference__traced_save", "__inference__traced_restore")


def check_saved_model(folder: Path) -> bool:
    """Look at the program of a SavedModel without loading it; whether it draws random numbers.

    Raises:
        ArtifactError: it is damaged, of TensorFlow 1, or has an operation that is not allowed.
    """
    path = folder / MODEL_FILE
    try:
        model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    except (DecodeError, OSError) as error:
        raise ArtifactError(f"{path} is not a SavedModel: {error}") from error
    if len(model.meta_graphs) != 1 or not model.meta_graphs[0].HasField("object_graph_def"):
        raise ArtifactError(
            f"{path}: expected a SavedModel of TensorFlow 2, with one graph and its objects; this "
            "one is of TensorFlow 1: load and save it again with TensorFlow 2"
        )
    is_random = False
    for function, operation in _operations(model.meta_graphs[0].graph_def):
        definition = op_def_registry.get(operation)
        is_known = definition is not None
        has_effects = is_known and definition.is_stateful and operation not in _WITH_EFFECTS
        if not is_known or has_effects or operation in _FORBIDDEN:
            raise ArtifactError(
                f"{path}: function {function!r} has the operation {operation!r}, which reaches out "
                "of the model (files, Python, other resources) or is unknown; a backbone may only "
                "compute"
            )
        is_random |= "Random" in operation or operation == "TruncatedNormal"
    return is_random


def _operations(graph: Any) -> Iterator[tuple[str, str]]:
    """(function, operation) of every function but those that save and restore.

    Those two are not called: loading reads the variables by itself. The main graph holds nothing
    but calls of them. A function of that name which another one calls counts like the others.
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
