"""The backbones of the reference backend: the shared ones."""

from image_classification.backends import backbones
from image_classification.backends.base import Backbone

BACKBONES = backbones.BACKBONES
FORMATS = ()


def find(name: str) -> Backbone:
    """See `base.Catalog`."""
    return backbones.find(name, "reference")
