"""The backbones of the TensorFlow backend.

They are the shared ones; `keras/<name>`, each classifier of keras.applications; and `saved_model`,
the SavedModel in the channel `model`, as TensorFlow Hub and the closed built-in use them.
"""

from dataclasses import dataclass

from image_classification.backends import backbones
from image_classification.backends.base import Backbone

PREFIX = "keras/"


@dataclass(frozen=True)
class Family:
    """Models of keras.applications with the same preprocessing.

    Attributes:
        models: class → side in pixels.
        mean, std: normalization of RGB in units of 0–255.
        is_bgr: whether the channels are blue, green, red (weights converted from Caffe).
        normalizes: "option" if `include_preprocessing=False` omits the model's own normalization,
            "layers" if its layers must be cut off, "" if it has none.
        least_size: smallest side in pixels.
        dropout_rate: before the head.
        license: of the weights that Keras publishes.
    """

    models: dict[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    is_bgr: bool = False
    normalizes: str = ""
    least_size: int = 32
    dropout_rate: float = 0.0
    license: str = "Apache-2.0"


_SYMMETRIC = ((127.5,), (127.5,))  # to −1…1
_CAFFE = ((123.68, 116.779, 103.939), (1.0,))
_IMAGENET = (backbones.IMAGENET_MEAN, backbones.IMAGENET_STD)
_LARGER = {"EfficientNetV2S": 384, "EfficientNetV2M": 480, "EfficientNetV2L": 480}
_EFFICIENT_SIZES = (224, 240, 260, 300, 380, 456, 528, 600)
_EFFICIENT = {f"B{number}": size for number, size in enumerate(_EFFICIENT_SIZES)}
_CONVNEXT = ("Tiny", "Small", "Base", "Large", "XLarge")
_INCEPTION = {"InceptionV3": 299, "InceptionResNetV2": 299}

FAMILIES = (
    Family({f"ConvNeXt{size}": 224 for size in _CONVNEXT}, *_IMAGENET, normalizes="option"),
    Family({f"DenseNet{depth}": 224 for depth in (121, 169, 201)}, *_IMAGENET),
    Family(
        {f"EfficientNet{name}": size for name, size in _EFFICIENT.items()},
        *_IMAGENET,
        normalizes="layers",
        dropout_rate=0.2,
    ),
    Family(
        {f"EfficientNetV2{name}": _EFFICIENT[name] for name in ("B0", "B1", "B2", "B3")},
        *_IMAGENET,
        normalizes="option",
        dropout_rate=0.2,
    ),
    Family(_LARGER, (128.0,), (128.0,), normalizes="option", dropout_rate=0.2),
    Family(_INCEPTION, *_SYMMETRIC, least_size=75),
    Family({"Xception": 299}, *_SYMMETRIC, least_size=71),
    Family({"MobileNet": 224, "MobileNetV2": 224}, *_SYMMETRIC),
    Family(
        {"MobileNetV3Small": 224, "MobileNetV3Large": 224},
        *_SYMMETRIC,
        normalizes="option",
        dropout_rate=0.2,
    ),
    Family({"NASNetMobile": 224, "NASNetLarge": 331}, *_SYMMETRIC),
    Family(
        {"ResNet50": 224, "ResNet101": 224, "ResNet152": 224}, *_CAFFE, is_bgr=True, license="MIT"
    ),
    Family({"ResNet50V2": 224, "ResNet101V2": 224, "ResNet152V2": 224}, *_SYMMETRIC),
    Family({"VGG16": 224, "VGG19": 224}, *_CAFFE, is_bgr=True, license="CC-BY-4.0"),
)


def family_of(backbone: str) -> Family:
    """Return the family of `keras/<class>`; KeyError for another name."""
    name = backbone.removeprefix(PREFIX)
    for family in FAMILIES:
        if name in family.models:
            return family
    raise KeyError(backbone)


_KERAS_BACKBONES = {
    f"{PREFIX}{name}": Backbone(
        name=f"{PREFIX}{name}",
        input_size=size,
        mean=family.mean,
        std=family.std,
        resize=round(size / 0.875),
        dropout_rate=family.dropout_rate,
        license=family.license,
        source=f"keras.applications.{name}",
    )
    for family in FAMILIES
    for name, size in sorted(family.models.items())
}

FORMATS = ("saved_model", "keras")

_SAVED_MODEL = Backbone(
    name="saved_model",
    input_size=224,
    mean=(0.0,),  # pixels from 0 to 1: the convention of TensorFlow Hub
    std=(255.0,),
    resize=256,
    license="",
    source="the SavedModel of the channel model",
    is_given=True,
)

BACKBONES: dict[str, Backbone] = {
    **backbones.BACKBONES,
    **_KERAS_BACKBONES,
    _SAVED_MODEL.name: _SAVED_MODEL,
}


def find(name: str) -> Backbone:
    """See `base.Catalog`."""
    return backbones.find(name, "tensorflow", BACKBONES)
