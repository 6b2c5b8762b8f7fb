"""The network of a job, where the hyperparameters alone do not decide it.

A SavedModel in the channel `model` can be the backbone itself; a public file of weights names its
network. And a job of the MXNet built-in that asks for pretrained weights of a network without any
gets another ResNet of that depth, or a substitute that has them.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from image_classification import backends
from image_classification.archive import file_names, holds, unpacked
from image_classification.artifact import MANIFEST_FILE, MODEL_FILE, open_artifact
from image_classification.backends import model_ids
from image_classification.backends.backbones import LARGE_DEPTHS, resnet_name
from image_classification.backends.base import Backbone
from image_classification.backends.conversion import recognize
from image_classification.backends.mxnet_archive import SHAPES_FILE, SYMBOL_FILE
from image_classification.backends.pretrained import SUBSTITUTE, described, has_weights
from image_classification.base_model import read_base_model
from image_classification.contract import environment
from image_classification.contract.channels import ChannelInput
from image_classification.contract.shared import SharedHyperparameters
from image_classification.errors import ArtifactError, ChannelError, HyperparameterError
from image_classification.weights import opened
from image_classification.weights.folder import find_weights, is_archive, located

_ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
_CROPPED = 0.875  # share of the shorter side that a center crop keeps, as usual
_SAVED_MODEL_FILES = {"saved_model.pb", "saved_model.pbtxt"}

_logger = logging.getLogger(__name__)


def model_path(channel: ChannelInput) -> Path:
    """Return the archive in the channel `model` or in a folder of it, or the channel's folder.

    A finished job's output.tar.gz may be next to its model.tar.gz.

    Raises:
        ChannelError: there are several archives, and none is named model.tar.gz.
    """
    for pattern in ("*", "*/*"):
        found = [path for path in sorted(channel.path.glob(pattern)) if path.is_file()]
        archives = [path for path in found if path.name.lower().endswith(_ARCHIVES)]
        named = [path for path in archives if path.name == "model.tar.gz"]
        if len(named) == 1:
            return named[0]
        if len(archives) > 1:
            names = [path.name for path in archives]
            raise ChannelError(f"channel model: expected one model.tar.gz, found {names}")
        if archives:
            return archives[0]
        if any(path.name == MANIFEST_FILE for path in found):
            break
    return channel.path


def is_artifact(path: Path) -> bool:
    """Return whether `path` holds an artifact of ours; ArtifactError as for `is_saved_model`."""
    return holds(path, MANIFEST_FILE, MODEL_FILE)


def is_saved_model(path: Path) -> bool:
    """Return whether `path` holds a SavedModel and no artifact of ours; it loads nothing.

    Raises:
        ArtifactError: `path` is an archive that cannot be read.
    """
    if is_artifact(path):
        return False
    return any(name.name in _SAVED_MODEL_FILES for name in file_names(path))


def with_model_in_weights(
    channels: Mapping[str, ChannelInput], values: SharedHyperparameters
) -> Mapping[str, ChannelInput]:
    """Return the channels; a built-in's model in the channel `weights` becomes the channel `model`.

    That can be a SavedModel or an archive of the MXNet built-in, packed or not. The base model that
    a job of the TensorFlow built-in always has in the channel `model` then has no use.

    Raises:
        ChannelError: the job cannot start from that model, or both channels hold one.
        ArtifactError: the channel holds a damaged archive.
    """
    given = channels.get("weights")
    if given is None:
        return channels
    with suppress(ArtifactError):  # a SavedModel has no file of weights
        path = find_weights(given.path)
        given = replace(given, path=path if is_archive(path) else given.path)
    if not given.path.is_dir() and not is_archive(given.path):  # a pipe is refused when it is read
        return channels
    is_saved = is_saved_model(given.path)
    if not is_saved and not holds(given.path, SYMBOL_FILE, SHAPES_FILE):
        return channels
    model = channels.get("model")
    if model is not None and (is_saved or not is_saved_model(model_path(model))):
        raise _two_models()
    row = channel_backbone(values.backend or "")
    named = values.backbone or (values.num_layers and "a ResNet")
    if is_saved and (row is None or named not in (None, "", row.name)):
        raise ChannelError(
            "channel weights: it holds a TensorFlow SavedModel, which only a job with "
            "backend=tensorflow can start from, and only without num_layers and another backbone: "
            "use the train image of TensorFlow and leave both out, or give the job weights of its "
            "own network (docs/bring-weights.md)"
        )
    _logger.info("Channel weights: it holds a built-in's model; the job uses it as channel model")
    return {name: channel for name, channel in channels.items() if name != "weights"} | {
        "model": replace(given, name="model")
    }


def public_weights(channels: Mapping[str, ChannelInput]) -> Path | None:
    """Return the public file of weights in the channel `weights` or `model`, or None.

    It can be an archive, which `weights.folder.located` unpacks.

    Raises:
        ChannelError: both channels hold something to start from, or there are several files.
        ArtifactError: an archive in the channel `model` is damaged.
    """
    model, weights = channels.get("model"), channels.get("weights")
    if weights is not None:
        if model is not None and not is_saved_model(model_path(model)):
            raise _two_models()
        try:
            return find_weights(weights.path)
        except ArtifactError as error:
            raise ChannelError(f"channel weights: {error}") from error
    if model is None or _is_known(path := model_path(model)):
        return None
    with suppress(ArtifactError), located(path):
        return find_weights(path)
    return None


def _two_models() -> ChannelError:
    return ChannelError(
        "channels model and weights: a job starts from one of them; leave out the other"
    )


def _is_known(path: Path) -> bool:
    """Return whether a folder or archive holds a model of ours, of the built-ins, or is damaged."""
    return (
        is_artifact(path)
        or path.joinpath(MANIFEST_FILE).exists()
        or holds(path, SYMBOL_FILE, SHAPES_FILE)
        or is_saved_model(path)
    )


def with_public_backbone(
    values: SharedHyperparameters, given: Mapping[str, object], file: Path
) -> SharedHyperparameters:
    """Set `backbone` to the network of a public file of weights, unless the job names another.

    Where the job names `num_layers`, a ResNet of that depth is looked for, and no other network.

    Raises:
        ArtifactError: the file is not one of weights, or damaged.
    """
    if values.backbone:
        return values
    with located(file) as weights:
        with opened(weights) as (_, tensors):
            found = recognize(tensors)
        named = f"{file.name} {weights.name} {described(weights).architecture}"
    found = tuple(sorted(found, key=lambda name: -len(name) if name in named else 0))
    if values.num_layers is not None and "num_layers" in given:
        found = tuple(name for name in found if name in _resnets_of(int(values.num_layers)))
    known = [name for name in found if name in backends.catalog(values.backend or "").BACKBONES]
    if not known:
        return values
    others = ", ".join(known[1:])
    _logger.info(
        "%s holds the weights of %s, so backbone=%s%s",
        *(file.name, known[0], known[0]),
        f" (they fit {others} too: set backbone if they are of that)" if others else "",
    )
    return values.with_value(SharedHyperparameters.backbone, known[0])


def _resnets_of(depth: int) -> tuple[str, ...]:
    """Return the ResNets of a depth: that of the built-in, and the usual one elsewhere."""
    return resnet_name(depth), f"resnet{depth}_v1.5"


def substitute_backbone(
    values: SharedHyperparameters, channels: Mapping[str, ChannelInput]
) -> tuple[str, str] | None:
    """Return (the substitute, the backbone it replaces), or None if nothing is substituted.

    A job with the artifact of a substitute in its model channel trains the substitute on: in
    incremental training, built-in jobs repeat `num_layers`.

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
    wanted = resnet_name(depth)
    if "model" in channels:
        return _substitute_of_artifact(model_path(channels["model"]), wanted)
    if not values.use_pretrained_model or depth not in LARGE_DEPTHS:
        return None
    folder = Path(environment.WEIGHTS_DIR.read())
    if has_weights(catalog.find(wanted), folder):
        return None
    usual = catalog.BACKBONES.get(_resnets_of(depth)[1])
    if usual is not None and has_weights(usual, folder):
        _logger.info(
            "num_layers=%d with use_pretrained_model=1: training %s, whose ImageNet weights are "
            "here, instead of %s, whose are not",
            *(depth, usual.name, wanted),
        )
        return usual.name, wanted
    if not has_weights(catalog.find(SUBSTITUTE), folder):
        return None  # without any weights, a later error names the remedies
    _logger.warning(
        "SUBSTITUTING %s FOR %s: there are no ImageNet weights of %s here, so "
        "use_pretrained_model=1 trains %s from its ImageNet weights. To train %s, give the job its "
        "weights in the channel weights, or put %s.safetensors into %s; to fail instead, set "
        "backbone=%s; to silence this warning, set backbone=%s",
        *(SUBSTITUTE, wanted, wanted, SUBSTITUTE, wanted, wanted, folder, wanted, SUBSTITUTE),
    )
    return SUBSTITUTE, wanted


