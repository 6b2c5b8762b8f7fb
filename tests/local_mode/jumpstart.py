"""What JumpStart gives to a job and an endpoint: scripts that must not run, archives of models.

The archives have the form of JumpStart's: a SavedModel in `1/`, `__model_info__.json` and
`labels_info.json`. Their networks are tiny; the train image of TensorFlow writes them.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

TRANSFER_LEARNING = """
import argparse
import tensorflow_hub as hub
from keras.src.engine import data_adapter  # a private part of Keras 2
raise SystemExit("the script of the built-in ran")
"""

INFERENCE = '''
import json
import os
import requests

with open("/opt/ml/model/labels_info.json") as file:
    LABELS = json.load(file)["labels"]


def handler(data, context):
    """Handle a request with TensorFlow Serving."""
    answer = requests.post(context.rest_uri, data=data.read())
    probabilities = answer.json()["predictions"][0]
    return json.dumps({"probabilities": probabilities}), context.accept_header
'''

HYPERPARAMETERS = {
    "train_only_top_layer": "True",
    "epochs": "20",
    "learning_rate": "0.1",
    "batch_size": "8",
    "optimizer": "adam",
    "regularizers_l2": "0.0001",
    "label_smoothing": "0.1",
    "dropout_rate": "0.2",
    "reinitialize_top_layer": "Auto",
    "early_stopping": "False",
    "augmentation": "False",
    "augmentation_random_flip": "horizontal_and_vertical",
    "binary_mode": "False",
    "eval_metric": "accuracy",
    "image_resize_interpolation": "bilinear",
    "a_name_of_a_later_script": "1",
}
"""In the names and forms of `hyperparameters.retrieve_default`; the last is unknown here."""

LABELS = ["green", "red", "blue"]
"""The classes of both models, in the order of the color channels that the models look at. Images of
the tests' class green are red, and those of the class red are green."""

WRITE_MODELS = '''
import sys
import tensorflow as tf

SIZE = tf.TensorSpec([None, 32, 32, 3], tf.float32)


class Base(tf.Module):
    """As TensorFlow Hub's: callable with `training`. Its logits are the mean colors."""

    def __init__(self):
        self.kernel = tf.Variable(20 * tf.reshape(tf.eye(3), [1, 1, 3, 3]), name="conv/w")

    @tf.function
    def __call__(self, images, training=False):
        return tf.reduce_mean(tf.nn.conv2d(images, self.kernel, 1, "SAME"), [1, 2])


class Layer(tf.Module):
    """As Keras 2 saves a layer; layer-3 of the built-in's model is its head."""

    def __init__(self, function, **variables):
        super().__init__()
        self.function = function
        for name, variable in variables.items():
            setattr(self, name, variable)

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32)])
    def __call__(self, values):
        return self.function(values)


base = Base()
for training in (False, True):
    base.__call__.get_concrete_function(SIZE, training=training)
tf.saved_model.save(base, sys.argv[1] + "/base/1")

dense = tf.Variable(20 * tf.eye(3), name="classification/kernel")
bias = tf.Variable(tf.zeros(3), name="classification/bias")
scale = tf.Variable(tf.ones(3), name="features/w")
features = Layer(lambda images: tf.reduce_mean(images, [1, 2]) * scale, w=scale)
head = Layer(lambda values: values @ dense + bias, kernel=dense, bias=bias)
tuned = tf.Module()
for number, layer in enumerate([tf.Module(), features, Layer(tf.identity), head]):
    setattr(tuned, f"layer-{number}", layer)
signature = tf.function(lambda x: {"logits": head(features(x))}, input_signature=[SIZE])
tf.saved_model.save(tuned, sys.argv[1] + "/tuned/1", signatures=signature)
'''
"""Writes base/1 and tuned/1 into the folder of its argument."""


def write_models(root: Path, image: str, docker: Callable[..., str]) -> None:
    """Write the folders base (untuned) and tuned (by the built-in) with the image of TensorFlow."""
    (root / "write.py").write_text(WRITE_MODELS)
    mount = f"--volume={root}:/models"
    docker("run", "--rm", "--network=none", mount, image, "python3", "/models/write.py", "/models")
    _describe(root / "base", finetuned=False)
    _describe(root / "tuned", finetuned=True)


def _describe(folder: Path, **info: object) -> None:
    """Write the files that JumpStart has next to a SavedModel."""
    known = {"image_size": [32, 32], "pixel_scaling_method": "normalize"}
    (folder / "__model_info__.json").write_text(json.dumps(known | info))
    (folder / "labels_info.json").write_text(json.dumps({"labels": LABELS}))


def pack(archive: Path, folder: Path) -> Path:
    """Write the content of a folder into a .tar.gz and return its path."""
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, ".")
    return archive


def pack_script(archive: Path, name: str, text: str) -> Path:
    """Write one script into a sourcedir.tar.gz and return its path."""
    source = archive.parent / f"{name}.d"
    source.mkdir()
    (source / name).write_text(text)
    return pack(archive, source)
