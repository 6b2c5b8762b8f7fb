"""The TensorFlow backend. Only `catalog` can be imported without TensorFlow."""

from image_classification.backends.tensorflow import process

process.prepare()  # here, because every module of this folder runs it before it imports TensorFlow
