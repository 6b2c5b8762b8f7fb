"""A shared backbone in TensorFlow: the layers of `backends/networks`, run one after another."""

from __future__ import annotations

import tensorflow as tf

from image_classification.backends import networks
from image_classification.backends.base import ModelSpec
from image_classification.backends.initial_weights import initial_tensor
from image_classification.backends.networks import Convolution
from image_classification.backends.tensorflow.model.layers import apply, is_depthwise
from image_classification.backends.tensorflow.model.weight import (
    CONVOLUTION,
    DEPTHWISE,
    Weight,
    new_weight,
)


class SharedTrunk:
    """See `Trunk`."""

    def __init__(self, spec: ModelSpec) -> None:
        self.network = networks.network(spec.backbone, spec.input_shape)
        self.width = self.network.width
        axes = {
            f"{layer.name}.weight": DEPTHWISE if is_depthwise(layer) else CONVOLUTION
            for layer in self.network.layers
            if isinstance(layer, Convolution)
        }
        self.weights: dict[str, Weight] = {
            name: new_weight(
                initial_tensor(name, shape, spec.seed), axes.get(name), ".running_" not in name
            )
            for name, shape in self.network.tensor_shapes().items()
        }

    def features(self, images: tf.Tensor, is_training: bool) -> tf.Tensor:
        """The output of the last layer for normalised images."""
        variables = {name: weight.variable for name, weight in self.weights.items()}
        values = {networks.INPUT: images}
        freed = self.network.last_uses()
        for layer, unused in zip(self.network.layers, freed, strict=True):
            inputs = [values[name] for name in layer.inputs]
            values[layer.name] = apply(layer, inputs, variables, is_training)
            for name in unused:
                del values[name]
        return values[self.network.layers[-1].name]

    def start_step(self, entropy: int) -> None:
        """Nothing here is random."""