def _substitute_of_artifact(path: Path, wanted: str) -> tuple[str, str] | None:
    if not is_artifact(path):
        return None
    with open_artifact(path) as artifact:
        earlier = artifact.manifest.get("hyperparameters", {})
        if earlier.get("stands_for") != wanted:
            return None
        backbone = str(artifact.manifest["backbone"])
    _logger.warning(
        "SUBSTITUTING %s FOR %s: the channel model holds %s, which an earlier job trained in place "
        "of %s; this job continues to train it",
        *(backbone, wanted, backbone, wanted),
    )
    return backbone, wanted


def channel_backbone(backend: str) -> Backbone | None:
    """Return the catalog row that means "the model in the channel `model`", if a backend has it."""
    rows = backends.catalog(backend).BACKBONES.values()
    return next((row for row in rows if row.is_given), None)


def with_channel_backbone(
    values: SharedHyperparameters, channel: ChannelInput | None
) -> SharedHyperparameters:
    """Set `backbone` to the SavedModel in the channel `model`, unless another network is named.

    A job of the TensorFlow built-in thus fine-tunes its base model if the backend supports that. In
    the MXNet interface `num_layers` always names a network.

    Raises:
        BackendError: there is no such backend.
        ChannelError, ArtifactError: the channel holds several archives, or a damaged one.
    """
    if channel is None or values.backbone or values.num_layers:
        return values
    row = channel_backbone(values.backend or "")
    if row is None or not is_saved_model(model_path(channel)):
        return values
    _logger.info("Channel model: it holds a SavedModel, so backbone=%s", row.name)
    return values.with_value(SharedHyperparameters.backbone, row.name)


