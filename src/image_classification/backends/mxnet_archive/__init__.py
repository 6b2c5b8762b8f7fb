"""What the closed MXNet built-in leaves in its `model.tar.gz`, as a model of ours; without MXNet.

In: a folder with `image-classification-NNNN.params` (weights after epoch NNNN),
`image-classification-symbol.json` (the graph) and `model-shapes.json` (the input's shape). Out: a
`BuiltInModel`: backbone, shape and weights under our neutral names. The network is ResNet v2 of the
public example (apache/mxnet `example/image-classification/symbols/resnet.py`); anything else is
refused.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from image_classification.backends import networks
from image_classification.backends.base import WEIGHT_PREFIX, State
from image_classification.backends.mxnet_archive.params_file import Array, read_params
from image_classification.backends.mxnet_archive.symbol_file import (
    Nodes,
    check_layers,
    has_fixed_scale,
    is_multi_label,
    read_symbol,
)
from image_classification.backends.networks import Network, Norm
from image_classification.backends.shared_backbones import LARGE_DEPTHS, SMALL_DEPTHS
from image_classification.data.samples import FloatArray
from image_classification.errors import ArtifactError

SYMBOL_FILE = "image-classification-symbol.json"
SHAPES_FILE = "model-shapes.json"
MEAN = (123.68, 116.779, 103.939)
"""RGB, units of 0–255: what the public example subtracts; it divides by nothing."""

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
        backbone: in every catalog.
        input_shape: (channels, height, width).
        classes: width of its head.
        multi_label: whether each class has a probability of its own.
        epoch: number of its file.
        weights: `weight/<neutral name>` → float32, for images minus MEAN.
    """

    backbone: str
    input_shape: tuple[int, int, int]
    classes: int
    multi_label: bool
    epoch: int
    weights: State

    @property
    def mean(self) -> tuple[float, ...]:
        """What is subtracted from the images, one value for each channel."""
        return MEAN if self.input_shape[0] == 3 else (sum(MEAN) / 3,)

    def weights_for(self, mean: tuple[float, ...], std: tuple[float, ...]) -> State:
        """The same network for images that are normalised otherwise.

        The first layer is a BatchNorm with a fixed scale on the images: its running statistics take
        up the difference, and in training it computes them from the batch.
        """
        prefix, epsilon = f"{WEIGHT_PREFIX}input.bn.", _input_norm(self).epsilon
        theirs, ours, scale = (np.array(v, np.float64) for v in (self.mean, mean, std))
        old_mean = self.weights[prefix + "running_mean"].astype(np.float64)
        old_variance = self.weights[prefix + "running_var"].astype(np.float64)
        moved = (old_mean + theirs - ours) / scale
        scaled = (old_variance + epsilon) / scale**2 - epsilon
        return self.weights | {
            prefix + "running_mean": moved.astype(np.float32),
            prefix + "running_var": np.maximum(scaled, 0).astype(np.float32),
        }


def is_built_in(directory: Path) -> bool:
    """Whether a folder looks like an unpacked archive of the built-in."""
    return (directory / SYMBOL_FILE).is_file()


def read_built_in(directory: Path) -> BuiltInModel:
    """The model of an unpacked archive; of several epochs the last.

    Raises:
        ArtifactError: a file is missing or damaged, or the network is not the built-in's.
    """
    epochs = {
        int(match[1]): path
        for path in sorted(directory.iterdir())
        if (match := _PARAMS.fullmatch(path.name))
    }
    if not epochs or not is_built_in(directory):
        found = sorted(path.name for path in directory.iterdir())[:10]
        raise ArtifactError(
            f"not an archive of the MXNet built-in: expected image-classification-NNNN.params, "
            f"{SYMBOL_FILE} and {SHAPES_FILE}, found {', '.join(found) or 'nothing'}"
        )
    epoch = max(epochs)
    nodes = read_symbol(directory / SYMBOL_FILE)
    shape = _input_shape(directory / SHAPES_FILE)
    arrays = {name.partition(":")[2]: array for name, array in read_params(epochs[epoch]).items()}
    depth, network = _recognise(nodes, arrays, shape)
    weights = _weights(network, nodes, arrays, epochs[epoch].name)
    classes = len(weights[f"{WEIGHT_PREFIX}head.bias"])
    return BuiltInModel(f"resnet{depth}", shape, classes, is_multi_label(nodes), epoch, weights)


def _input_shape(path: Path) -> tuple[int, int, int]:
    """(channels, height, width) of the input called data: `[{"name": "data", "shape": […]}]`."""
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
        raise ArtifactError(f"{path.name}: images of shape {(channels, height, width)}")
    return channels, height, width


def _recognise(
    nodes: Nodes, arrays: dict[str, Array], shape: tuple[int, int, int]
) -> tuple[int, Network]:
    """The depth whose layers the graph has, and its network."""
    units = {name for name in nodes if re.fullmatch(r"stage\d_unit\d+_conv\d", name)}
    for depth in (*LARGE_DEPTHS, *SMALL_DEPTHS):
        network = networks.network(f"resnet{depth}", shape)
        names = {layer.name: _name(layer.name) for layer in network.layers if _name(layer.name)}
        if units == {name for name in names.values() if re.search(r"_conv\d", name)}:
            check_layers(nodes, network, names)
            return depth, network
    raise ArtifactError(
        f"MXNet graph: {len(units)} convolutions in units, which is no ResNet of the built-in "
        f"(num_layers {', '.join(map(str, sorted((*LARGE_DEPTHS, *SMALL_DEPTHS))))}); "
        f"its weights begin with {', '.join(sorted(arrays)[:3])}"
    )


def _weights(network: Network, nodes: Nodes, arrays: dict[str, Array], file: str) -> State:
    norms = {layer.name: layer for layer in network.layers if isinstance(layer, Norm)}
    weights: State = {}
    for name, shape in network.tensor_shapes().items():
        layer, _, tensor = name.rpartition(".")
        theirs = f"{_name(layer)}_{_OF_NORM[tensor] if layer in norms else tensor}"
        if layer in norms and tensor == "weight" and has_fixed_scale(nodes, _name(layer)):
            weights[WEIGHT_PREFIX + name] = np.ones(shape, np.float32)
        else:
            weights[WEIGHT_PREFIX + name] = _float32(arrays, theirs, file, shape)
    classes = len(_float32(arrays, _HEAD["head.bias"], file))
    shapes = {"head.weight": (classes, network.width), "head.bias": (classes,)}
    for name, shape in shapes.items():
        weights[WEIGHT_PREFIX + name] = _float32(arrays, _HEAD[name], file, shape)
    return weights


def _float32(
    arrays: dict[str, Array], name: str, file: str, shape: tuple[int, ...] | None = None
) -> FloatArray:
    array = arrays.get(name)
    if array is None or (shape is not None and array.shape != shape):
        received = "absent" if array is None else array.shape
        raise ArtifactError(f"{file}: {name} should be {shape or 'there'} and is {received}")
    return array.astype(np.float32)


def _name(layer: str) -> str:
    """The built-in's name of one of our layers with weights; "" for one without."""
    match = _IN_STAGE.fullmatch(layer)
    if match:
        return f"stage{match[1]}_unit{match[2]}_{match[3] or 'sc'}"
    return _OUTSIDE_STAGES.get(layer, "")


def _input_norm(model: BuiltInModel) -> Norm:
    first = networks.network(model.backbone, model.input_shape).layers[0]
    if not isinstance(first, Norm):
        raise TypeError(f"{model.backbone} does not begin with a BatchNorm")
    return first
