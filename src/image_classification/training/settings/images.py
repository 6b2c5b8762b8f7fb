"""Settings of images: preprocessing and augmentation.

In: the typed hyperparameters of either interface. Out: `Preprocessing` and `Augmentation`.
"""

from dataclasses import replace

from image_classification.backends.base import Backbone
from image_classification.contract.hyperparameter import integer_list
from image_classification.contract.shared import SharedHyperparameters
from image_classification.errors import HyperparameterError
from image_classification.images.augment import Augmentation
from image_classification.images.preprocessing import Preprocessing

_INTERPOLATIONS = {"area": "box", "lanczos3": "lanczos"}
_SHAPE_OF_NUM_LAYERS = "3,224,224"  # as in the MXNet built-in, whatever the depth


def preprocessing_of(v: SharedHyperparameters, backbone: Backbone) -> Preprocessing:
    """Return the evaluation preprocessing; `resize` is None where the data decides it later.

    Raises:
        HyperparameterError: image_shape is not a shape, or `resize` contradicts it or resize_mode.
    """
    shape = v.image_shape
    if not shape and v.num_layers and not v.backbone:
        shape = _SHAPE_OF_NUM_LAYERS
    channels, height, width = _image_shape(shape, backbone)
    resize = v.resize
    if v.resize_mode == "squash" and resize is not None:
        raise HyperparameterError(
            f"resize={resize} with resize_mode=squash: "
            "squash resizes to image_shape; leave resize out"
        )
    if resize is not None and resize < max(height, width):
        raise HyperparameterError(
            f"resize={resize}: the shorter side must not be below image_shape "
            f"{channels},{height},{width}"
        )
    if resize is None and v.resize_mode == "crop" and not v.resize_follows_data:
        resize = backbone.resize
    mean, std = backbone.normalization(channels)
    interpolation = v.image_resize_interpolation or backbone.interpolation
    return Preprocessing(
        channels=channels,
        height=height,
        width=width,
        resize=resize,
        mode=v.resize_mode,
        interpolation=_INTERPOLATIONS.get(interpolation, interpolation),
        small_images=v.small_images,
        mean=mean,
        std=std,
    )


def _image_shape(text: str | None, backbone: Backbone) -> tuple[int, int, int]:
    if not text:
        return 3, backbone.input_size, backbone.input_size
    try:
        channels, height, width = integer_list(text)
    except ValueError:
        channels = height = width = 0
    if channels not in {1, 3} or height < 1 or width < 1:
        raise HyperparameterError(
            f"image_shape={text!r}: expected channels,height,width with 1 or 3 channels, such as "
            "3,224,224"
        )
    return channels, height, width


def augmentation_of(v: SharedHyperparameters) -> Augmentation | None:
    """Return the random changes of training images, or None if there are none.

    Raises:
        HyperparameterError: RandAugment and the built-in's augmentation would both change colors.
    """
    own = _of_built_in(v)
    if v.randaugment and own is not None and own.hue:
        raise HyperparameterError(
            f"randaugment={v.randaugment} and augmentation_type={v.augmentation_type} both change "
            "colors: set augmentation_type=crop, or leave randaugment out"
        )
    area = v.min_crop_area
    if area is None and not v.randaugment and not v.random_erasing:
        return own
    changed = replace(
        own or Augmentation(),
        operations=v.randaugment,
        magnitude=v.randaugment_magnitude,
        erasing=v.random_erasing,
    )
    return changed if area is None else replace(changed, crop="random_resized", area=(area, 1.0))


def _of_built_in(v: SharedHyperparameters) -> Augmentation | None:
    if v.augmentation_type:
        return Augmentation.mxnet(v.augmentation_type)
    if not v.augmentation:
        return None
    return Augmentation.keras(
        flip=v.augmentation_random_flip,
        rotation=v.augmentation_random_rotation,
        zoom=v.augmentation_random_zoom,
    )
