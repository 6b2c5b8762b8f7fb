"""The layers of a shared network as TensorFlow operations on N·H·W·C.

In: a layer of `backends/networks`, the values it reads, its variables. Out: its value. Convolution
weights are (height, width, in / groups, out) here, except where each channel has a filter of its
own: those are (height, width, channels, 1), as TensorFlow's depthwise convolution has them.
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from image_classification.backends.networks import (
    Activation,
    Add,
    Convolution,
    Layer,
    MaxPool,
    Mean,
    Norm,
)
from image_classification.backends.networks.layers import NO_PADDING, Padding
from image_classification.errors import BackendError

Tensors = Mapping[str, tf.Variable]


def apply(
    layer: Layer, values: list[tf.Tensor], variables: Tensors, is_training: bool
) -> tf.Tensor:
    """The value of a layer; in training a Norm also moves its running statistics.

    Raises:
        BackendError: a kind of layer that this backend does not know.
    """
    x = values[0]
    if isinstance(layer, Convolution):
        return _convolve(layer, x, tf.cast(variables[f"{layer.name}.weight"], x.dtype))
    if isinstance(layer, Norm):
        return _normalise(layer, x, variables, is_training)
    if isinstance(layer, Activation):
        return _activate(layer, x)
    if isinstance(layer, MaxPool):
        padding = [[0, 0], *layer.padding, [0, 0]]  # of −∞: it never wins
        return tf.nn.max_pool2d(x, layer.kernel, layer.stride, padding)
    if isinstance(layer, Add):
        return tf.add(*values)
    if isinstance(layer, Mean):
        return tf.reduce_mean(x, axis=[1, 2])
    raise BackendError(f"backend 'tensorflow' has no layer {type(layer).__name__}")


def is_depthwise(layer: Convolution) -> bool:
    """Whether each channel has a filter of its own."""
    return layer.groups > 1 and layer.groups == layer.width_in == layer.width


def _convolve(layer: Convolution, x: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    padding, stride = _padding(layer.padding), layer.stride
    if is_depthwise(layer):
        return tf.nn.depthwise_conv2d(x, weight, [1, stride, stride, 1], padding)
    return tf.nn.conv2d(x, weight, stride, padding)


def _padding(padding: Padding) -> str | list[list[int]]:
    if padding == NO_PADDING:
        return "VALID"
    return [[0, 0], list(padding[0]), list(padding[1]), [0, 0]]


def _normalise(layer: Norm, x: tf.Tensor, variables: Tensors, is_training: bool) -> tf.Tensor:
    names = ("bias", "running_mean", "running_var")
    bias, mean, variance = (variables[f"{layer.name}.{name}"] for name in names)
    scale = variables[f"{layer.name}.weight"] if layer.learns_scale else tf.ones_like(bias)
    if not is_training:
        y, *_ = tf.compat.v1.nn.fused_batch_norm(
            x, scale, bias, mean, variance, layer.epsilon, is_training=False
        )
        return y
    y, batch_mean, batch_variance = tf.compat.v1.nn.fused_batch_norm(
        x, scale, bias, epsilon=layer.epsilon, is_training=True
    )
    count = tf.cast(tf.size(x) // layer.width, tf.float32)
    biased = batch_variance * (count - 1.0) / count  # the operation gives the unbiased one
    for running, batch in ((mean, batch_mean), (variance, biased)):
        running.assign(layer.momentum * running + (1.0 - layer.momentum) * batch)
    return y


def _activate(layer: Activation, x: tf.Tensor) -> tf.Tensor:
    if layer.ceiling is None:
        return tf.nn.relu(x)
    return tf.nn.relu6(x) if layer.ceiling == 6.0 else tf.clip_by_value(x, 0.0, layer.ceiling)
