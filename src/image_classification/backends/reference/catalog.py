"""The backbones of the reference backend: the shared ones."""

from __future__ import annotations

from image_classification.backends import shared_backbones
from image_classification.backends.base import Backbone
from image_classification.backends.shared_backbones import BACKBONES, resnet_name

__all__ = ["BACKBONES", "find", "resnet_name"]


def find(name: str) -> Backbone:
    """The row called `name`; BackendError with the nearest name when there is none."""
    return shared_backbones.find(name, "reference")
