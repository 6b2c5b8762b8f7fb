"""The weights that a job starts from: of a channel, of ImageNet on this machine, or random ones.

The channel `model` holds our artifact or an archive of the MXNet built-in; a head of the same
classes is kept, reordered to the job's classes; any other head is new. The channel `weights` holds
a public file of weights, which starts a job as ImageNet's do.
"""

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from safetensors.numpy import load_file

from image_classification import artifact as artifacts
from image_classification import backends
from image_classification.archive import holds, unpacked
from image_classification.backends import mxnet_archive
from image_classification.backends.base import (
    WEIGHT_PREFIX,
    Engine,
    EngineModule,
    HeadGiver,
    State,
)
from image_classification.backends.networks import is_shared
from image_classification.backends.pretrained import (
    Pretrained,
    has_weights,
    no_weights,
    read_pretrained,
    read_weights,
)
from image_classification.base_model import read_base_model
from image_classification.contract import environment
from image_classification.contract.channels import ChannelInput
from image_classification.errors import (
    BackendError,
    ChannelError,
    DataError,
    HyperparameterError,
)
from image_classification.labels.label_map import LabelMap
from image_classification.training import backbone as backbones
from image_classification.training.settings import Settings

HEAD_PREFIX = WEIGHT_PREFIX + "head."

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChannelWeights:
    """The weights in the channel `model`, or a public file of weights.

    Attributes:
        state: `weight/<neutral name>` → array, without a head if the job makes a new one.
        description: their origin, in a few words.
        head_order: if the channel model is the backbone itself and the job keeps its head: the rows
            of that head in the order of the job's classes.
        file: the public file of weights, which has another `state` with each backbone.
        public: what it holds; None before the framework of its backbone is loaded.
    """

    state: State
    description: str
    head_order: list[int] | None = None
    file: Path | None = None
    public: Pretrained | None = None


def channel_weights(
    settings: Settings, labels: LabelMap, channel: ChannelInput | None, public: Path | None = None
) -> ChannelWeights | None:
    """Return the weights in a channel, or None if the job does not start from them.

    Args:
        settings, labels: of the job.
        channel: the channel `model`.
        public: the public file of weights in the channel `weights` or `model`.

    The channel wins over `use_pretrained_model`. A base model of the TensorFlow built-in that is
    not the job's backbone is ignored. Every mistake about the first weights is found here, before a
    framework is loaded.

    Raises:
        ChannelError: the channel has no usable weights, or those of another backbone.
        BackendError: the job asks for pretrained weights, and there are none on this machine.
        HyperparameterError: the job keeps the head, but that is for other classes.
        ArtifactError: the channel holds no model, or a damaged one.
    """
    if settings.backbone.is_given:  # the channel model is the backbone itself
        if public is not None:
            raise ChannelError(
                f"channel weights: backbone={settings.backbone.name} has its weights in the "
                "channel model: leave out the channel weights, or set another backbone"
            )
        return _head_of_given(settings, labels, channel)
    if public is not None:
        if channel is not None:
            _is_unused_base_model(channel, settings)  # for its warning
        found = (
            read_weights(public, settings.backbone) if is_shared(settings.backbone.name) else None
        )
        return ChannelWeights({}, "", file=public, public=found)
    if channel is not None and not _is_unused_base_model(channel, settings):
        if settings.use_pretrained:
            _logger.info("use_pretrained_model has no effect: there is a channel model")
        return _read_weights(settings, labels, channel)
    if settings.head == "keep" and not settings.use_pretrained:
        raise HyperparameterError(
            "reinitialize_top_layer=False keeps the head of the channel model, but the job has no "
            f"channel model and starts from random weights. {_OF_THE_SCRIPT} Or give it the "
            "model.tar.gz of an earlier job in the channel model"
        )
    if settings.use_pretrained and not has_weights(settings.backbone, _weights_folder()):
        raise no_weights(settings.backbone, _weights_folder())
    return None


def _head_of_given(
    settings: Settings, labels: LabelMap, channel: ChannelInput | None
) -> ChannelWeights | None:
    """Return which head of a SavedModel the job keeps, or None for a new one."""
    if settings.head == "new" or channel is None:
        return None
    path = backbones.model_path(channel)
    if backbones.is_artifact(path):
        return None  # a later error says that it has no network
    with unpacked(path) as folder:
        base = read_base_model(folder)
    if not base.is_fine_tuned and settings.head == "keep":
        raise _no_head_to_keep()
    if not base.is_fine_tuned:
        return None
    try:
        order, reason = _head_order(LabelMap(base.labels), labels)
    except DataError:
        order, reason = None, f"its labels_info.json has no usable names: {base.labels[:20]}"
    if order is None and settings.head == "keep":
        raise _other_classes(reason)
    if order is None:
        _logger.info("Channel model: fine-tuned by the built-in; it gets a new head: %s", reason)
        return None
    _logger.info("Channel model: fine-tuned by the built-in; its head is kept (%s)", reason)
    return ChannelWeights({}, "the fine-tuned model of the channel model, head included", order)


