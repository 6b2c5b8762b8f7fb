"""The backbones of the MXNet backend: plain data, so that a wrong name fails at once.

The shared backbones, and `gluon/<name>`: the classifiers of Gluon's model zoo.
"""

from __future__ import annotations

from image_classification.backends import backbones
from image_classification.backends.backbones import IMAGENET_MEAN, IMAGENET_STD, resnet_name
from image_classification.backends.base import Backbone

__all__ = ["BACKBONES", "find", "resnet_name"]


PREFIX = "gluon/"

_NAMES = (
    "alexnet",
    *(f"densenet{depth}" for depth in (121, 161, 169, 201)),
    "inceptionv3",
    *(f"mobilenet{factor}" for factor in ("1.0", "0.75", "0.5", "0.25")),
    *(f"mobilenetv2_{factor}" for factor in ("1.0", "0.75", "0.5", "0.25")),
    *(f"resnet{depth}_v{version}" for version in (1, 2) for depth in (18, 34, 50, 101, 152)),
    "squeezenet1.0",
    "squeezenet1.1",
    *(f"vgg{depth}{norm}" for norm in ("", "_bn") for depth in (11, 13, 16, 19)),
)


def _row(name: str) -> Backbone:
    is_inception = name == "inceptionv3"
    return Backbone(
        name=PREFIX + name,
        input_size=299 if is_inception else 224,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        resize=342 if is_inception else 256,  # the shorter side is 8/7 of the crop
        source="apache/mxnet python/mxnet/gluon/model_zoo/vision",
    )


ROWS: dict[str, Backbone] = {row.name: row for row in map(_row, _NAMES)}

BACKBONES: dict[str, Backbone] = {**backbones.BACKBONES, **ROWS}


def find(name: str) -> Backbone:
    """The row called `name`; BackendError with the nearest name when there is none."""
    return backbones.find(name, "mxnet", BACKBONES)
