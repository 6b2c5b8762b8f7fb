"""The graph that lies beside MXNet's weights: JSON with a list of nodes, read without MXNet.

Only what decides the meaning of the weights is looked at: the operators and their attributes.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from image_classification.backends.networks import Convolution, Network, Norm
from image_classification.errors import ArtifactError

Attributes = Mapping[str, str]
Nodes = dict[str, tuple[str, Attributes]]
"""Operator and attributes of each node by name, in the order they run."""

_MULTI_LABEL = {"LogisticRegressionOutput", "sigmoid"}
_SINGLE_LABEL = {"SoftmaxOutput", "Softmax", "softmax"}


def read_symbol(path: Path) -> Nodes:
    """The nodes of a `-symbol.json`; ArtifactError where it is none."""
    try:
        nodes = json.loads(path.read_text("utf-8"))["nodes"]
        return {node["name"]: (node["op"], _attributes(node)) for node in nodes}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path.name}: not an MXNet graph: {error!r}") from error


def _attributes(node: Mapping[str, Any]) -> Attributes:
    """They were called `param` and `attr` before MXNet 1.0."""
    return {**node.get("param", {}), **node.get("attr", {}), **node.get("attrs", {})}


def is_multi_label(nodes: Nodes) -> bool:
    """Whether the last operator is a sigmoid for each class instead of a softmax over all."""
    *_, (kind, attributes) = [("", {}), *nodes.values()]
    if kind in _SINGLE_LABEL:
        return False
    if kind in _MULTI_LABEL or (kind, attributes.get("act_type")) == ("Activation", "sigmoid"):
        return True
    raise ArtifactError(f"MXNet graph: it ends with {kind or 'nothing'}; expected SoftmaxOutput")


def has_fixed_scale(nodes: Nodes, name: str) -> bool:
    """Whether a BatchNorm ignores its scale, which is MXNet's default."""
    return nodes[name][1].get("fix_gamma", "True") in ("True", "1", "true")


def check_layers(nodes: Nodes, network: Network, names: Mapping[str, str]) -> None:
    """That the graph computes what the network does, layer for layer.

    Args:
        nodes: of the graph.
        network: what its weights are about to be used in.
        names: of each of the network's layers with weights, in the graph.

    Raises:
        ArtifactError: a layer is absent or has another stride, kernel, padding or epsilon.
    """
    for layer in network.layers:
        if isinstance(layer, Convolution):
            (top, _), (left, _) = layer.padding
            expected: dict[str, object] = {
                "kernel": layer.kernel,
                "stride": (layer.stride, layer.stride),
                "pad": (top, left),
            }
            defaults = {"stride": "(1, 1)", "pad": "(0, 0)"}
        elif isinstance(layer, Norm):
            expected, defaults = {"eps": layer.epsilon}, {"eps": "0.001"}
        else:
            continue
        _, attributes = nodes.get(names[layer.name], ("", {}))
        for key, value in expected.items():
            written = attributes.get(key, defaults.get(key, "None"))
            if _value(written) != value:
                raise ArtifactError(
                    f"MXNet graph: {names[layer.name]} has {key}={written}, the ResNet of the "
                    f"built-in {value}; only its own models can be read"
                )


def _value(text: str) -> object:
    """A number or a tuple of numbers, as MXNet writes attributes."""
    try:
        value: object = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # MemoryError: nested too deep
        return text
    return value
