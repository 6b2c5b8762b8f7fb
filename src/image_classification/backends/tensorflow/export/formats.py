"""The classifier in TensorFlow's own formats: a SavedModel, or a `.keras` file.

They are for TensorFlow Serving, TFLite converters and notebooks; the artifact's graph stays ONNX.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from image_classification.backends import import_errors
from image_classification.backends.base import ModelSpec
from image_classification.backends.onnx_check import TOLERANCE, Predict, probabilities_of
from image_classification.backends.tensorflow.export.image_bytes import prepared
from image_classification.backends.tensorflow.export.traced import probabilities_function
from image_classification.backends.tensorflow.model import Classifier
from image_classification.data.files import PARTIAL_SUFFIX
from image_classification.data.preprocessing import Preprocessing
from image_classification.errors import AlgorithmError, UsageError


def write_format(
    name: str,
    path: Path,
    classifier: Classifier,
    spec: ModelSpec,
    temperature: float,
    preprocessing: Preprocessing,
    predict: Predict,
) -> None:
    """Write a new folder (`saved_model`) or file (`keras`), whole or not at all.

    A SavedModel has two signatures: `serving_default` takes `image_bytes`, strings (N,), and
    `images` takes `images`, uint8 N·H·W·C; both answer `probabilities`, float32 (N, classes). A
    `.keras` file takes the images and loads with `safe_mode=True`.

    Raises:
        BackendError: the backbone has no such form.
        UsageError: something is at `path` already.
        AlgorithmError: what was written answers otherwise than the model.
    """
    if path.exists():
        raise UsageError(f"{path} exists already: name a new place for the {name} export")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Keras goes by the end of the name.
    suffix = ".keras" if name == "keras" else ""
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL_SUFFIX}{suffix}")
    try:
        if name == "keras":
            answer = _write_keras(partial, classifier, spec, temperature)
        else:
            answer = _write_saved_model(partial, classifier, spec, temperature, preprocessing)
        _check(answer, predict, spec, temperature)
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
    with import_errors("format 'keras' needs Keras", "tensorflow"):
        import keras

        from image_classification.backends.tensorflow.export.keras_model import keras_model

    keras_model(classifier, spec, temperature).save(path)
    read = keras.saving.load_model(path, compile=False, safe_mode=True)
    return lambda images: np.asarray(read(images, training=False))


def _check(answer: Any, predict: Predict, spec: ModelSpec, temperature: float) -> None:
    channels, height, width = spec.input_shape
    images = np.random.default_rng(0).integers(0, 256, (3, height, width, channels), np.uint8)
    expected = probabilities_of(predict(images), spec, temperature)
    difference = float(np.abs(answer(images) - expected).max())
    if not difference <= TOLERANCE:
        raise AlgorithmError(
            f"the written model differs from the trained one by {difference:.2g}; at most "
            f"{TOLERANCE:g} is allowed"
        )
