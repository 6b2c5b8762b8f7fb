"""A base model's own files say size and pixel scaling of its images; TensorFlow is not needed."""

from __future__ import annotations

import json
import logging
import tarfile
from pathlib import Path
from typing import Any

import pytest

from image_classification.base_model import read_base_model
from image_classification.contract.paths import JobPaths
from image_classification.errors import ArtifactError, HyperparameterError
from image_classification.records.tfrecord import encode_field, encode_varint
from image_classification.training.request import JobRequest, read_request
from tests.contract.jobs import write_job

FREE = 2**64 - 1  # a side of -1


def field(content: bytes, *numbers: int) -> bytes:
    """Wrap a message in the fields of these numbers, the innermost first."""
    for number in numbers:
        content = encode_field(number, content)
    return content


def shape(*sides: int) -> bytes:
    return b"".join(field(b"\x08" + encode_varint(side), 2) for side in sides)


def graph_with_signature(*sides: int) -> bytes:
    return field(shape(*sides), 3, 2, 1, 2, 5, 2)


def graph_with_function(*several: bytes) -> bytes:
    """A callable whose arguments are a tuple in a tuple, as TensorFlow writes them."""
    arguments = b"".join(field(field(one, 2, 33), 1) for one in several)
    return field(field(field(arguments, 52), 1), 52, 3, 2, 2, 7, 2)


def base_model(folder: Path, graph: bytes = b"", **info: Any) -> Path:
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "saved_model.pb").write_bytes(graph)
    if info:
        (folder / "__model_info__.json").write_text(json.dumps(info))
    return folder


@pytest.mark.parametrize(
    ("graph", "size"),
    [
        (graph_with_signature(FREE, 160, 160, 3), (160, 160)),
        (graph_with_signature(1, 96, 128, 3), (96, 128)),
        (graph_with_function(shape(FREE, 299, 299, 3)), (299, 299)),
        (graph_with_function(shape(FREE, 299, 299, 3), shape(FREE, 8, 8, 32)), (299, 299)),
        (graph_with_signature(FREE, FREE, FREE, 3), None),
        (graph_with_function(shape(FREE, FREE, FREE, 3)), None),
        (graph_with_function(shape(FREE, 32, 32, 3), shape(FREE, 64, 64, 3)), None),
        (graph_with_signature(FREE), None),
        (b"", None),
    ],
)
def test_the_size_is_that_of_the_signature_or_of_the_only_function_of_images(
    tmp_path: Path, graph: bytes, size: tuple[int, int] | None
) -> None:
    found = read_base_model(base_model(tmp_path / "base", graph))
    assert (found.size, found.scaling, found.is_readable) == (size, None, True)


@pytest.mark.parametrize(
    ("method", "mean", "std"),
    [
        ("normalize", (0.0,), (255.0,)),
        ("center", (127.5,), (127.5,)),
        ("standardize_on_imagenet", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    ],
)
def test_jumpstarts_model_info_gives_size_and_scaling_of_a_model_that_accepts_any_size(
    tmp_path: Path, method: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    info = {"image_size": [160, "192"], "Pixel_Scaling_Method": method, "finetuned": True}
    graph = graph_with_signature(FREE, FREE, FREE, 3)
    found = read_base_model(base_model(tmp_path / "base", graph, **info))
    assert (found.size, found.scaling, found.is_fine_tuned) == ((160, 192), (mean, std), True)


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"image_size": 160}, "has image_size=160: expected"),
        ({"image_size": [160, -1]}, "has image_size="),
        ({"image_size": [1, 2, 3]}, "has image_size="),
        ({"pixel_scaling_method": ["center"]}, "pixel_scaling_method=['center']: expected"),
        ({"pixel_scaling_method": "middle"}, "expected one of normalize, center, standardize"),
    ],
)
def test_an_impossible_model_info_is_an_error(
    tmp_path: Path, info: dict[str, Any], said: str
) -> None:
    with pytest.raises(ArtifactError, match=said.replace("[", r"\[")):
        read_base_model(base_model(tmp_path / "base", **info))
    (tmp_path / "base" / "__model_info__.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"__model_info__\.json cannot be read"):
        read_base_model(tmp_path / "base")


def test_a_damaged_graph_is_left_to_tensorflow_to_name(tmp_path: Path) -> None:
    assert not read_base_model(base_model(tmp_path / "base", b"graph")).is_readable


def request(tmp_path: Path, model: Path, **given: Any) -> JobRequest:
    (tmp_path / "images").mkdir(exist_ok=True)
    channels = {"training": tmp_path / "images", "model": model}
    base = write_job(tmp_path / "ml", {"backend": "tensorflow", **given}, channels)
    return read_request(JobPaths(base))


def test_a_job_trains_at_the_size_and_scaling_of_its_base_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    graph = graph_with_signature(FREE, FREE, FREE, 3)
    info = {"image_size": [160, 160], "pixel_scaling_method": "center"}
    packed = tmp_path / "channel"
    packed.mkdir()
    with tarfile.open(packed / "model.tar.gz", "w:gz") as archive:
        archive.add(base_model(tmp_path / "base", graph, **info), ".")
    settings = request(tmp_path, packed).settings
    images = settings.preprocessing
    assert (settings.backbone.name, images.height, images.width) == ("saved_model", 160, 160)
    assert (images.mean, images.std) == ((127.5,) * 3, (127.5,) * 3)
    assert "made for images of 3,160,160, with pixel mean (127.5,)" in caplog.text


def test_a_free_size_model_never_trains_at_a_size_nobody_chose(tmp_path: Path) -> None:
    model = base_model(tmp_path / "base", graph_with_signature(FREE, FREE, FREE, 3))
    with pytest.raises(HyperparameterError, match=r"any size.*set .*image_shape=3,HEIGHT,WIDTH"):
        request(tmp_path, model)


def test_a_size_that_the_job_sets_wins(tmp_path: Path) -> None:
    model = base_model(tmp_path / "base", graph_with_signature(FREE, FREE, FREE, 3))
    images = request(tmp_path, model, image_shape="3,96,96").settings.preprocessing
    assert (images.height, images.mean, images.std) == (96, (0.0,) * 3, (255.0,) * 3)
