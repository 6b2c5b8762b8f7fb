"""The backbones of the PyTorch backend: the shared ones and `timm/<name>`, any model of timm."""

import re

from image_classification.backends import backbones
from image_classification.backends.base import Backbone

_TIMM_NAME = re.compile(r"timm/\w+(\.\w+)?")

BACKBONES = backbones.BACKBONES
FORMATS = ()


def find(name: str) -> Backbone:
    """See `base.Catalog`; `timm/<name>` has a general row, and timm checks the name later."""
    if not _TIMM_NAME.fullmatch(name):
        return backbones.find(name, "torch", families=["timm/<model name>"])
    return Backbone(
        name=name,
        input_size=224,
        mean=backbones.IMAGENET_MEAN,
        std=backbones.IMAGENET_STD,
        resize=256,
        interpolation="bicubic",
        source="huggingface/pytorch-image-models",
    )
