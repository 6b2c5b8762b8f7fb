"""The classifier in TensorFlow's own formats: a SavedModel, or a `.keras` file.

They are for TensorFlow Serving, TFLite converters and notebooks; an artifact always has ONNX.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from image_classification.backends import onnx_graph
from image_classification.backends.base import ModelSpec
from image_classification.backends.networks import layers
from image_classification.backends.tensorflow.export import probabilities_function
from image_classification.backends.tensorflow.keras_trunk import KerasTrunk
from image_classification.backends.tensorflow.model import Classifier, SharedTrunk
from image_classification.errors import BackendError, UsageError
from image_classification.files import PARTIAL_SUFFIX
from image_classification.images.preprocessing import Preprocessing

_METHODS = {
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    "lanczos": "lanczos3",
    "box": "area",
    "nearest": "nearest",
}


def prepared(encoded: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Return uint8 (N, H, W, C) of strings (N,), each a JPEG, PNG, GIF or BMP file."""
    shape = [preprocessing.height, preprocessing.width, preprocessing.channels]

    def one(data: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_image(data, channels=shape[-1], expand_animations=False)
        resized = _resized(tf.ensure_shape(image, [None, None, shape[-1]]), preprocessing)
        return tf.ensure_shape(tf.cast(resized, tf.uint8), shape)

    return tf.map_fn(one, encoded, fn_output_signature=tf.uint8)


def _resized(image: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    target = tf.constant([preprocessing.height, preprocessing.width])
    size = tf.shape(image)[:2]
    scaled = target
    if preprocessing.mode == "crop":
        sides, wanted = tf.cast(size, tf.float64), tf.cast(target, tf.float64)
        shorter = tf.reduce_min(sides)
        factor = tf.constant(1.0, tf.float64)
        if preprocessing.resize is not None:
            factor = tf.cast(preprocessing.resize, tf.float64) / shorter
        factor = tf.maximum(factor, tf.reduce_max(wanted / sides))  # enlarged until it covers
        scaled = tf.maximum(tf.cast(tf.round(sides * factor), tf.int32), target)
    method = _METHODS.get(preprocessing.interpolation, "bilinear")
    values = tf.image.resize(image, scaled, method, antialias=True)
    start = (scaled - target) // 2
    cropped = tf.slice(values, [start[0], start[1], 0], [*tf.unstack(target), -1])
    return tf.clip_by_value(tf.round(cropped), 0.0, 255.0)


def keras_model(classifier: Classifier, spec: ModelSpec, temperature: float) -> Any:
    """Return a Keras model with copies of the weights.

    Raises:
        BackendError: the backbone is neither a shared one nor from Keras.
    """
    channels, height, width = spec.input_shape
    images = keras.Input((height, width, channels), dtype="uint8", name="images")
    std = np.broadcast_to(np.array(spec.std, np.float64), channels)
    offset = -np.broadcast_to(np.array(spec.mean, np.float64), channels) / std
    x = keras.layers.Rescaling((1 / std).tolist(), offset.tolist(), name="normalization")(images)
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
    values = {layers.INPUT: x}
    for layer in trunk.network.layers:
        inputs = [values[name] for name in layer.inputs]
        values[layer.name] = _applied(layer, inputs, trunk)
    return values[trunk.network.layers[-1].name]


def _applied(layer: layers.Layer, inputs: list[Any], trunk: SharedTrunk) -> Any:
    x, name = inputs[0], layer.name.replace(".", "_")
    if isinstance(layer, layers.Convolution):
        return _convolution(layer, x, trunk)
    if isinstance(layer, layers.Norm):
        norm = keras.layers.BatchNormalization(
            momentum=layer.momentum, epsilon=layer.epsilon, scale=layer.learns_scale, name=name
        )
        y = norm(x)
        tensors = ("weight", "bias", "running_mean", "running_var")[not layer.learns_scale :]
        norm.set_weights([trunk.weights[f"{layer.name}.{t}"].variable.numpy() for t in tensors])
        return y
    if isinstance(layer, layers.Activation):
        return keras.layers.ReLU(max_value=layer.ceiling, name=name)(x)
    if isinstance(layer, layers.MaxPool):  # of a ReLU's output, so zeros may be padding
        padded = keras.layers.ZeroPadding2D(layer.padding, name=f"{name}_pad")(x)
        return keras.layers.MaxPooling2D(layer.kernel, layer.stride, name=name)(padded)
    if isinstance(layer, layers.Add):
        return keras.layers.Add(name=name)(inputs)
    if isinstance(layer, layers.Scale):
        return keras.layers.Multiply(name=name)(inputs)
    if isinstance(layer, layers.Swish | layers.Sigmoid):
        kind = "silu" if isinstance(layer, layers.Swish) else "sigmoid"
        return keras.layers.Activation(kind, name=name)(x)
    if isinstance(layer, layers.Mean):
        mean = keras.layers.GlobalAveragePooling2D(keepdims=layer.keeps_sides, name=name)
        return mean(x)
    raise BackendError(f"backend 'tensorflow' has no layer {type(layer).__name__}")


def _convolution(layer: layers.Convolution, x: Any, trunk: SharedTrunk) -> Any:
    name = layer.name.replace(".", "_")
    options = {"strides": layer.stride, "use_bias": layer.has_bias}
    if layer.padding != layers.NO_PADDING:
        x = keras.layers.ZeroPadding2D(layer.padding, name=f"{name}_pad")(x)
    if layer.is_depthwise:
        convolution = keras.layers.DepthwiseConv2D(layer.kernel, name=name, **options)
    else:
        options["groups"] = layer.groups
        convolution = keras.layers.Conv2D(layer.width, layer.kernel, name=name, **options)
    y = convolution(x)
    tensors = ("weight", "bias") if layer.has_bias else ("weight",)
    convolution.set_weights([trunk.weights[f"{layer.name}.{t}"].variable.numpy() for t in tensors])
    return y


def _reversed(x: Any) -> Any:
    """Reverse the channels, with a convolution because no plain layer does it."""
    swap = keras.layers.Conv2D(3, 1, use_bias=False, trainable=False, name="bgr")
    y = swap(x)
    swap.set_weights([np.eye(3, dtype=np.float32)[::-1].reshape(1, 1, 3, 3)])
    return y


def write_format(
    name: str,
    path: Path,
    classifier: Classifier,
    spec: ModelSpec,
    temperature: float,
    preprocessing: Preprocessing,
    predict: onnx_graph.Predict,
) -> None:
    """Write a new folder (`saved_model`) or file (`keras`); see `base.FormatWriter`.

    A SavedModel has two signatures: `serving_default` takes `image_bytes`, strings (N,), and
    `images` takes `images`, uint8 (N, H, W, C); both return `probabilities`, float32 (N, classes).
    A `.keras` file takes the images and loads with `safe_mode=True`.

    Raises:
        AlgorithmError: the written model gives other probabilities than the engine.
    """
    if path.exists():
        raise UsageError(f"{path} exists: name a new path for the {name} export")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Keras chooses the format by the suffix.
    suffix = ".keras" if name == "keras" else ""
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL_SUFFIX}{suffix}")
    try:
        if name == "keras":
            answer = _write_keras(partial, classifier, spec, temperature)
        else:
            answer = _write_saved_model(partial, classifier, spec, temperature, preprocessing)
        onnx_graph.check(answer, predict, spec, temperature)
        os.replace(partial, path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)


def _write_saved_model(
    folder: Path,
    classifier: Classifier,
    spec: ModelSpec,
    temperature: float,
    preprocessing: Preprocessing,
) -> Any:
    of_images = probabilities_function(classifier, spec, temperature)

    def of_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        answer: dict[str, tf.Tensor] = of_images(prepared(image_bytes, preprocessing))
        return answer

    strings = tf.TensorSpec([None], tf.string, name="image_bytes")
    holder = tf.Module()
    holder.variables_ = [weight.variable for weight in classifier.weights.values()]
    signatures = {
        "serving_default": tf.function(of_bytes, input_signature=[strings]),
        "images": of_images,
    }
    tf.saved_model.save(holder, str(folder), signatures=signatures)
    answer = tf.saved_model.load(str(folder)).signatures["images"]
    return lambda images: answer(images=tf.constant(images))["probabilities"].numpy()


def _write_keras(path: Path, classifier: Classifier, spec: ModelSpec, temperature: float) -> Any:
    keras_model(classifier, spec, temperature).save(path)
    read = keras.saving.load_model(path, compile=False, safe_mode=True)
    return lambda images: np.asarray(read(images, training=False))
