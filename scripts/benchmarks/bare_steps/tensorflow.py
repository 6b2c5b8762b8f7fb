"""The usual loop in TensorFlow, with Keras's optimizer."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from image_classification.backends.base import ModelSpec
from image_classification.backends.tensorflow import model
from image_classification.samples import Batch


def build(spec: ModelSpec, batch: Batch, rate: float, momentum: float) -> Callable[[], float]:
    """Return a step on the same batch each time; it returns the loss."""
    classifier = model.build(spec)
    learning = [weight.variable for weight in classifier.weights.values() if weight.learns]
    optimizer = keras.optimizers.SGD(rate, momentum)

    @tf.function
    def step(images: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = classifier.head(classifier.features(images, is_training=True))
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))
        optimizer.apply_gradients(zip(tape.gradient(loss, learning), learning, strict=True))
        return loss

    return lambda: float(step(tf.constant(batch.images), tf.constant(batch.targets)))
