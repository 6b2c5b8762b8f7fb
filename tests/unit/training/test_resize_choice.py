"""The `resize` of a job that does not set it."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
from PIL import Image

from image_classification.contract.channels import ChannelInput
from image_classification.contract.interface import INTERFACES
from image_classification.errors import ChannelError
from image_classification.records.format import RecordHeader, pack_image_record
from image_classification.records.writer import RecordWriter
from image_classification.training.final_settings import final_settings
from image_classification.training.inputs import open_inputs
from image_classification.training.settings import settings_of


def image(width: int, height: int) -> bytes:
    body = io.BytesIO()
    Image.new("RGB", (width, height)).save(body, "JPEG")
    return body.getvalue()


def write_records(folder: Path, sizes: list[tuple[int, int]]) -> None:
    folder.mkdir(parents=True)
    with RecordWriter(folder / "data.rec") as writer:
        for number, size in enumerate(sizes):
            content = image(*size) if size[0] else b"no image"
            writer.write(pack_image_record(RecordHeader(number % 2, number), content), number)


def write_files(folder: Path, sizes: list[tuple[int, int]]) -> None:
    for number, size in enumerate(sizes):
        path = folder / str(number % 2) / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(*size))


def resize_of_job(root: Path, **hyperparameters: str) -> int | None:
    given = {"image_shape": "3,32,32", "num_layers": "20", "labels": "0,1"} | hyperparameters
    settings = settings_of(INTERFACES["mxnet"].parse(given))
    channels = {name: ChannelInput(name, root / name) for name in ("train", "validation")}
    inputs = open_inputs(channels, settings, "train")
    return final_settings(settings, inputs).preprocessing.resize


def test_resize_is_the_shorter_side_of_nearly_all_records(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sizes = [(60, 48), (48, 70)] * 100 + [(40, 40), (0, 0)]
    for name in ("train", "validation"):
        write_records(tmp_path / name, sizes)
    assert resize_of_job(tmp_path) == 48
    assert caplog.text.count("using 48") == 1
    assert resize_of_job(tmp_path, resize="50") == 50, "what the job says wins"


def test_records_of_many_sizes_are_not_resized_and_a_warning_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("train", "validation"):
        write_records(tmp_path / name, [(60, 48), (70, 50)])
    assert resize_of_job(tmp_path) is None
    assert "their shorter sides are 48 to 50 pixels" in caplog.text
    assert "send photos of the same size as the records, or set resize" in caplog.text


@pytest.mark.parametrize("packed", ["train", "validation"])
def test_records_next_to_image_files_need_one_size_or_a_resize(tmp_path: Path, packed: str) -> None:
    (other,) = {"train", "validation"} - {packed}
    write_files(tmp_path / other, [(200, 100), (90, 100)])
    write_records(tmp_path / packed, [(60, 48), (70, 50)])
    with pytest.raises(
        ChannelError, match=f"{other} holds image files, {packed} holds records.*set res"
    ):
        resize_of_job(tmp_path)
    assert resize_of_job(tmp_path, resize="40") == 40


@pytest.mark.parametrize("packed", ["train", "validation"])
def test_image_files_are_resized_to_the_one_size_of_the_records(
    tmp_path: Path, packed: str
) -> None:
    (other,) = {"train", "validation"} - {packed}
    write_files(tmp_path / other, [(200, 100), (90, 100)])
    write_records(tmp_path / packed, [(60, 48), (48, 50)])
    assert resize_of_job(tmp_path) == 48
