"""Channels in inputdataconfig.json: which are accepted, which are refused, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from image_classification.contract.channels import ChannelInput, check_channels, read_channels
from image_classification.contract.interface import INTERFACES
from image_classification.contract.paths import JobPaths
from image_classification.errors import ChannelError


def read(base: Path, channels: Mapping[str, Mapping[str, str]]) -> dict[str, ChannelInput]:
    config = base / "input" / "config"
    config.mkdir(parents=True, exist_ok=True)
    (config / "inputdataconfig.json").write_text(json.dumps(channels))
    for name, entry in channels.items():
        if entry.get("TrainingInputMode") != "Pipe":
            (base / "input" / "data" / name).mkdir(parents=True, exist_ok=True)
    return read_channels(JobPaths(base))


def check(base: Path, interface: str = "mxnet", **channels: Mapping[str, str]) -> None:
    check_channels(INTERFACES[interface].channels, read(base, channels))


@pytest.mark.parametrize(
    ("text", "content_type", "label_format"),
    [
        ("application/x-recordio", "application/x-recordio", ""),
        ("Application/X-RecordIO; label-format=class-id", "application/x-recordio", "class-id"),
        ("application/x-recordio;label-format=multi-hot", "application/x-recordio", "multi-hot"),
        ("application/x-image; charset=binary", "application/x-image", ""),
        ("", "", ""),
    ],
)
def test_a_content_type_can_have_parameters(
    tmp_path: Path, text: str, content_type: str, label_format: str
) -> None:
    channel = read(tmp_path, {"train": {"ContentType": text}})["train"]
    assert (channel.content_type, channel.label_format) == (content_type, label_format)


def test_local_mode_sets_only_the_input_mode(tmp_path: Path) -> None:
    channel = read(tmp_path, {"train": {"TrainingInputMode": "File"}})["train"]
    assert channel == ChannelInput("train", tmp_path / "input" / "data" / "train")


def test_the_error_of_an_unknown_label_format_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        ChannelError, match="label-format='one-hot'; expected class-id or multi-hot"
    ):
        read(tmp_path, {"train": {"ContentType": "application/x-recordio; label-format=one-hot"}})


def test_a_pipe_needs_no_folder_and_a_folder_channel_does(tmp_path: Path) -> None:
    pipe = {"TrainingInputMode": "Pipe", "RecordWrapperType": "RecordIO"}
    channel = read(tmp_path, {"train": pipe})["train"]
    assert channel.is_pipe and channel.is_wrapped
    config = tmp_path / "input" / "config" / "inputdataconfig.json"
    config.write_text(json.dumps({"elsewhere": {"TrainingInputMode": "FastFile"}}))
    with pytest.raises(ChannelError, match=r"channel elsewhere: its folder .* does not exist"):
        read_channels(JobPaths(tmp_path))
    with pytest.raises(ChannelError, match="TrainingInputMode='Stream' is unknown"):
        read(tmp_path, {"train": {"TrainingInputMode": "Stream"}})


def test_a_channel_that_is_a_file_names_the_folder_to_give(tmp_path: Path) -> None:
    (tmp_path / "train.rec").touch()
    with pytest.raises(ChannelError, match=rf"train\.rec is a file; give its folder, {tmp_path}$"):
        read_channels(JobPaths(tmp_path, {"train": tmp_path / "train.rec"}))
    (tmp_path / "train.zip").touch()
    with pytest.raises(ChannelError, match=r"python -m zipfile -e .*train\.zip DIR\) and give DIR"):
        read_channels(JobPaths(tmp_path, {"train": tmp_path / "train.zip"}))


def test_a_channel_in_s3_names_the_command_that_downloads_it(tmp_path: Path) -> None:
    with pytest.raises(ChannelError, match="aws s3 sync s3://bucket/flowers train"):
        read_channels(JobPaths(tmp_path, {"train": Path("s3://bucket/flowers")}))


def test_every_mode_and_content_of_the_mxnet_interface_is_accepted(tmp_path: Path) -> None:
    images = {"ContentType": "application/x-image"}
    check(tmp_path / "1", train=images, validation=images, train_lst=images, validation_lst=images)
    records = {"ContentType": "application/x-recordio", "TrainingInputMode": "Pipe"}
    check(tmp_path / "2", train=records, validation=records)
    manifest = {"TrainingInputMode": "Pipe", "RecordWrapperType": "RecordIO"}
    manifest["ContentType"] = "application/x-recordio; label-format=multi-hot"
    check(tmp_path / "3", train=manifest, validation=manifest)
    fast = {"TrainingInputMode": "FastFile", "S3DistributionType": "FullyReplicated"}
    model = {"ContentType": "application/x-sagemaker-model", "TrainingInputMode": "File"}
    check(tmp_path / "4", train=fast, validation=fast, model=model)


def test_one_error_lists_all_problems_of_the_channels(tmp_path: Path) -> None:
    with pytest.raises(ChannelError) as raised:
        check(
            tmp_path,
            train_lst={},
            holdout={},
            validation={"ContentType": "text/csv"},
            model={"TrainingInputMode": "Pipe"},
        )
    message = str(raised.value)
    assert "Missing required channel: train;" in message
    assert "Extraneous channel found: holdout" in message
    assert "channel validation: ContentType 'text/csv' is not one of application/x-rec" in message
    assert "channel model: TrainingInputMode='Pipe' is not one of File" in message
    assert "Missing required channel: validation_lst" in message


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ({"train": {}, "validation": {}, "validation_lst": {}}, "Missing .* channel: train_lst"),
        (
            {"train": {"ContentType": "application/x-recordio"}, "train_lst": {}},
            "a list names image files, but channel train has a ContentType of records",
        ),
        (
            {"train": {"TrainingInputMode": "Pipe"}, "train_lst": {}},
            "a list names image files, but channel train has TrainingInputMode=Pipe",
        ),
        (
            {"train": {"ContentType": "image/png", "TrainingInputMode": "Pipe"}},
            "images through a pipe need RecordWrapperType=RecordIO",
        ),
        ({"train": {"RecordWrapperType": "RecordIO"}}, "works only in Pipe mode"),
    ],
)
def test_contradictory_channels_are_refused(
    tmp_path: Path, channels: Mapping[str, Mapping[str, str]], message: str
) -> None:
    with pytest.raises(ChannelError, match=message):
        check(tmp_path, **channels)


def test_the_tensorflow_interface_refuses_pipes_like_its_built_in(tmp_path: Path) -> None:
    with pytest.raises(ChannelError, match="channel training: TrainingInputMode='Pipe' is not"):
        check(tmp_path, "tensorflow", training={"TrainingInputMode": "Pipe"})
