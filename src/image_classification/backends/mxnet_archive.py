"""Read the model of the closed MXNet built-in from its `model.tar.gz`, without MXNet.

In: a folder with `image-classification-NNNN.params` (weights after epoch NNNN),
`image-classification-symbol.json` (the graph) and `model-shapes.json` (the input's shape). Out: a
`BuiltInModel` with backbone, shape and weights under neutral names. Only ResNet v2 of the public
example (apache/mxnet `example/image-classification/symbols/resnet.py`) is accepted.
"""

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from image_classification.backends import base, networks
from image_classification.backends.backbones import LARGE_DEPTHS, SMALL_DEPTHS
from image_classification.backends.networks import layers
from image_classification.errors import ArtifactError
from image_classification.samples import Array, FloatArray
from image_classification.weights.mxnet_file import read_params

Attributes = Mapping[str, str]
Nodes = dict[str, tuple[str, Attributes]]
"""Operator and attributes of each node by name, in the order in which they run."""

_MULTI_LABEL = {"LogisticRegressionOutput", "sigmoid"}
_SINGLE_LABEL = {"SoftmaxOutput", "Softmax", "softmax"}


def read_symbol(path: Path) -> Nodes:
    """Read the nodes of a `-symbol.json`; ArtifactError if it is not one."""
    try:
        nodes = json.loads(path.read_text("utf-8"))["nodes"]
        return {node["name"]: (node["op"], _attributes(node)) for node in nodes}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(
            f"{path.name} is not an MXNet graph ({error!r}): expected the file that the built-in "
            "or Symbol.save wrote; copy it again"
        ) from error


def _attributes(node: Mapping[str, Any]) -> Attributes:
    """Return a node's attributes, which were called `param` and `attr` before MXNet 1.0."""
    return {**node.get("param", {}), **node.get("attr", {}), **node.get("attrs", {})}


def is_multi_label(nodes: Nodes) -> bool:
    """Return whether the last operator is a sigmoid per class instead of a softmax over all."""
    *_, (kind, attributes) = [("", {}), *nodes.values()]
    if kind in _SINGLE_LABEL:
        return False
    if kind in _MULTI_LABEL or (kind, attributes.get("act_type")) == ("Activation", "sigmoid"):
        return True
    raise ArtifactError(f"MXNet graph: it ends with {kind or 'nothing'}; expected SoftmaxOutput")


def has_fixed_scale(nodes: Nodes, name: str) -> bool:
    """Return whether a BatchNorm ignores its scale, which is MXNet's default."""
    return nodes[name][1].get("fix_gamma", "True") in ("True", "1", "true")


def check_layers(nodes: Nodes, network: layers.Network, names: Mapping[str, str]) -> None:
    """Check that the graph computes the same as a network of ours, layer by layer.

    Args:
        nodes: of the graph.
        network: for the graph's weights.
        names: the graph's names of the network's layers with weights.

    Raises:
        ArtifactError: a layer is absent or has another stride, kernel, padding or epsilon.
    """
    for layer in network.layers:
        if isinstance(layer, layers.Convolution):
            (top, _), (left, _) = layer.padding
            expected: dict[str, object] = {
                "kernel": layer.kernel,
                "stride": (layer.stride, layer.stride),
                "pad": (top, left),
            }
            defaults = {"stride": "(1, 1)", "pad": "(0, 0)"}
        elif isinstance(layer, layers.Norm):
            expected, defaults = {"eps": layer.epsilon}, {"eps": "0.001"}
        else:
            continue
        _, attributes = nodes.get(names[layer.name], ("", {}))
        for key, value in expected.items():
            written = attributes.get(key, defaults.get(key, "None"))
            if _value(written) != value:
                raise ArtifactError(
                    f"MXNet graph: {names[layer.name]} has {key}={written}, but {value} in the "
                    "ResNet of the built-in; only models of the built-in can be read"
                )


def _value(text: str) -> object:
    """Read a number or a tuple of numbers, as MXNet writes attributes."""
    try:
        value: object = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # MemoryError: nested too deep
        return text
    return value


SYMBOL_FILE = "image-classification-symbol.json"
SHAPES_FILE = "model-shapes.json"
MEAN = (123.68, 116.779, 103.939)
"""RGB, in units of 0–255, which the public example subtracts; it does not divide."""

_PARAMS = re.compile(r"image-classification-(\d{4})\.params")
_OUTSIDE_STAGES = {"input.bn": "bn_data", "stem.conv": "conv0", "stem.bn": "bn0", "final.bn": "bn1"}
_IN_STAGE = re.compile(r"stage(\d)\.block(\d+)\.(?:(bn\d|conv\d)|shortcut)")
_OF_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_var",
}
_HEAD = {"head.weight": "fc1_weight", "head.bias": "fc1_bias"}


