"""The backbones of the PyTorch backend: the shared ones and `timm/<name>`, any model of timm."""

import re

from image_classification.backends import backbones
from image_classification.backends.base import Backbone

_TIMM_NAME = re.compile(r"timm/\w+(\.\w+)?")

BACKBONES = backbones.BACKBONES
FORMATS = ()


def find(name: str) -> Backbone:
    """See `base.Catalog`; the row of `timm/<name>` is timm's own, which must be installed."""
    if not _TIMM_NAME.fullmatch(name):
        return backbones.find(name, "torch", families=["timm/<model name>"])
    from image_classification.backends.torch import timm_models  # imports timm

    return timm_models.find(name)
