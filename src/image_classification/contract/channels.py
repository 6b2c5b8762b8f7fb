"""Channels, the named inputs of a job: what an interface declares and what a job has."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from image_classification.contract.paths import JobPaths, read_json
from image_classification.errors import ChannelError

FOLDER_MODES = ("File", "FastFile")
ALL_MODES = (*FOLDER_MODES, "Pipe")
LABEL_FORMATS = ("class-id", "multi-hot")
LIST_SUFFIX = "_lst"
"""The channel `x_lst` holds the list of the images in the channel `x`."""


@dataclass(frozen=True)
class Channel:
    """A channel that an interface declares.

    Attributes:
        name: its name.
        required: a job without it fails.
        content_types: the legal values of ContentType, without parameters; empty: any value.
        meaning: one sentence for the reference.
        input_modes: the legal values of TrainingInputMode.
    """

    name: str
    required: bool
    content_types: tuple[str, ...]
    meaning: str
    input_modes: tuple[str, ...] = FOLDER_MODES


MODEL_CHANNEL = Channel(
    "model",
    False,
    ("application/x-sagemaker-model",),
    "Start from this model.tar.gz of an earlier job or of the MXNet built-in, or this SavedModel.",
    input_modes=("File",),
)
WEIGHTS_CHANNEL = Channel(
    "weights",
    False,
    (),
    "Start from this public file of pretrained weights: safetensors, PyTorch's .pth, Keras's .h5 "
    "or .keras, MXNet's .params, the folder of a Hugging Face or timm model, or a .tar.gz of one.",
    input_modes=("File",),
)


@dataclass(frozen=True)
class ChannelInput:
    """A channel of this job.

    Attributes:
        name: its name.
        path: its folder; for a pipe, the path of its FIFOs without `_<pass>`.
        content_type: without parameters and in lower case; "" if the job does not set it.
        is_sharded: each host has other objects of it (S3DistributionType=ShardedByS3Key).
        mode: File, FastFile or Pipe.
        label_format: class-id or multi-hot, a parameter of ContentType; "" without it.
        is_wrapped: each object is wrapped in a record (RecordWrapperType=RecordIO).
        root: the folder of the channel, if `path` is the folder of a split in it.
    """

    name: str
    path: Path
    content_type: str = ""
    is_sharded: bool = False
    mode: str = "File"
    label_format: str = ""
    is_wrapped: bool = False
    root: Path | None = None

    @property
    def is_pipe(self) -> bool:
        """Whether it is a series of FIFOs instead of a folder."""
        return self.mode == "Pipe"


def read_channels(paths: JobPaths) -> dict[str, ChannelInput]:
    """Return the channels of a job: those of `paths`, of inputdataconfig.json, or all folders.

    Raises:
        ChannelError: a channel has an unknown input mode or label format, or no folder.
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
    mode = str(settings.get("TrainingInputMode") or "File")
    if mode not in ALL_MODES:
        raise ChannelError(
            f"channel {name}: TrainingInputMode={mode!r} is unknown; use {', '.join(ALL_MODES)}"
        )
    path = paths.data / name
    content_type, _, parameters = str(settings.get("ContentType") or "").lower().partition(";")
    return ChannelInput(
        name,
        path if mode == "Pipe" else _existing(name, path),
        content_type.strip(),
        is_sharded=settings.get("S3DistributionType") == "ShardedByS3Key",
        mode=mode,
        label_format=_label_format(name, parameters),
        is_wrapped=str(settings.get("RecordWrapperType")) == "RecordIO",
    )


def _label_format(name: str, parameters: str) -> str:
    for parameter in parameters.split(";"):
        key, _, value = (word.strip().strip('"') for word in parameter.partition("="))
        if key == "label-format":
            if value not in LABEL_FORMATS:
                raise ChannelError(
                    f"channel {name}: ContentType has label-format={value!r}; expected "
                    f"{' or '.join(LABEL_FORMATS)}"
                )
            return value
    return ""


def _existing(name: str, folder: Path) -> Path:
    if name == WEIGHTS_CHANNEL.name and not str(folder).startswith("s3:/"):
        if not folder.exists():
            raise ChannelError(f"channel {name}: {folder} does not exist")
        return folder  # on a laptop also the file alone
    if folder.is_file():
        quoted, ending = shlex.quote(str(folder)), folder.name.lower()
        cure = f"give its folder, {folder.parent}"
        if ending.endswith(".zip"):
            cure = f"unpack it (python -m zipfile -e {quoted} DIR) and give DIR"
        elif ending.endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")):
            cure = f"unpack it (mkdir DIR; tar -xf {quoted} -C DIR) and give DIR"
        raise ChannelError(f"channel {name}: {folder} is a file; {cure}")
    if str(folder).startswith("s3:/"):
        address = str(folder).replace("s3:/", "s3://", 1)  # a path loses one of the slashes
        raise ChannelError(
            f"channel {name}: {address} is not on this machine; download it first (aws s3 sync "
            f"{address} {name}) and give that folder"
        )
    if not folder.is_dir():
        raise ChannelError(f"channel {name}: its folder {folder} does not exist")
    return folder


def check_channels(declared: Sequence[Channel], given: Mapping[str, ChannelInput]) -> None:
    """Refuse missing, extra, mistyped and contradictory channels.

    Raises:
        ChannelError: lists every problem.
    """
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
        else:
            problems += _problems_of(channel, channel_input)
    problems += _list_problems(given)
    if problems:
        raise ChannelError("; ".join(problems))


def _problems_of(channel: Channel, given: ChannelInput) -> Iterator[str]:
    allowed = channel.content_types
    if allowed and given.content_type and given.content_type not in allowed:
        yield (
            f"channel {given.name}: ContentType {given.content_type!r} is not one of "
            + ", ".join(allowed)
        )
    if given.mode not in channel.input_modes:
        yield (
            f"channel {given.name}: TrainingInputMode={given.mode!r} is not one of "
            + ", ".join(channel.input_modes)
        )
    elif given.is_pipe and not given.is_wrapped and "image" in given.content_type:
        yield (
            f"channel {given.name}: images through a pipe need RecordWrapperType=RecordIO and an "
            "augmented manifest, which mark where each image ends and which class it has"
        )
    elif given.is_wrapped and not given.is_pipe:
        yield (
            f"channel {given.name}: RecordWrapperType=RecordIO works only in Pipe mode; leave it "
            f"out, or set TrainingInputMode=Pipe instead of {given.mode}"
        )


def _list_problems(given: Mapping[str, ChannelInput]) -> Iterator[str]:
    lists = [name for name in given if name.endswith(LIST_SUFFIX)]
    for name in lists:
        images = given.get(name.removesuffix(LIST_SUFFIX))
        if images is None:
            yield f"Missing required channel: {name.removesuffix(LIST_SUFFIX)} (images of {name})"
        elif images.is_pipe or images.content_type == "application/x-recordio":
            yield (
                f"channel {name}: a list names image files, but channel {images.name} has "
                f"{'TrainingInputMode=Pipe' if images.is_pipe else 'a ContentType of records'}; "
                f"leave {name} out, or give {images.name} as image files in File mode"
            )
    if lists and "validation" in given and f"validation{LIST_SUFFIX}" not in given:
        yield f"Missing required channel: validation{LIST_SUFFIX} (the job has {lists[0]})"
    if lists and f"train{LIST_SUFFIX}" not in given:
        yield f"Missing required channel: train{LIST_SUFFIX} (the job has {lists[0]})"
