"""Channels: the named inputs of a job, as declared by an interface and as found on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from image_classification.contract.environment import JobPaths, read_json
from image_classification.errors import ChannelError


@dataclass(frozen=True)
class Channel:
    """A declared channel: its name, whether a job must have it, and what it may contain."""

    name: str
    required: bool
    content_types: tuple[str, ...]
    meaning: str


MODEL_CHANNEL = Channel(
    "model",
    False,
    ("application/x-sagemaker-model",),
    "model.tar.gz of an earlier job to go on from.",
)


@dataclass(frozen=True)
class ChannelInput:
    """A channel of this job.

    Attributes:
        name: its name.
        path: its folder.
        content_type: without parameters and in lower case; "" when the job does not say.
        is_sharded: whether each host sees another part of it (S3DistributionType=ShardedByS3Key).
    """

    name: str
    path: Path
    content_type: str = ""
    is_sharded: bool = False


def read_channels(paths: JobPaths) -> dict[str, ChannelInput]:
    """The job's channels: those of `paths`, of inputdataconfig.json, or the folders there are.

    Raises:
        ChannelError: a channel in an input mode other than File or FastFile, or without a folder.
    """
    if paths.channel_folders:
        given = sorted(paths.channel_folders.items())
        return {name: ChannelInput(name, _existing(name, folder)) for name, folder in given}
    config = read_json(paths.config / "inputdataconfig.json")
    if not config:
        folders = sorted(path for path in paths.data.glob("[!.]*") if path.is_dir())
        return {folder.name: ChannelInput(folder.name, folder) for folder in folders}
    return {name: _configured(name, entry, paths) for name, entry in sorted(config.items())}


def _configured(name: str, entry: object, paths: JobPaths) -> ChannelInput:
    settings = entry if isinstance(entry, Mapping) else {}
    mode = str(settings.get("TrainingInputMode", "File"))
    if mode not in {"File", "FastFile"}:
        raise ChannelError(
            f"channel {name}: TrainingInputMode={mode!r} is not supported by this version; "
            "use File or FastFile"
        )
    path = _existing(name, paths.data / name)
    content_type, _, parameters = str(settings.get("ContentType") or "").lower().partition(";")
    if "multi-hot" in parameters:
        raise ChannelError(
            f"channel {name}: ContentType {settings['ContentType']!r} asks for several labels an "
            "image, which this version does not support; use label-format=class-id"
        )
    is_sharded = settings.get("S3DistributionType") == "ShardedByS3Key"
    return ChannelInput(name, path, content_type.strip(), is_sharded)


def _existing(name: str, folder: Path) -> Path:
    if not folder.is_dir():
        raise ChannelError(f"channel {name}: its folder {folder} does not exist")
    return folder


def check_channels(declared: Sequence[Channel], given: Mapping[str, ChannelInput]) -> None:
    """Refuse missing, extra and mistyped channels, all problems in one ChannelError."""
    known = {channel.name: channel for channel in declared}
    problems = [
        f"Missing required channel: {channel.name}"
        for channel in declared
        if channel.required and channel.name not in given
    ]
    for name, channel_input in given.items():
        channel = known.get(name)
        if channel is None:
            problems.append(f"Extraneous channel found: {name}; expected {', '.join(known)}")
        elif (
            channel.content_types
            and channel_input.content_type
            and channel_input.content_type not in channel.content_types
        ):
            problems.append(
                f"channel {name}: ContentType {channel_input.content_type!r} is not one of "
                + ", ".join(channel.content_types)
            )
    if problems:
        raise ChannelError("; ".join(problems))
