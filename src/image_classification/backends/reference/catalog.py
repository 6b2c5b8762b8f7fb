"""The backbones of the reference backend: the shared ones."""

from __future__ import annotations

from image_classification.backends import backbones
from image_classification.backends.backbones import BACKBONES, resnet_name
from image_classification.backends.base import Backbone

__all__ = ["BACKBONES", "find", "resnet_name"]


def find(name: str) -> Backbone:
    """The row called `name`; BackendError with the nearest name when there is none."""
    return backbones.find(name, "reference")