def _is_unused_base_model(channel: ChannelInput, settings: Settings) -> bool:
    """Return whether the channel holds a SavedModel, which is then ignored with a warning.

    A job of the TensorFlow built-in always has one, and moves over by changing only its image URI.
    """
    path = backbones.model_path(channel)
    if not backbones.is_saved_model(path):
        return False
    if settings.head == "keep":
        raise _no_head_to_keep()
    row, ours = backbones.channel_backbone(settings.backend), settings.backbone.name
    images = settings.preprocessing
    with unpacked(path) as folder:
        is_fine_tuned = read_base_model(folder).is_fine_tuned
    if row is None and is_fine_tuned:
        raise ChannelError(
            "channel model: it holds a model that the TensorFlow built-in has fine-tuned, which "
            f"backend={settings.backend} cannot go on from: use the train image of "
            "backend=tensorflow, or leave the channel model out to start anew"
        )
    _logger.warning(
        "Channel model: ignoring its TensorFlow SavedModel, which %s; the job starts from %s of %s "
        "instead, at image_shape=%s",
        f"backend={settings.backend} cannot start from (the train image of backend=tensorflow can)"
        if row is None
        else f"backbone={ours} does not start from (backbone={row.name} does)",
        "ImageNet weights" if settings.use_pretrained else "random weights",
        ours,
        ",".join(str(side) for side in (images.channels, images.height, images.width)),
    )
    return True


_OF_THE_SCRIPT = (
    "The original pre-trained feature extraction model does not have a classification layer. Such "
    "a layer must be inserted for training to begin. Please set reinitialize_top_layer to 'True' "
    "and run training again."
)
"""The published training script's own error, word for word."""


def _no_head_to_keep() -> ChannelError:
    return ChannelError(
        "channel model: reinitialize_top_layer=False keeps the head of the channel model, but no "
        "job can continue from the head of a TensorFlow SavedModel, except from one that the "
        f"built-in has fine-tuned, with backend=tensorflow. {_OF_THE_SCRIPT} Or give the "
        "model.tar.gz of a job of this image, or set reinitialize_top_layer=Auto"
    )


def _read_weights(settings: Settings, labels: LabelMap, channel: ChannelInput) -> ChannelWeights:
    backbone, theirs, state = _read_channel(channel, settings)
    _check_backbone(backbone, settings)
    order, reason = _head_order(theirs, labels)
    if settings.head == "keep" and order is None:
        raise _other_classes(reason)
    if settings.head == "new" or order is None:
        reason = "reinitialize_top_layer=True" if settings.head == "new" else reason
        _logger.info("Channel model: starting from its weights with a new head: %s", reason)
        return ChannelWeights(without_head(state), "weights of the channel model with a new head")
    _logger.info("Channel model: starting from its weights, head included (%s)", reason)
    kept = _with_head_order(state, order)
    return ChannelWeights(kept, "weights of the channel model, head included")


def _other_classes(reason: str) -> HyperparameterError:
    return HyperparameterError(
        f"reinitialize_top_layer=False keeps the head of the channel model, but {reason}: give "
        "the job the same classes, or set it to Auto"
    )


def _read_channel(channel: ChannelInput, settings: Settings) -> tuple[str, LabelMap, State]:
    """Return backbone, classes and weights of our artifact, or of an archive of the MXNet built-in.

    Raises:
        ChannelError: our artifact has no weights.
        ArtifactError: the channel holds neither, or it is damaged.
    """
    path = backbones.model_path(channel)
    built_in = _built_in_model(path)
    if built_in is not None:
        _logger.info(
            "Channel model: an archive of the MXNet built-in, weights after epoch %d",
            built_in.epoch,
        )
        images = settings.preprocessing
        state = built_in.weights_for(images.mean, images.std)
        return built_in.backbone, LabelMap.numbered(built_in.classes), state
    with artifacts.open_artifact(path) as artifact:
        weights = artifact.directory / artifacts.WEIGHTS_FILE
        if not weights.is_file():
            raise ChannelError(
                f"channel model: its artifact has no {artifacts.WEIGHTS_FILE} to start from"
            )
        state = {WEIGHT_PREFIX + name: value for name, value in load_file(weights).items()}
        return artifact.manifest["backbone"], artifact.labels, state


def _built_in_model(path: Path) -> mxnet_archive.BuiltInModel | None:
    """Return the MXNet built-in's model at `path`, or None if `path` holds something else."""
    if not holds(path, mxnet_archive.SYMBOL_FILE, mxnet_archive.SHAPES_FILE):  # nothing is unpacked
        return None
    with unpacked(path, holding=(mxnet_archive.SYMBOL_FILE,)) as folder:
        return mxnet_archive.read_built_in(folder)


