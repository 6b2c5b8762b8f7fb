"""The loss of each sample from its logits and soft targets."""

from __future__ import annotations

import tensorflow as tf

from image_classification.backends.base import ModelSpec


def losses(logits: tf.Tensor, targets: tf.Tensor, spec: ModelSpec) -> tf.Tensor:
    """Float32 (N,): cross entropy of each sample; of several labels the mean over the classes.

    With positive weights p the loss of a class is −p · t · log σ(x) − (1 − t) · log(1 − σ(x)).
    """
    if not spec.multi_label:
        return tf.nn.softmax_cross_entropy_with_logits(targets, logits)
    if not spec.positive_weights:
        return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(targets, logits), axis=1)
    weights = tf.constant(spec.positive_weights, tf.float32)
    weighted = tf.nn.weighted_cross_entropy_with_logits(targets, logits, weights)
    return tf.reduce_mean(weighted, axis=1)
