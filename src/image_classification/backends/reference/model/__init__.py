"""A classifier in NumPy: normalisation, a shared backbone and the head, forwards and backwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from image_classification.backends import networks
from image_classification.backends.base import ModelSpec
from image_classification.backends.initial_weights import initial_tensor
from image_classification.backends.networks import Norm
from image_classification.backends.reference.model import operations
from image_classification.data.samples import FloatArray, UInt8Array

Array = npt.NDArray[Any]


@dataclass
class Pass:
    """What a training pass leaves for the way back.

    Attributes:
        values: each layer's output by name.
        statistics: each BatchNorm's new running statistics by neutral name.
    """

    values: dict[str, Array] = field(default_factory=dict)
    statistics: dict[str, FloatArray] = field(default_factory=dict)


class Classifier:
    """The network and its tensors: float32 by neutral name, what is saved and exchanged.

    Args:
        spec: of the model; its initial weights follow from `seed`.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.network = networks.network(spec.backbone, spec.input_shape)
        width = self.network.width
        shapes = self.network.tensor_shapes()
        shapes |= {"head.weight": (spec.classes, width), "head.bias": (spec.classes,)}
        self.tensors = {
            name: initial_tensor(name, shape, spec.seed) for name, shape in shapes.items()
        }
        prefix = "head." if spec.train_only_head else ""
        self.learning = [
            name for name in shapes if name.startswith(prefix) and ".running_" not in name
        ]

    def features(self, images: UInt8Array, tensors: dict[str, FloatArray] | None = None) -> Array:
        """Float64 (N, width) of uint8 images (N, H, W, C), with the running statistics.

        `tensors` replace the classifier's own.
        """
        exact = _exact(self.tensors if tensors is None else tensors)
        values = {networks.INPUT: self._normalised(images)}
        for layer, freed in zip(self.network.layers, self.network.last_uses(), strict=True):
            inputs = [values[name] for name in layer.inputs]
            values[layer.name] = operations.forward(layer, inputs, exact)
            for name in freed:
                del values[name]
        return values[self.network.layers[-1].name]

    def training_features(self, images: UInt8Array) -> tuple[Array, Pass]:
        """The same with the batch's statistics, and what `gradients` needs."""
        made = Pass({networks.INPUT: self._normalised(images)})
        tensors = _exact(self.tensors)
        for layer in self.network.layers:
            inputs = [made.values[name] for name in layer.inputs]
            if isinstance(layer, Norm):
                of_batch = operations.statistics(inputs[0])
                for kind, batch in zip(("mean", "var"), of_batch, strict=True):
                    name = f"{layer.name}.running_{kind}"
                    running = layer.momentum * tensors[name] + (1 - layer.momentum) * batch
                    made.statistics[name] = running.astype(np.float32)
                    tensors[name] = batch
            made.values[layer.name] = operations.forward(layer, inputs, tensors)
        return made.values[self.network.layers[-1].name], made

    def gradients(self, made: Pass, of_features: Array) -> dict[str, Array]:
        """Of every weight of the network, from the gradient of the features (N, width)."""
        layers, tensors = self.network.layers, _exact(self.tensors)
        of_values, of_tensors = {layers[-1].name: of_features}, {}
        for layer in reversed(layers):
            inputs = [made.values[name] for name in layer.inputs]
            gradient, output = of_values.pop(layer.name), made.values[layer.name]
            of_inputs, of_own = operations.backward(layer, inputs, output, gradient, tensors)
            of_tensors.update(of_own)
            for name, part in zip(layer.inputs, of_inputs, strict=True):
                of_values[name] = of_values[name] + part if name in of_values else part
        return of_tensors

    def _normalised(self, images: UInt8Array) -> Array:
        pixels = images.transpose(0, 3, 1, 2).astype(np.float64)
        mean, std = (np.reshape(v, (-1, 1, 1)) for v in (self.spec.mean, self.spec.std))
        return np.asarray((pixels - mean) / std)


def _exact(tensors: dict[str, FloatArray]) -> dict[str, Array]:
    return {name: tensor.astype(np.float64) for name, tensor in tensors.items()}


def head(features: Array, tensors: dict[str, FloatArray]) -> Array:
    """Logits, float64 (N, classes)."""
    return features @ tensors["head.weight"].astype(np.float64).T + tensors["head.bias"]
