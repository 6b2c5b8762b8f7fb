"""A classifier: normalization, the trunk of a backbone, dropout and the head.

In: uint8 images (N, H, W, C). Out: logits, float32 (N, classes). Weights have neutral names and
layouts outside (see `backends/networks`), TensorFlow's inside (`weight`).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import tensorflow as tf

from image_classification.backends import import_errors, networks
from image_classification.backends.base import ModelSpec, State
from image_classification.backends.networks import Convolution
from image_classification.backends.state import initial_tensor
from image_classification.backends.tensorflow import catalog
from image_classification.backends.tensorflow.layers import (
    CONVOLUTION,
    DENSE,
    DEPTHWISE,
    Weight,
    apply,
    is_depthwise,
    new_weight,
)
from image_classification.backends.tensorflow.saved_model import SavedModelTrunk


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
        """The output of the last layer for normalized images."""
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


class Trunk(Protocol):
    """A backbone without head.

    Attributes:
        width: number of features.
        weights: by neutral name, in order.
    """

    width: int
    weights: dict[str, Weight]

    def features(self, images: tf.Tensor, is_training: bool) -> tf.Tensor:
        """(N, width) of normalized images (N, H, W, C); in training statistics move."""
        ...

    def start_step(self, entropy: int) -> None:
        """What the next training step draws at random follows from this number, 0 to 2³² − 1."""
        ...


class Classifier:
    """The network that is trained, evaluated and exported."""

    def __init__(self, trunk: Trunk, spec: ModelSpec) -> None:
        self.trunk = trunk
        # Not tensors: a traced function would capture them, and the exporter take them for inputs.
        self.mean, self.std = (np.array(values, np.float32) for values in (spec.mean, spec.std))
        head = {"head.weight": (spec.classes, trunk.width), "head.bias": (spec.classes,)}
        self.weights: dict[str, Weight] = dict(trunk.weights)
        for name, shape in head.items():
            axes = DENSE if len(shape) > 1 else None
            self.weights[name] = new_weight(initial_tensor(name, shape, spec.seed), axes)

    @property
    def head_weight(self) -> tf.Variable:
        """(features, classes)."""
        return self.weights["head.weight"].variable

    def features(
        self, images: tf.Tensor, is_training: bool = False, dtype: tf.DType = tf.float32
    ) -> tf.Tensor:
        """What the head sees: float32 (N, width) of uint8 images; `dtype` computes the trunk."""
        normalized = (tf.cast(images, tf.float32) - self.mean) / self.std
        return tf.cast(self.trunk.features(tf.cast(normalized, dtype), is_training), tf.float32)

    def head(self, features: tf.Tensor) -> tf.Tensor:
        """Logits (N, classes) of features (N, width)."""
        return tf.matmul(features, self.head_weight) + self.weights["head.bias"].variable

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        """Of uint8 images, in evaluation mode."""
        return self.head(self.features(images))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every weight, in the neutral layout."""
        return {name: weight.shape for name, weight in self.weights.items()}

    def state(self) -> State:
        """Copies of all weights by neutral name."""
        return {name: weight.neutral(weight.variable) for name, weight in self.weights.items()}

    def assign(self, arrays: State) -> None:
        """Take neutral arrays that fit; the weights that are not named stay."""
        for name, array in arrays.items():
            weight = self.weights[name]
            weight.variable.assign(weight.own(array))


def build(spec: ModelSpec) -> Classifier:
    """The classifier of a specification with weights drawn from its seed.

    Raises:
        BackendError: Keras cannot build that backbone for that input, or a SavedModel does not
            take it.
        ArtifactError: the folder of the specification has no SavedModel that may be loaded.
    """
    return Classifier(_trunk(spec), spec)


def _trunk(spec: ModelSpec) -> Trunk:
    if spec.backbone == "saved_model":
        return SavedModelTrunk(spec)
    if not spec.backbone.startswith(catalog.PREFIX):
        return SharedTrunk(spec)
    # Here: Keras takes two seconds to import.
    with import_errors(f"backbone {spec.backbone!r} needs Keras", "tensorflow"):
        from image_classification.backends.tensorflow.keras_trunk import KerasTrunk

    return KerasTrunk(spec)
