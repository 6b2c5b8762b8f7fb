"""The settings once the data is known, in the log, and what identifies a job by them."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

from image_classification.contract import environment
from image_classification.errors import HyperparameterError
from image_classification.training.inputs import Inputs
from image_classification.training.request import JobRequest
from image_classification.training.resize_choice import resize_of
from image_classification.training.results import plain
from image_classification.training.settings import Settings

_MAY_CHANGE = (
    *("epochs", "max_minutes", "expected_samples", "max_bad_samples"),
    *("checkpoint_frequency", "checkpoint_steps", "checkpoint_minutes"),
    *("calibrate", "head", "keep_last_weights", "tensorboard"),
)
"""Settings that a job may change when it goes on from its checkpoints."""

_SHOWN_LABELS = 20

_logger = logging.getLogger(__name__)


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
    _logger.info("Final configuration: %s", json.dumps(request.values, ensure_ascii=False))
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
