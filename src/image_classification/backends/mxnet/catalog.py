"""The backbones of the MXNet backend: the shared ones and `gluon/<name>`, Gluon's model zoo."""

from image_classification.backends import backbones
from image_classification.backends.base import Backbone

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
        mean=backbones.IMAGENET_MEAN,
        std=backbones.IMAGENET_STD,
        resize=342 if is_inception else 256,  # the shorter side is 8/7 of the crop
        source="apache/mxnet python/mxnet/gluon/model_zoo/vision",
    )


BACKBONES = {**backbones.BACKBONES, **{row.name: row for row in map(_row, _NAMES)}}
FORMATS = ()


def find(name: str) -> Backbone:
    """See `base.Catalog`."""
    return backbones.find(name, "mxnet", BACKBONES)
