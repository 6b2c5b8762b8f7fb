"""The backbones of the MXNet backend: plain data, so that a wrong name fails at once.

The shared backbones, and `gluon/<name>`: the classifiers of Gluon's model zoo.
"""

from __future__ import annotations

from image_classification.backends import shared_backbones
from image_classification.backends.base import Backbone
from image_classification.backends.mxnet import gluon_zoo
from image_classification.backends.shared_backbones import resnet_name

__all__ = ["BACKBONES", "find", "resnet_name"]

BACKBONES: dict[str, Backbone] = {**shared_backbones.BACKBONES, **gluon_zoo.ROWS}


def find(name: str) -> Backbone:
    """The row called `name`; BackendError with the nearest name when there is none."""
    return shared_backbones.find(name, "mxnet", BACKBONES)
