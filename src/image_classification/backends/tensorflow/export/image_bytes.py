"""Encoded images prepared by TensorFlow's own operations, for models that leave this project.

The size, the crop and the interpolation are those of `data/preprocessing`, the decoder and the
resampling are TensorFlow's: a pixel differs by about a grey level, and an EXIF orientation plays no
part. Our own server does not use this.
"""

from __future__ import annotations

import tensorflow as tf

from image_classification.data.preprocessing import Preprocessing

_METHODS = {
    "bilinear": "bilinear",
    "bicubic": "bicubic",
    "lanczos": "lanczos3",
    "box": "area",
    "nearest": "nearest",
}


def prepared(encoded: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Uint8 (N, H, W, C) of strings (N,), each a JPEG, PNG, GIF or BMP file."""
    height, width, channels = (
        preprocessing.height,
        preprocessing.width,
        preprocessing.channels,
    )

    def one(data: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_image(data, channels=channels, expand_animations=False)
        resized = _resized(tf.ensure_shape(image, [None, None, channels]), preprocessing)
        return tf.ensure_shape(tf.cast(resized, tf.uint8), [height, width, channels])

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
