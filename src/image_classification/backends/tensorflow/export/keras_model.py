"""A classifier as a Keras model of plain layers: what a `.keras` file holds.

In: a `Classifier` on a shared or a Keras backbone. Out: a model of uint8 images N·H·W·C to
probabilities. No Lambda layer and no function of ours is in it, so that it loads in Keras's safe
mode, on a machine without this package.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from image_classification.backends import networks
from image_classification.backends.base import ModelSpec
from image_classification.backends.networks import (
    Activation,
    Add,
    Convolution,
    Layer,
    MaxPool,
    Mean,
    Norm,
)
from image_classification.backends.networks.layers import NO_PADDING
from image_classification.backends.tensorflow.model import Classifier
from image_classification.backends.tensorflow.model.keras_trunk import KerasTrunk
from image_classification.backends.tensorflow.model.layers import is_depthwise
from image_classification.backends.tensorflow.model.shared import SharedTrunk
from image_classification.errors import BackendError


def keras_model(classifier: Classifier, spec: ModelSpec, temperature: float) -> Any:
    """The model; its weights are copies.

    Raises:
        BackendError: the backbone is neither a shared nor a Keras one.
    """
    channels, height, width = spec.input_shape
    images = keras.Input((height, width, channels), dtype="uint8", name="images")
    std = np.broadcast_to(np.array(spec.std, np.float64), channels)
    offset = -np.broadcast_to(np.array(spec.mean, np.float64), channels) / std
    x = keras.layers.Rescaling((1 / std).tolist(), offset.tolist(), name="normalisation")(images)
    trunk = classifier.trunk
    if isinstance(trunk, SharedTrunk):
        features = _shared(trunk, x)
    elif isinstance(trunk, KerasTrunk):
        features = trunk.copy_on(_reversed(x) if trunk.is_bgr and channels == 3 else x)
    else:
        raise BackendError(f"backbone {spec.backbone!r} cannot be written as a Keras model")
    activation = "sigmoid" if spec.multi_label else "softmax"
    head = keras.layers.Dense(spec.classes, activation=activation, name="probabilities")
    model = keras.Model(images, head(features), name="classifier")
    dense = (classifier.weights[f"head.{tensor}"].variable for tensor in ("weight", "bias"))
    head.set_weights([variable.numpy() / temperature for variable in dense])
    return model


def _shared(trunk: SharedTrunk, x: Any) -> Any:
    values = {networks.INPUT: x}
    for layer in trunk.network.layers:
        inputs = [values[name] for name in layer.inputs]
        values[layer.name] = _applied(layer, inputs, trunk)
    return values[trunk.network.layers[-1].name]


def _applied(layer: Layer, inputs: list[Any], trunk: SharedTrunk) -> Any:
    x, name, layers = inputs[0], layer.name.replace(".", "_"), keras.layers
    if isinstance(layer, Convolution):
        return _convolution(layer, x, trunk)
    if isinstance(layer, Norm):
        norm = layers.BatchNormalization(
            momentum=layer.momentum, epsilon=layer.epsilon, scale=layer.learns_scale, name=name
        )
        y = norm(x)
        tensors = ("weight", "bias", "running_mean", "running_var")[not layer.learns_scale :]
        norm.set_weights([trunk.weights[f"{layer.name}.{t}"].variable.numpy() for t in tensors])
        return y
    if isinstance(layer, Activation):
        return layers.ReLU(max_value=layer.ceiling, name=name)(x)
    if isinstance(layer, MaxPool):  # of a ReLU's output: zeros never win
        padded = layers.ZeroPadding2D(layer.padding, name=f"{name}_pad")(x)
        return layers.MaxPooling2D(layer.kernel, layer.stride, name=name)(padded)
    if isinstance(layer, Add):
        return layers.Add(name=name)(inputs)
    if isinstance(layer, Mean):
        return layers.GlobalAveragePooling2D(name=name)(x)
    raise BackendError(f"backend 'tensorflow' has no layer {type(layer).__name__}")


def _convolution(layer: Convolution, x: Any, trunk: SharedTrunk) -> Any:
    name, options = layer.name.replace(".", "_"), {"strides": layer.stride, "use_bias": False}
    if layer.padding != NO_PADDING:
        x = keras.layers.ZeroPadding2D(layer.padding, name=f"{name}_pad")(x)
    if is_depthwise(layer):
        convolution = keras.layers.DepthwiseConv2D(layer.kernel, name=name, **options)
    else:
        options["groups"] = layer.groups
        convolution = keras.layers.Conv2D(layer.width, layer.kernel, name=name, **options)
    y = convolution(x)
    convolution.set_weights([trunk.weights[f"{layer.name}.weight"].variable.numpy()])
    return y


def _reversed(x: Any) -> Any:
    """Blue, green, red of red, green, blue: a convolution, as no plain layer reverses."""
    swap = keras.layers.Conv2D(3, 1, use_bias=False, trainable=False, name="bgr")
    y = swap(x)
    swap.set_weights([np.eye(3, dtype=np.float32)[::-1].reshape(1, 1, 3, 3)])
    return y
