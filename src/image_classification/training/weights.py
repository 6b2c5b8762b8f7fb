"""The weights in the channel `model`, as far as they fit the job: of an artifact or a built-in's.

In: our artifact, or the archive of the closed MXNet built-in. Out: `ChannelWeights`. A head of the
same classes is kept, in the order of the job's.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from safetensors.numpy import load_file

from image_classification import artifact as artifacts
from image_classification import backends
from image_classification.archive import file_names, unpacked
from image_classification.artifact import MANIFEST_FILE, open_artifact
from image_classification.backends.base import WEIGHT_PREFIX, Backbone, State
from image_classification.backends.mxnet_archive import SYMBOL_FILE, BuiltInModel, read_built_in
from image_classification.contract.channels import ChannelInput
from image_classification.errors import BackendError, ChannelError, HyperparameterError
from image_classification.labels.label_map import LabelMap
from image_classification.training.settings import Settings

_SAVED_MODEL_FILES = {"saved_model.pb", "saved_model.pbtxt"}


def model_path(channel: ChannelInput) -> Path:
    """The channel's archive, or its folder. A finished job's output.tar.gz may lie beside it.

    Raises:
        ChannelError: there are several archives, and none is called model.tar.gz.
    """
    archives = sorted(channel.path.glob("*.tar.gz"))
    named = channel.path / "model.tar.gz"
    if named in archives:
        return named
    if len(archives) > 1:
        raise ChannelError(
            f"channel model: expected one model.tar.gz, found {[p.name for p in archives]}"
        )
    return archives[0] if archives else channel.path


def is_saved_model(path: Path) -> bool:
    """Whether there is a SavedModel, and no artifact of ours, at `path`; nothing of it is loaded.

    Raises:
        ArtifactError: it is an archive that cannot be read.
    """
    found = False
    for name in file_names(path):
        if name == PurePosixPath(MANIFEST_FILE):
            return False
        found |= name.name in _SAVED_MODEL_FILES
    return found


def is_artifact(path: Path) -> bool:
    """Whether there is an artifact of ours at `path`; ArtifactError as for `is_saved_model`."""
    return any(name == PurePosixPath(MANIFEST_FILE) for name in file_names(path))


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


def weights_of_channel(
    settings: Settings, labels: LabelMap, channel: ChannelInput
) -> ChannelWeights:
    """The weights of the channel's model for a job of these classes.

    Raises:
        ChannelError: the artifact is of another backbone, or without weights.
        HyperparameterError: the head shall be kept and is one of other classes.
        ArtifactError: it is no model, or a damaged one.
    """
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
        return ChannelWeights(without_head(state), "weights of the channel model with a new head")
    _logger.info("Channel model: starting from its weights, head included (%s)", why)
    kept = _with_head_order(state, order)
    return ChannelWeights(kept, "weights of the channel model, head included")


def _read_channel(channel: ChannelInput, settings: Settings) -> tuple[str, LabelMap, State]:
    """Backbone, classes and weights of the channel's model: our artifact, or the MXNet built-in's.

    Raises:
        ChannelError: our artifact is without weights.
        ArtifactError: it is neither, or damaged.
    """
    path = model_path(channel)
    built_in = _built_in_model(path)
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


def _built_in_model(path: Path) -> BuiltInModel | None:
    """The MXNet built-in's model at `path`; None where something else is there."""
    if PurePosixPath(SYMBOL_FILE) not in file_names(path):  # before anything is unpacked
        return None
    with unpacked(path) as folder:
        return read_built_in(folder)


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


def _check_backbone(theirs: str, settings: Settings) -> None:
    rows = _rows_of(theirs)
    if any(row.is_given for row in rows.values()):
        raise no_start(theirs)
    ours = settings.backbone.name
    if theirs != ours:
        changes = [f"backbone={theirs}"]
        if settings.backend not in rows:
            changes += [f"backend={name}" for name in rows][:1]
        raise ChannelError(
            f"channel model: its artifact has the backbone {theirs}, the job {ours}: set "
            f"{' and '.join(changes)}"
        )


def _rows_of(backbone: str) -> dict[str, Backbone]:
    """The backbone's row in each backend that has it."""
    rows = {}
    for name in backends.names():
        with suppress(BackendError):
            rows[name] = backends.catalog(name).find(backbone)
    return rows


def no_start(backbone: str) -> ChannelError:
    """An artifact has the weights of a backbone that was given, but not how it computes."""
    return ChannelError(
        f"channel model: its artifact is of backbone={backbone}, the model that an earlier job was "
        "given, and has only its weights: no job can start from it; give this job that earlier "
        "model again, or an artifact of another backbone"
    )


def without_head(state: State) -> State:
    """All weights but the head's."""
    return {name: value for name, value in state.items() if not name.startswith(HEAD_PREFIX)}
