"""Networks as MXNet symbols: from uint8 images to features, with the tensors they own.

In: a `ModelSpec`. Out: a `Graph`, whose inputs are `images` (uint8 N·H·W·C) and tensors by neutral
name (`stem.conv.weight`: (out, in / groups, height, width)), and whose output is float32 features
(N, width). The head is not in it: training draws what is dropped between the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mxnet as mx
import numpy as np

from image_classification.backends import networks
from image_classification.backends.base import ModelSpec
from image_classification.backends.mxnet.model import gluon, shared
from image_classification.data.samples import FloatArray

IMAGES = "images"


@dataclass(frozen=True)
class Graph:
    """A network without its head.

    Attributes:
        features: MXNet symbol of the output, for training.
        predicted: symbol of the same in prediction mode, with the same inputs.
        width: number of features.
        shapes: of every tensor by neutral name, learned ones and running statistics.
        names: the symbol's inputs in order, as neutral names; IMAGES is one of them.
        constants: inputs that never change and are not among `shapes`: mean and standard deviation
            of the images, and the scales of BatchNorms that learn none.
        has_dropout: whether the network itself drops values in training.
    """

    features: Any
    predicted: Any
    width: int
    shapes: dict[str, tuple[int, ...]]
    names: tuple[str, ...]
    constants: dict[str, FloatArray]
    has_dropout: bool = False


def build(spec: ModelSpec) -> Graph:
    """The graph of a specification.

    Raises:
        BackendError: the backbone cannot be built for images of that shape.
    """
    images = normalised(spec)
    if not networks.is_shared(spec.backbone):
        return gluon_graph(spec, images)
    network = networks.network(spec.backbone, spec.input_shape)
    features = shared.symbol(network, images)
    predicted = shared.symbol(network, images, learns=False)
    names = tuple(features.list_inputs())
    constants = {**_normalisation(spec), **shared.fixed_scales(network)}
    return Graph(features, predicted, network.width, network.tensor_shapes(), names, constants)


def gluon_graph(spec: ModelSpec, images: Any) -> Graph:
    """The graph of a network of Gluon's zoo; its tensors are named by their place in it."""
    network = gluon.network(spec, images)
    names = tuple(network.neutral_names.get(name, name) for name in network.symbol.list_inputs())
    return Graph(
        network.symbol,
        network.symbol,
        network.width,
        network.shapes,
        names,
        _normalisation(spec),
        network.has_dropout,
    )


def normalised(spec: ModelSpec) -> Any:
    """Symbol of the images as float32 N·C·H·W, minus mean, over standard deviation."""
    images = mx.sym.cast(mx.sym.var(IMAGES), dtype="float32")
    channels_first = mx.sym.transpose(images, axes=(0, 3, 1, 2))
    mean, std = (
        mx.sym.var(name, shape=values.shape) for name, values in _normalisation(spec).items()
    )
    return mx.sym.broadcast_div(mx.sym.broadcast_sub(channels_first, mean), std)


def _normalisation(spec: ModelSpec) -> dict[str, FloatArray]:
    shape = (1, spec.input_shape[0], 1, 1)
    named = {"images.mean": spec.mean, "images.std": spec.std}
    return {
        name: np.array(np.broadcast_to(np.reshape(values, (1, -1, 1, 1)), shape), np.float32)
        for name, values in named.items()
    }