def with_model_id(
    values: SharedHyperparameters, given: Mapping[str, object], channel: ChannelInput | None
) -> SharedHyperparameters:
    """Set `backbone` and `image_shape` to those of the hyperparameter `model_id`.

    A SavedModel in the channel `model` is the model itself, if the backend can start from it.

    Args:
        values, given: the hyperparameters, typed and as the job sets them.
        channel: `model`.

    Raises:
        HyperparameterError: there is no such id, the backend has no backbone of its architecture,
            or the job names a network in another way, too.
        ChannelError, ArtifactError: the channel holds several archives, or a damaged one.
    """
    if not values.model_id:
        return values
    if others := [name for name in ("backbone", "num_layers") if given.get(name)]:
        raise HyperparameterError(
            f"model_id={values.model_id} and {others[0]}={given[others[0]]} both choose the "
            "network: set only one of them"
        )
    row, backend = model_ids.find(values.model_id), values.backend or ""
    given_row = channel_backbone(backend)
    if channel is not None and given_row is not None and is_saved_model(model_path(channel)):
        return values.with_value(SharedHyperparameters.backbone, given_row.name)
    chosen = model_ids.choose_backbone(row, backend, Path(environment.WEIGHTS_DIR.read()))
    if not values.image_shape:
        shape = f"3,{row.input_size},{row.input_size}"
        values = values.with_value(SharedHyperparameters.image_shape, shape)
    _logger.info(
        "model_id=%s: backbone=%s, image_shape=%s",
        *(row.model_id, chosen.name, values.image_shape),
    )
    return values.with_value(SharedHyperparameters.backbone, chosen.name)


def described_by_channel(
    values: SharedHyperparameters, channel: ChannelInput | None
) -> tuple[SharedHyperparameters, Backbone | None]:
    """Return the values and the row of a backbone in the channel `model`, as its files describe it.

    They give the size, if the job does not set `image_shape`, and the pixel scaling. The row is
    None if the backbone is not in the channel.

    Raises:
        HyperparameterError: neither the job nor the model says the size.
        ChannelError, ArtifactError: the channel holds several archives, or a damaged one.
    """
    row = channel_backbone(values.backend or "")
    if channel is None or row is None or values.backbone != row.name:
        return values, None
    path = model_path(channel)
    if is_artifact(path):
        return values, None
    with unpacked(path) as folder:
        base = read_base_model(folder)
    if base.scaling is not None:
        mean, std = base.scaling
        row = replace(row, mean=mean, std=std)
    if base.size is None and values.model_id:
        side = model_ids.find(values.model_id).input_size
        base = replace(base, size=(side, side))
    if base.size is None and not values.image_shape and base.is_readable:
        raise HyperparameterError(
            "channel model: its SavedModel accepts images of any size, and nothing in it says for "
            "which size it was made: set model_id, or image_shape=3,HEIGHT,WIDTH (3,224,224 is "
            "usual)"
        )
    if base.size is not None:
        height, width = base.size
        shape = f"3,{height},{width}"
        row = replace(row, input_size=min(base.size), resize=round(max(base.size) / _CROPPED))
        if not values.image_shape:
            values = values.with_value(SharedHyperparameters.image_shape, shape)
        _logger.info(
            "Channel model: made for images of %s, with pixel mean %s and std %s; the job uses "
            "image_shape=%s",
            *(shape, row.mean, row.std, values.image_shape),
        )
    return values, row


@contextmanager
def channel_backbone_folder(
    backbone: Backbone, channel: ChannelInput | None
) -> Iterator[Path | None]:
    """Yield the folder of the backbone's files; None unless the channel `model` is the backbone.

    Raises:
        ChannelError: there is no channel `model`, or it holds several archives or an artifact.
        ArtifactError: its archive is damaged, or has links or absolute paths.
    """
    if not backbone.is_given:
        yield None
        return
    if channel is None:
        raise ChannelError(
            f"backbone={backbone.name} reads its network from the channel model, which the job "
            "lacks: give the job that channel"
        )
    path = model_path(channel)
    if is_artifact(path):
        raise artifact_without_network(backbone.name)
    with unpacked(path) as folder:
        yield folder


def artifact_without_network(backbone: str) -> ChannelError:
    """Return the error of an artifact of a channel backbone: it has weights, but no network."""
    return ChannelError(
        f"channel model: its artifact has backbone={backbone} and contains only weights, not the "
        "network, so no job can start from it; give this job the SavedModel of the earlier job's "
        "channel, or an artifact of another backbone"
    )
