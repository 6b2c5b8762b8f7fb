"""The backbones of the PyTorch backend: plain data, so that a wrong name fails at once.

The shared backbones, and `timm/<name>`: any model of the timm library.
"""

from __future__ import annotations

import re

from image_classification.backends import backbones
from image_classification.backends.backbones import BACKBONES, resnet_name
from image_classification.backends.base import Backbone

__all__ = ["BACKBONES", "find", "resnet_name"]


_TIMM_NAME = re.compile(r"timm/\w+(\.\w+)?")


def find(name: str) -> Backbone:
    """The row called `name`; a generic row for `timm/<name>`, which timm itself checks later.

    Raises:
        BackendError: no such backbone; the message has the nearest name and the list.
    """
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