def _head_order(theirs: LabelMap, ours: LabelMap) -> tuple[list[int] | None, str]:
    """Return the rows of their head in the order of our classes and the reason.

    The rows are None if their head does not fit our classes.
    """
    if theirs == ours:
        return list(range(len(ours))), "same classes"
    if set(theirs.names) == set(ours.names):
        return [theirs.names.index(name) for name in ours.names], "same classes, reordered"
    if len(theirs) == len(ours) and LabelMap.numbered(len(ours)) in (theirs, ours):
        return list(range(len(ours))), f"{len(ours)} classes on both sides, one without names"
    return None, f"its {len(theirs)} classes are {', '.join(theirs.names[:20])}"


def _with_head_order(state: State, order: list[int]) -> State:
    return {
        name: np.ascontiguousarray(value[order]) if name.startswith(HEAD_PREFIX) else value
        for name, value in state.items()
    }


def without_head(state: State) -> State:
    """Return all weights but the head's."""
    return {name: value for name, value in state.items() if not name.startswith(HEAD_PREFIX)}


def _check_backbone(theirs: str, settings: Settings) -> None:
    rows = {}
    for name in backends.names():
        with suppress(BackendError):
            rows[name] = backends.catalog(name).find(theirs)
    if any(row.is_given for row in rows.values()):
        raise backbones.artifact_without_network(theirs)
    ours = settings.backbone.name
    if theirs != ours:
        changes = [f"backbone={theirs}"]
        if settings.backend not in rows:
            changes += [f"backend={name}" for name in rows][:1]
        raise ChannelError(
            f"channel model: its artifact has the backbone {theirs}, the job {ours}: set "
            f"{' and '.join(changes)}"
        )


def load_initial_weights(
    engine: Engine,
    backend: EngineModule,
    settings: Settings,
    labels: LabelMap,
    found: ChannelWeights | None,
) -> str:
    """Load the first weights into `engine`; return their origin, in a few words.

    `found` are those of `channel_weights`. With ImageNet weights the head is new unless
    `reinitialize_top_layer` says otherwise.

    Raises:
        BackendError: the job asks for pretrained weights, and there are none on this machine.
        HyperparameterError: the job keeps the head, but that is for other classes.
    """
    if settings.backbone.is_given:
        return _load_given(engine, settings, found)
    if found is not None and found.file is None:
        engine.load_state(found.state)
        return found.description
    if found is not None:
        public = found.public
        if public is None:
            public = read_pretrained(
                backend, settings.backbone, _weights_folder(), found.file, engine
            )
        return _load_pretrained(engine, public, settings, labels, is_public=True)
    if settings.use_pretrained:
        pretrained = read_pretrained(backend, settings.backbone, _weights_folder(), engine=engine)
        return _load_pretrained(engine, pretrained, settings, labels)
    _logger.info("Starting from random weights: no channel model, use_pretrained_model is off")
    return "random weights"


def _load_given(engine: Engine, settings: Settings, found: ChannelWeights | None) -> str:
    """Keep the head of the backbone in the channel `model` as `found` says, or leave it new."""
    order = found.head_order if found else None
    head = cast(HeadGiver, engine).given_head() if order else None
    if found and order and head and len(head[HEAD_PREFIX + "bias"]) == len(order):
        weights = {n: v for n, v in engine.state().items() if n.startswith(WEIGHT_PREFIX)}
        engine.load_state(weights | _with_head_order(head, order))
        return found.description
    if found and settings.head == "keep":
        raise _no_head_to_keep()
    if found:
        _logger.warning("Channel model: no head of its classes is found in its layers")
    _logger.info("The channel model is the backbone; its head is new")
    return "the backbone of the channel model with a new head"


def _load_pretrained(
    engine: Engine,
    pretrained: Pretrained,
    settings: Settings,
    labels: LabelMap,
    is_public: bool = False,
) -> str:
    backbone, state = settings.backbone, pretrained.state
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
            f"classes, but the data has {len(labels)}: set it to Auto. {_OF_THE_SCRIPT}"
        )
    kind = "Weights" if is_public else "ImageNet weights"
    origin = f" in {pretrained.file} (license: {pretrained.license})" if is_public else ""
    _logger.info(
        "%s of %s%s with %s for %d classes", kind, backbone.name, origin, head, len(labels)
    )
    engine.load_state(state)
    replaced = f", in place of {settings.stands_for}" if settings.stands_for else ""
    if is_public:
        return f"weights of {backbone.name}{origin} with {head}{replaced}"
    return f"ImageNet weights of {backbone.name} ({pretrained.license}) with {head}{replaced}"


def _weights_folder() -> Path:
    return Path(environment.WEIGHTS_DIR.read())
