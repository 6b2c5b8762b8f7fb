"""The settings once the data is known, in the log, and what identifies a job by them."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

import numpy as np

from image_classification.backends.base import Backbone
from image_classification.contract import environment
from image_classification.errors import ChannelError, DataError, HyperparameterError
from image_classification.images.header import read_header
from image_classification.images.preprocessing import Preprocessing
from image_classification.loading.sources import Source
from image_classification.samples import IntArray
from image_classification.training.inputs import Inputs
from image_classification.training.request import JobRequest
from image_classification.training.results import plain
from image_classification.training.settings import Settings

_LOOKED_AT = 1000  # headers, spread over the records
_UNIFORM = 0.99  # share of them that must have the same side: a few small originals are usual

_logger = logging.getLogger(__name__)


def resize_of(inputs: Inputs, preprocessing: Preprocessing, backbone: Backbone) -> int | None:
    """The shorter side in pixels before the crop; None leaves every image as it is.

    Raises:
        ChannelError: some splits are image files, others records, whose sides are not all the same.
    """
    files = [name for name in inputs.splits if name not in inputs.packed]
    if not inputs.packed:
        side = max(preprocessing.height, preprocessing.width)
        resize = round(side * backbone.resize / backbone.input_size)
        _logger.info("resize is not set and the channel holds image files: using %d", resize)
        return resize
    sides = _packed_sides(inputs)
    values, counts = np.unique(sides, return_counts=True)
    if len(sides) and counts.max() >= _UNIFORM * len(sides):
        resize = int(values[counts.argmax()])
        _logger.info(
            "resize is not set and the records' images have a shorter side of %d pixels: using "
            "%d, so that a photo that is served is brought to their size",
            resize,
            resize,
        )
        return resize
    found = (
        f"their shorter sides are {values[0]} to {values[-1]} pixels"
        if len(sides)
        else ("their sizes are not known before they come through the pipe")
    )
    if files:
        raise ChannelError(
            f"{', '.join(files)} holds image files, {', '.join(sorted(inputs.packed))} records, "
            f"and {found}: set resize to the shorter side that all images shall have before the "
            "crop, or give all channels in one form"
        )
    _logger.warning(
        "resize is not set and the data are records; %s. Their center is cut out as they are, and "
        "so is that of a photo that is served: prepare photos like the records, or set resize",
        found,
    )
    return None


def _packed_sides(inputs: Inputs) -> IntArray:
    """Shorter sides of images in records: of the training data, else of what can be looked at."""
    for name, source in inputs.splits.items():
        if name in inputs.packed and source.is_countable:
            return shorter_sides(source)
    return np.empty(0, np.int64)


def shorter_sides(source: Source) -> IntArray:
    """int64 (N,): shorter sides in pixels of up to 1,000 images, spread evenly over the source.

    Only headers are read. Images that cannot be read are left out; the loader reports them.
    """
    places = np.unique(np.linspace(0, len(source) - 1, min(len(source), _LOOKED_AT), dtype=int))
    sides = []
    for index in places.tolist():
        try:
            sides.append(min(read_header(source.read(index).data).upright_size))
        except DataError:
            continue
    return np.array(sides, np.int64)


_MAY_CHANGE = (
    *("epochs", "max_minutes", "expected_samples", "max_bad_samples"),
    *("checkpoint_frequency", "checkpoint_steps", "checkpoint_minutes"),
    *("calibrate", "head", "keep_last_weights", "tensorboard"),
)
"""Settings that a job may change when it goes on from its checkpoints."""

_SHOWN_LABELS = 20


def final_settings(settings: Settings, inputs: Inputs) -> Settings:
    """What the data decides: the `resize` before the crop.

    Raises:
        HyperparameterError: the data has not got the classes that the settings need.
        ChannelError: nothing tells to which size images and records are to be brought.
    """
    if settings.binary_mode and len(inputs.labels) != 2:
        raise HyperparameterError(
            f"binary_mode=True needs two classes, the data has {len(inputs.labels)}: "
            f"{', '.join(inputs.labels.names[:20])}; leave binary_mode out"
        )
    max_pixels = environment.MAX_PIXELS.read_integer(1)
    preprocessing = replace(settings.preprocessing, max_pixels=max_pixels)
    if preprocessing.mode == "crop" and preprocessing.resize is None:
        resize = resize_of(inputs, preprocessing, settings.backbone)
        preprocessing = replace(preprocessing, resize=resize)
    return replace(settings, preprocessing=preprocessing)


def log_settings(request: JobRequest, inputs: Inputs) -> None:
    """The final configuration, one line a hyperparameter, as the MXNet built-in shows it.

    What the data has decided follows: the classes, and the resize where the job sets none.
    """
    interface = request.interface.name
    _logger.info("Final configuration: %s", json.dumps(request.values.by_name, ensure_ascii=False))
    _logger.info("---- Parameters ----")
    for name, value, origin in request.origins():
        is_given = origin != "default" and not origin.startswith("preset ")
        remark = ("given" if origin == name else f"given as {origin}") if is_given else origin
        _logger.info("%s: %s (%s)", name, value, remark)
    settings = request.settings
    network = settings.backbone.name
    _logger.info("network: %s by %s, interface %s", network, settings.backend, interface)
    _logger.info("preprocessing: %s", json.dumps(request.settings.preprocessing.to_json()))
    shown = ", ".join(inputs.labels.names[:_SHOWN_LABELS])
    more = f" and {len(inputs.labels) - _SHOWN_LABELS} more"
    is_long = len(inputs.labels) > _SHOWN_LABELS
    _logger.info("classes: %d: %s%s", len(inputs.labels), shown, more if is_long else "")


def identity_of(interface: str, settings: Settings, inputs: Inputs) -> dict[str, Any]:
    """What must be equal for a checkpoint to continue this job; the hosts may be others."""
    values = plain(replace(settings, schedule=replace(settings.schedule, epochs=0)))
    for name in _MAY_CHANGE:
        del values[name]
    return values | {
        "interface": interface,
        "labels": list(inputs.labels.names),
        "training_samples": inputs.training_samples,
        "validation_samples": len(inputs.validation),
    }
