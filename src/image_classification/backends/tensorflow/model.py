"""A classifier: normalization, the trunk of a backbone and the head.

In: uint8 images (N, H, W, C). Out: logits, float32 (N, classes). Outside, weights have their
neutral layouts (`networks`); inside, TensorFlow's (`layers.Weight`).
"""

from typing import Protocol

import numpy as np
import tensorflow as tf

from image_classification.backends import base, import_errors, networks
from image_classification.backends.networks import layers
from image_classification.backends.state import initial_tensor
from image_classification.backends.tensorflow import catalog
from image_classification.backends.tensorflow import layers as tf_layers
from image_classification.backends.tensorflow.saved_model import SavedModelTrunk


class SharedTrunk:
    """The `Trunk` of a shared backbone."""

    def __init__(self, spec: base.ModelSpec) -> None:
        self.network = networks.network(spec.backbone, spec.input_shape)
        self.width = self.network.width
        axes = {
            f"{layer.name}.weight": tf_layers.convolution_axes(layer)
            for layer in self.network.layers
            if isinstance(layer, layers.Convolution)
        }
        self.weights: dict[str, tf_layers.Weight] = {
            name: tf_layers.new_weight(
                initial_tensor(name, shape, spec.seed), axes.get(name), ".running_" not in name
            )
            for name, shape in self.network.tensor_shapes().items()
        }

    def features(self, images: tf.Tensor, is_training: bool) -> tf.Tensor:
        variables = {name: weight.variable for name, weight in self.weights.items()}
        values = {layers.INPUT: images}
        freed = self.network.last_uses()
        for layer, unused in zip(self.network.layers, freed, strict=True):
            inputs = [values[name] for name in layer.inputs]
            values[layer.name] = tf_layers.apply(layer, inputs, variables, is_training)
            for name in unused:
                del values[name]
        return values[self.network.layers[-1].name]

    def start_step(self, entropy: int) -> None:
        """Nothing here is random."""


class Trunk(Protocol):
    """A backbone without its head.

    Attributes:
        width: number of features.
        weights: by neutral name.
    """

    width: int
    weights: dict[str, tf_layers.Weight]

    def features(self, images: tf.Tensor, is_training: bool) -> tf.Tensor:
        """Return (N, width) of normalized images (N, H, W, C); training updates statistics."""
        ...

    def start_step(self, entropy: int) -> None:
        """Seed the random numbers of the next training step with 0 to 2³² − 1."""
        ...


class Classifier:
    """The network that is trained, evaluated and exported."""

    def __init__(self, trunk: Trunk, spec: base.ModelSpec) -> None:
        self.trunk = trunk
        # Not tensors: a traced function would capture them, and the exporter make them inputs.
        self.mean, self.std = (np.array(values, np.float32) for values in (spec.mean, spec.std))
        head = {"head.weight": (spec.classes, trunk.width), "head.bias": (spec.classes,)}
        self.weights: dict[str, tf_layers.Weight] = dict(trunk.weights)
        for name, shape in head.items():
            axes = tf_layers.DENSE if len(shape) > 1 else None
            self.weights[name] = tf_layers.new_weight(initial_tensor(name, shape, spec.seed), axes)

    @property
    def head_weight(self) -> tf.Variable:
        """(features, classes)."""
        return self.weights["head.weight"].variable

    def features(
        self, images: tf.Tensor, is_training: bool = False, dtype: tf.DType = tf.float32
    ) -> tf.Tensor:
        """Return the head's input, float32 (N, width), of uint8 images; the trunk uses `dtype`."""
        normalized = (tf.cast(images, tf.float32) - self.mean) / self.std
        return tf.cast(self.trunk.features(tf.cast(normalized, dtype), is_training), tf.float32)

    def head(self, features: tf.Tensor) -> tf.Tensor:
        return tf.matmul(features, self.head_weight) + self.weights["head.bias"].variable

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        """Return logits (N, classes) of uint8 images, in evaluation mode."""
        return self.head(self.features(images))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each weight in the neutral layout."""
        return {name: weight.shape for name, weight in self.weights.items()}

    def state(self) -> base.State:
        """Return copies of all weights by neutral name."""
        return {name: weight.neutral(weight.variable) for name, weight in self.weights.items()}

    def assign(self, arrays: base.State) -> None:
        """Set the named weights to arrays in the neutral layout, checked already."""
        for name, array in arrays.items():
            weight = self.weights[name]
            weight.variable.assign(weight.own(array))


def build(spec: base.ModelSpec) -> Classifier:
    """Return a classifier with weights drawn from the seed of `spec`.

    Raises:
        BackendError: Keras cannot build the backbone for this input, or the SavedModel does not
            accept it.
        ArtifactError: `spec.folder` contains no SavedModel that can be loaded.
    """
    return Classifier(_trunk(spec), spec)


def _trunk(spec: base.ModelSpec) -> Trunk:
    if spec.backbone == "saved_model":
        return SavedModelTrunk(spec)
    if not spec.backbone.startswith(catalog.PREFIX):
        return SharedTrunk(spec)
    # Imported here: Keras takes two seconds.
    with import_errors(f"backbone {spec.backbone!r} needs Keras", "tensorflow"):
        from image_classification.backends.tensorflow.keras_trunk import KerasTrunk

    return KerasTrunk(spec)