@dataclass(frozen=True)
class BuiltInModel:
    """A model of the MXNet built-in.

    Attributes:
        backbone: its name in every catalog.
        input_shape: (channels, height, width).
        classes: width of the head.
        multi_label: whether each class has a probability of its own.
        epoch: number of the file.
        weights: `weight/<neutral name>` → float32, for images minus MEAN.
    """

    backbone: str
    input_shape: tuple[int, int, int]
    classes: int
    multi_label: bool
    epoch: int
    weights: base.State

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean that is subtracted from the images, one value per channel."""
        return MEAN if self.input_shape[0] == 3 else (sum(MEAN) / 3,)

    def weights_for(self, mean: tuple[float, ...], std: tuple[float, ...]) -> base.State:
        """Return weights with which the network gives the same for another normalization.

        The first layer is a BatchNorm with a fixed scale on the images: its running statistics
        absorb the difference, and training computes them from the batch.
        """
        prefix, epsilon = f"{base.WEIGHT_PREFIX}input.bn.", _input_norm(self).epsilon
        theirs, ours, scale = (np.array(v, np.float64) for v in (self.mean, mean, std))
        old_mean = self.weights[prefix + "running_mean"].astype(np.float64)
        old_variance = self.weights[prefix + "running_var"].astype(np.float64)
        moved = (old_mean + theirs - ours) / scale
        scaled = (old_variance + epsilon) / scale**2 - epsilon
        return self.weights | {
            prefix + "running_mean": moved.astype(np.float32),
            prefix + "running_var": np.maximum(scaled, 0).astype(np.float32),
        }


def read_built_in(directory: Path) -> BuiltInModel:
    """Read the model of an unpacked archive, after its last epoch.

    Raises:
        ArtifactError: a file is missing or damaged, or the network is not the built-in's.
    """
    epochs = {
        int(match[1]): path
        for path in sorted(directory.iterdir())
        if (match := _PARAMS.fullmatch(path.name))
    }
    if not epochs or not (directory / SYMBOL_FILE).is_file():
        found = sorted(path.name for path in directory.iterdir())[:10]
        raise ArtifactError(
            "not an archive of the MXNet built-in: expected image-classification-NNNN.params, "
            f"{SYMBOL_FILE} and {SHAPES_FILE}, found {', '.join(found) or 'nothing'}"
        )
    epoch = max(epochs)
    nodes = read_symbol(directory / SYMBOL_FILE)
    shape = _input_shape(directory / SHAPES_FILE)
    arrays = {name.partition(":")[2]: array for name, array in read_params(epochs[epoch]).items()}
    depth, network = _recognize(nodes, arrays, shape)
    weights = _weights(network, nodes, arrays, epochs[epoch].name)
    classes = len(weights[f"{base.WEIGHT_PREFIX}head.bias"])
    return BuiltInModel(f"resnet{depth}", shape, classes, is_multi_label(nodes), epoch, weights)


def _input_shape(path: Path) -> tuple[int, int, int]:
    """Read (channels, height, width) from `[{"name": "data", "shape": […]}]`."""
    try:
        entries = json.loads(path.read_text("utf-8"))
        (shape,) = (entry["shape"] for entry in entries if entry["name"] == "data")
        _, channels, height, width = map(int, shape)
    except (OSError, ArithmeticError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ArtifactError(
            f'{path.name}: expected [{{"name": "data", "shape": [1, channels, height, width]}}]: '
            f"{error!r}"
        ) from error
    if channels not in (1, 3) or min(height, width) < 1:
        raise ArtifactError(
            f"{path.name}: expected images with 1 or 3 channels and sides of at least 1, got "
            f"{(channels, height, width)}"
        )
    return channels, height, width


def _recognize(
    nodes: Nodes, arrays: dict[str, Array], shape: tuple[int, int, int]
) -> tuple[int, layers.Network]:
    """Find the depth with the same layers as the graph; return it and its network."""
    units = {name for name in nodes if re.fullmatch(r"stage\d_unit\d+_conv\d", name)}
    for depth in (*LARGE_DEPTHS, *SMALL_DEPTHS):
        network = networks.network(f"resnet{depth}", shape)
        names = {layer.name: _name(layer.name) for layer in network.layers if _name(layer.name)}
        if units == {name for name in names.values() if re.search(r"_conv\d", name)}:
            check_layers(nodes, network, names)
            return depth, network
    raise ArtifactError(
        "MXNet graph: expected a ResNet of the built-in (num_layers "
        f"{', '.join(map(str, sorted((*LARGE_DEPTHS, *SMALL_DEPTHS))))}), got {len(units)} "
        f"convolutions in units; its first weights are {', '.join(sorted(arrays)[:3])}"
    )


def _weights(
    network: layers.Network, nodes: Nodes, arrays: dict[str, Array], file: str
) -> base.State:
    norms = {layer.name: layer for layer in network.layers if isinstance(layer, layers.Norm)}
    weights: base.State = {}
    for name, shape in network.tensor_shapes().items():
        layer, _, tensor = name.rpartition(".")
        theirs = f"{_name(layer)}_{_OF_NORM[tensor] if layer in norms else tensor}"
        if layer in norms and tensor == "weight" and has_fixed_scale(nodes, _name(layer)):
            weights[base.WEIGHT_PREFIX + name] = np.ones(shape, np.float32)
        else:
            weights[base.WEIGHT_PREFIX + name] = _float32(arrays, theirs, file, shape)
    classes = len(_float32(arrays, _HEAD["head.bias"], file))
    shapes = {"head.weight": (classes, network.width), "head.bias": (classes,)}
    for name, shape in shapes.items():
        weights[base.WEIGHT_PREFIX + name] = _float32(arrays, _HEAD[name], file, shape)
    return weights


def _float32(
    arrays: dict[str, Array], name: str, file: str, shape: tuple[int, ...] | None = None
) -> FloatArray:
    array = arrays.get(name)
    if array is None or (shape is not None and array.shape != shape):
        received = "absent" if array is None else array.shape
        raise ArtifactError(f"{file}: {name} should be {shape or 'present'} and is {received}")
    return array.astype(np.float32)


def _name(layer: str) -> str:
    """Return the built-in's name of a layer with weights; "" for other layers."""
    match = _IN_STAGE.fullmatch(layer)
    if match:
        return f"stage{match[1]}_unit{match[2]}_{match[3] or 'sc'}"
    return _OUTSIDE_STAGES.get(layer, "")


def _input_norm(model: BuiltInModel) -> layers.Norm:
    first = networks.network(model.backbone, model.input_shape).layers[0]
    if not isinstance(first, layers.Norm):
        raise TypeError(f"{model.backbone} does not begin with a BatchNorm")
    return first
