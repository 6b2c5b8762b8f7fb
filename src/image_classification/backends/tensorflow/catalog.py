"""The backbones of the TensorFlow backend: plain data, so that a wrong name fails at once.

The shared backbones; `keras/<name>`, every classifier of keras.applications; and `saved_model`,
the SavedModel of the channel `model`: what TensorFlow Hub and the closed built-in have.
"""

from __future__ import annotations

from image_classification.backends import shared_backbones
from image_classification.backends.base import Backbone
from image_classification.backends.shared_backbones import resnet_name
from image_classification.backends.tensorflow import keras_families

__all__ = ["BACKBONES", "FORMATS", "find", "resnet_name"]

FORMATS = ("saved_model", "keras")

_SAVED_MODEL = Backbone(
    name="saved_model",
    input_size=224,
    mean=(0.0,),  # images from 0 to 1: the convention of TensorFlow Hub
    std=(255.0,),
    resize=256,
    license="",
    source="the SavedModel of the channel model",
    is_given=True,
)

BACKBONES: dict[str, Backbone] = {
    **shared_backbones.BACKBONES,
    **keras_families.BACKBONES,
    _SAVED_MODEL.name: _SAVED_MODEL,
}


def find(name: str) -> Backbone:
    """The row called `name`.

    Raises:
        BackendError: no such backbone; the message has the nearest name and the list.
    """
    return shared_backbones.find(name, "tensorflow", BACKBONES)
