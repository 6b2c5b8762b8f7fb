"""The backbones of the TensorFlow backend: plain data, so that a wrong name fails at once.

The shared backbones, and `keras/<name>`: every classifier of keras.applications.
"""

from __future__ import annotations

from image_classification.backends import shared_backbones
from image_classification.backends.base import Backbone
from image_classification.backends.shared_backbones import resnet_name

__all__ = ["BACKBONES", "find", "resnet_name"]

BACKBONES: dict[str, Backbone] = {**shared_backbones.BACKBONES}


def find(name: str) -> Backbone:
    """The row called `name`.

    Raises:
        BackendError: no such backbone; the message has the nearest name and the list.
    """
    return shared_backbones.find(name, "tensorflow", BACKBONES)
