"""A backbone that the channel `model` holds itself: when it is the job's, and its files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from image_classification import backends
from image_classification.archive import unpacked
from image_classification.backends.base import Backbone
from image_classification.contract.channels import ChannelInput
from image_classification.contract.hyperparameters import Value
from image_classification.errors import ChannelError
from image_classification.training.channel_weights import no_start
from image_classification.training.model_channel import is_artifact, is_saved_model, model_path

_logger = logging.getLogger(__name__)


def given_row(backend: str) -> Backbone | None:
    """The row of a backend's catalog that stands for the model of the channel `model`, if any."""
    rows = backends.catalog(backend).BACKBONES.values()
    return next((row for row in rows if row.is_given), None)


def with_given_backbone(
    values: Mapping[str, Value], channel: ChannelInput | None
) -> dict[str, Value]:
    """The hyperparameters, with the channel's SavedModel as `backbone` where nothing else is named.

    So a job of the TensorFlow built-in fine-tunes the model that it was given, if the backend can.
    In the other interface `num_layers` always names a network.

    Raises:
        BackendError: there is no such backend.
        ChannelError, ArtifactError: the channel holds several archives, or a damaged one.
    """
    if channel is None or values["backbone"] or "num_layers" in values:
        return dict(values)
    row = given_row(str(values["backend"]))
    if row is None or not is_saved_model(model_path(channel)):
        return dict(values)
    _logger.info("Channel model: it holds a SavedModel, hence backbone=%s", row.name)
    return {**values, "backbone": row.name}


@contextmanager
def given_folder(backbone: Backbone, channel: ChannelInput | None) -> Iterator[Path | None]:
    """The folder of the backbone's files while the block runs; None for one that is not given.

    Raises:
        ChannelError: there is no channel `model`, or it holds several archives or an artifact.
        ArtifactError: its archive is damaged, or has links or absolute paths.
    """
    if not backbone.is_given:
        yield None
        return
    if channel is None:
        raise ChannelError(
            f"backbone={backbone.name} is the model of the channel model: give the job that channel"
        )
    path = model_path(channel)
    if is_artifact(path):
        raise no_start(backbone.name)
    with unpacked(path) as folder:
        yield folder
