"""The layers of a shared network as TensorFlow operations on (N, H, W, C).

In: a layer of `networks`, the values that it reads, and its variables. Out: its value. Convolution
weights are (height, width, in / groups, out) here, and (height, width, channels, 1) for depthwise
convolutions, in which each channel has a filter of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from image_classification.backends.networks import layers
from image_classification.errors import BackendError
from image_classification.samples import Array

_CONVOLUTION = (3, 2, 0, 1)  # (height, width, in, out) → (out, in, height, width)
_DEPTHWISE = (2, 3, 0, 1)  # (height, width, channels, 1) → (channels, 1, height, width)
DENSE = (1, 0)  # (in, out) → (out, in)


@dataclass(frozen=True)
class Weight:
    """One tensor of a network.

    Attributes:
        variable: float32.
        axes: the axis of the variable for each neutral axis.
        learns: whether it has a gradient; running statistics have none.
    """

    variable: tf.Variable
    axes: tuple[int, ...]
    learns: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape in the neutral layout."""
        return tuple(int(self.variable.shape[axis]) for axis in self.axes)

    def neutral(self, variable: tf.Variable) -> Array:
        """Return a copy of a variable of this weight's shape, in the neutral layout."""
        return np.array(np.transpose(variable.numpy(), self.axes), order="C")

    def own(self, array: Array) -> Array:
        """Return a neutral array in the layout of the variable."""
        return np.ascontiguousarray(np.transpose(array, np.argsort(self.axes)))


def new_weight(array: Array, axes: Sequence[int] | None = None, learns: bool = True) -> Weight:
    """Return a variable with the values of a neutral array; without `axes` in its layout."""
    order = tuple(range(array.ndim)) if axes is None else tuple(axes)
    own = np.ascontiguousarray(np.transpose(array, np.argsort(order)))
    return Weight(tf.Variable(own, trainable=learns, dtype=tf.float32), order, learns)


Tensors = Mapping[str, tf.Variable]


def apply(
    layer: layers.Layer, values: list[tf.Tensor], variables: Tensors, is_training: bool
) -> tf.Tensor:
    """Return the value of a layer; in training a Norm also updates its running statistics.

    Raises:
        BackendError: this backend does not know the kind of layer.
    """
    x = values[0]
    if isinstance(layer, layers.Convolution):
        y = _convolve(layer, x, tf.cast(variables[f"{layer.name}.weight"], x.dtype))
        return y + tf.cast(variables[f"{layer.name}.bias"], x.dtype) if layer.has_bias else y
    if isinstance(layer, layers.Norm):
        return _normalize(layer, x, variables, is_training)
    if isinstance(layer, layers.Activation):
        return _activate(layer, x)
    if isinstance(layer, layers.MaxPool):
        padding = [[0, 0], *layer.padding, [0, 0]]  # with −∞
        return tf.nn.max_pool2d(x, layer.kernel, layer.stride, padding)
    if isinstance(layer, layers.Mean):
        return tf.reduce_mean(x, axis=[1, 2], keepdims=layer.keeps_sides)
    if type(layer) in _OPERATIONS:
        return _OPERATIONS[type(layer)](*values)
    raise BackendError(f"backend 'tensorflow' has no layer {type(layer).__name__}")


_OPERATIONS: dict[type[layers.Layer], Callable[..., tf.Tensor]] = {
    layers.Add: tf.add,
    layers.Scale: tf.multiply,
    layers.Sigmoid: tf.sigmoid,
    layers.Swish: tf.nn.silu,
}


def convolution_axes(layer: layers.Convolution) -> tuple[int, ...]:
    """Return the axis of the layer's variable for each neutral axis."""
    return _DEPTHWISE if layer.is_depthwise else _CONVOLUTION


def _convolve(layer: layers.Convolution, x: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    padding, stride = _padding(layer.padding), layer.stride
    if layer.is_depthwise:
        return tf.nn.depthwise_conv2d(x, weight, [1, stride, stride, 1], padding)
    if layer.groups > 1 and not tf.config.list_physical_devices("GPU"):
        # On CPUs TensorFlow has no gradient of groups, and the one that XLA compiles takes 100
        # times as long as a convolution for each group.
        parts = zip(tf.split(x, layer.groups, 3), tf.split(weight, layer.groups, 3), strict=True)
        return tf.concat([tf.nn.conv2d(*part, stride, padding) for part in parts], 3)
    return tf.nn.conv2d(x, weight, stride, padding)


def _padding(padding: layers.Padding) -> str | list[list[int]]:
    if padding == layers.NO_PADDING:
        return "VALID"
    return [[0, 0], list(padding[0]), list(padding[1]), [0, 0]]


def _normalize(
    layer: layers.Norm, x: tf.Tensor, variables: Tensors, is_training: bool
) -> tf.Tensor:
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
    biased = batch_variance * (count - 1.0) / count  # the operation returns the unbiased one
    for running, batch in ((mean, batch_mean), (variance, biased)):
        running.assign(layer.momentum * running + (1.0 - layer.momentum) * batch)
    return y


def _activate(layer: layers.Activation, x: tf.Tensor) -> tf.Tensor:
    if layer.ceiling is None:
        return tf.nn.relu(x)
    return tf.nn.relu6(x) if layer.ceiling == 6.0 else tf.clip_by_value(x, 0.0, layer.ceiling)
