"""The hyperparameters that say what is done to images: preprocessing and augmentation.

In: an interface's typed hyperparameters. Out: `Preprocessing` and `Augmentation`. The built-ins
differ: MXNet's crops where TensorFlow's squashes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from image_classification.backends.base import Backbone
from image_classification.contract.hyperparameter import integer_list
from image_classification.errors import HyperparameterError
from image_classification.images.augment import Augmentation
from image_classification.images.preprocessing import Preprocessing

_INTERPOLATIONS = {"area": "box", "lanczos3": "lanczos"}
_DEFAULT_MXNET_SHAPE = "3,224,224"


def preprocessing_of(interface: str, v: Mapping[str, Any], backbone: Backbone) -> Preprocessing:
    """MXNet crops (never squashes) as the built-in trains; TensorFlow squashes as its does."""
    is_mxnet = interface == "mxnet"
    shape = v["image_shape"]
    if is_mxnet and not shape and not v["backbone"]:
        shape = _DEFAULT_MXNET_SHAPE
    channels, height, width = _image_shape(shape, backbone)
    mode = v["resize_mode"] or ("crop" if is_mxnet else "squash")
    resize = v["resize"]
    if mode == "squash" and resize is not None:
        raise HyperparameterError(
            f"resize={resize} with resize_mode=squash: "
            "squash resizes to image_shape; leave resize out"
        )
    if mode == "crop" and resize is not None and resize < max(height, width):
        raise HyperparameterError(
            f"resize={resize}: the shorter side must not be below image_shape "
            f"{channels},{height},{width}"
        )
    if not is_mxnet:
        resize = resize or (backbone.resize if mode == "crop" else None)
    mean, std = backbone.normalization(channels)
    interpolation = v.get("image_resize_interpolation") or backbone.interpolation
    return Preprocessing(
        channels=channels,
        height=height,
        width=width,
        resize=resize,
        mode=mode,
        interpolation=_INTERPOLATIONS.get(interpolation, interpolation),
        small_images=v["small_images"] or ("refuse" if is_mxnet else "enlarge"),
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
            f"image_shape={text!r}: expected channels,height,width with 1 or 3 channels, "
            "as 3,224,224"
        )
    return channels, height, width


def augmentation_of(interface: str, v: Mapping[str, Any]) -> Augmentation | None:
    """What is random in a training image; None is nothing.

    Raises:
        HyperparameterError: two policies would both change colors.
    """
    own = _own_augmentation(interface, v)
    area, operations, erasing = v["min_crop_area"], v["randaugment"], v["random_erasing"]
    if operations and own is not None and own.hue:
        raise HyperparameterError(
            f"randaugment={operations} and augmentation_type={v['augmentation_type']} both change "
            "colors: set augmentation_type=crop, or leave randaugment out"
        )
    if area is None and not operations and not erasing:
        return own
    changed = replace(
        own or Augmentation(),
        operations=operations,
        magnitude=v["randaugment_magnitude"],
        erasing=erasing,
    )
    return changed if area is None else replace(changed, crop="random_resized", area=(area, 1.0))


def _own_augmentation(interface: str, v: Mapping[str, Any]) -> Augmentation | None:
    if interface == "mxnet":
        return Augmentation.mxnet(v["augmentation_type"]) if v["augmentation_type"] else None
    if not v["augmentation"]:
        return None
    return Augmentation.keras(
        flip=v["augmentation_random_flip"],
        rotation=v["augmentation_random_rotation"],
        zoom=v["augmentation_random_zoom"],
    )
