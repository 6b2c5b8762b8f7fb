"""The settings once the data is known, in the log, and what identifies a job by them."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from image_classification.contract import environment
from image_classification.errors import HyperparameterError
from image_classification.training.inputs import Inputs
from image_classification.training.results import plain
from image_classification.training.settings import Settings

_MAY_CHANGE = (
    *("epochs", "max_minutes", "expected_samples", "max_bad_samples"),
    *("checkpoint_frequency", "checkpoint_steps", "checkpoint_minutes"),
    *("calibrate", "head", "keep_last_weights", "tensorboard"),
)
"""Settings that a job may change when it goes on from its checkpoints."""

_logger = logging.getLogger(__name__)


def final_settings(settings: Settings, inputs: Inputs) -> Settings:
    """What the data decides: image files need a `resize` before the crop, records were resized.

    Raises:
        HyperparameterError: the data has not got the classes that the settings need.
    """
    if settings.binary_mode and len(inputs.labels) != 2:
        raise HyperparameterError(
            f"binary_mode=True needs two classes, the data has {len(inputs.labels)}: "
            f"{', '.join(inputs.labels.names[:20])}; leave binary_mode out"
        )
    max_pixels = environment.MAX_PIXELS.read_integer(1)
    preprocessing = replace(settings.preprocessing, max_pixels=max_pixels)
    if preprocessing.mode == "crop" and preprocessing.resize is None and not inputs.are_records:
        backbone = settings.backbone
        side = max(preprocessing.height, preprocessing.width)
        resize = round(side * backbone.resize / backbone.input_size)
        preprocessing = replace(preprocessing, resize=resize)
        _logger.info("resize is not set and the channel holds image files: using %d", resize)
    return replace(settings, preprocessing=preprocessing)


def log_settings(interface: str, settings: Settings, inputs: Inputs) -> None:
    """The final configuration, one line a setting, as the MXNet built-in shows it."""
    _logger.info("---- Parameters ----")
    shown: dict[str, Any] = {"interface": interface, **vars(settings)}
    shown |= {"backbone": settings.backbone.name, "num_classes": len(inputs.labels)}
    for name in ("classes", "labels", "expected_samples"):
        del shown[name]
    for name, value in shown.items():
        _logger.info("%s: %s", name, value)
    _logger.info("labels: %s", ", ".join(inputs.labels.names[:20]))


def identity_of(interface: str, settings: Settings, inputs: Inputs, hosts: int) -> dict[str, Any]:
    """What must be equal for a checkpoint to continue this job."""
    values = plain(replace(settings, schedule=replace(settings.schedule, epochs=0)))
    for name in _MAY_CHANGE:
        del values[name]
    return values | {
        "interface": interface,
        "hosts": hosts,
        "labels": list(inputs.labels.names),
        "training_samples": len(inputs.training),
        "validation_samples": len(inputs.validation),
    }
