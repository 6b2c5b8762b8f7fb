"""The hyperparameter `model_id` takes every id of JumpStart's image classifiers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from image_classification import backends
from image_classification.backends import model_ids
from image_classification.backends.backbones import BACKBONES
from image_classification.backends.base import Backbone
from image_classification.cli import main
from image_classification.contract.paths import JobPaths
from image_classification.errors import BackendError, HyperparameterError
from image_classification.training.request import JobRequest, read_request
from tests.contract.jobs import write_job

RESNETS = ("50", "101", "152")
BITS = ("r50x1", "r50x3", "r101x1", "r101x3")
OF_THE_GUIDE = [  # the table of the developer guide's IC-TF-Models.md
    *(f"imagenet-mobilenet-v2-{w}-224-classification-4" for w in (100, "075", "050", "035")),
    *(f"imagenet-mobilenet-v2-{w}-224-classification-4" for w in (140, 130)),
    *(f"tf2-preview-{name}-classification-4" for name in ("mobilenet-v2", "inception-v3")),
    *(f"imagenet-inception-{v}-classification-4" for v in ("v3", "v2", "v1", "resnet-v2")),
    *(f"imagenet-resnet-v2-{depth}-classification-4" for depth in RESNETS),
    *(f"imagenet-resnet-v1-{depth}-classification-4" for depth in RESNETS),
    "imagenet-resnet-50-classification-4",
    *(f"efficientnet-b{number}-classification-1" for number in range(8)),
    *(f"efficientnet-lite{number}-classification-2" for number in range(5)),
    *(
        f"imagenet-mobilenet-v1-{width}-{size}-classification-4"
        for width in (100, "075", "050", "025")
        for size in (224, 192, 160, 128)
    ),
    *(f"bit-{kind}-{r}-ilsvrc2012-classification-1" for kind in "sm" for r in BITS),
    *(f"bit-m-{r}-imagenet21k-classification-1" for r in BITS),
]
OF_PYTORCH = [  # aws/sagemaker-python-sdk, doc/algorithms/vision/image_classification_pytorch.rst
    *("alexnet", "googlenet", "mobilenet-v2", "shufflenet-v2-x1-0"),
    *(f"densenet{depth}" for depth in (121, 161, 169, 201)),
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    *("resnext101-32x8d", "resnext50-32x4d", "squeezenet1-0", "squeezenet1-1"),
    *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "-bn")),
    *("wide-resnet101-2", "wide-resnet50-2"),
]


def chosen(model_id: str, backend: str) -> Backbone | str:
    """The backbone, or the error that names the nearest one."""
    try:
        return model_ids.choose_backbone(model_ids.find(model_id), backend, Path("/none"))
    except HyperparameterError as error:
        return str(error)


@pytest.mark.parametrize("backend", backends.names())
def test_every_id_resolves_or_names_the_nearest_backbone(backend: str) -> None:
    ids = [f"tensorflow-ic-{name}" for name in OF_THE_GUIDE]
    assert len(set(ids)) == 60
    ids += [f"pytorch-ic-{name}" for name in OF_PYTORCH]
    assert set(ids) <= set(model_ids.table())
    catalog = backends.catalog(backend)
    for model_id in model_ids.table():
        found = chosen(model_id, backend)
        if isinstance(found, str):
            name = found.partition("set backbone=")[2].partition(",")[0]
            assert catalog.find(name), found
        else:
            assert found == catalog.find(found.name)


def test_every_backend_has_the_exact_architecture_of_36_of_the_60_ids_of_the_guide() -> None:
    rows = [model_ids.find(f"tensorflow-ic-{name}") for name in OF_THE_GUIDE]
    assert sum(any(name in BACKBONES for name in row.exact) for row in rows) == 36


def test_an_exact_backbone_normalizes_as_the_table_says() -> None:
    seen = 0
    for row in model_ids.table().values():
        for backend in backends.names():
            for name in row.exact:
                try:
                    found = backends.catalog(backend).find(name)
                except BackendError:
                    continue
                if not name.startswith("timm/"):  # timm's own configuration decides
                    assert (found.mean, found.std) == (row.mean, row.std), (row.model_id, name)
                    seen += 1
        assert row.weights in ("package", "file") if row.exact else ("SavedModel", "none")
        assert len(row.nearest) > 0 and row.input_size in range(96, 601)
    assert seen > 40


@pytest.mark.parametrize(
    "given",
    [
        "tensorflow-ic-efficientnet-lite0-classification-2",
        " TensorFlow-ic-efficientnet-lite0-classification-2 ",
        "https://tfhub.dev/tensorflow/efficientnet/lite0/classification/2",
        "tfhub.dev/tensorflow/efficientnet/lite0/feature-vector/2",
        "tensorflow/efficientnet/lite0/feature_vector",
    ],
)
def test_an_id_and_a_handle_are_read_in_every_form(given: str) -> None:
    row = model_ids.find(given)
    assert row.exact == ("efficientnet_lite0",) and row.weights == "package"
    moved = model_ids.find("https://tfhub.dev/google/efficientnet/b0/classification/1")
    assert moved.model_id == "tensorflow-ic-efficientnet-b0-classification-1"
    keys = [model_ids._handle_key(row.handle) for row in model_ids.table().values()]
    assert len(set(keys)) == len(keys) - 1  # two ids of one model


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("tensorflow-ic-efficientnet-b0", "did you mean tensorflow-ic-efficientnet-b0-classifi"),
        ("tensorflow-ic-efficientnet-lit0", "did you mean tensorflow-ic-efficientnet-lite0-classi"),
        ("pytorch-ic-resnet51", "did you mean pytorch-ic-resnet50"),
        ("llama", "expected an image classifier's id; image-classification describe"),
    ],
)
def test_an_unknown_id_is_an_error_with_the_nearest_ids(given: str, said: str) -> None:
    with pytest.raises(HyperparameterError, match=said) as caught:
        model_ids.find(given)
    assert "describe --model-ids" in str(caught.value)


def test_an_id_without_its_architecture_says_every_way() -> None:
    said = str(chosen("tensorflow-ic-bit-s-r50x1-ilsvrc2012-classification-1", "torch"))
    assert "set backbone=resnet50_v1.5, the nearest one" in said
    assert "SavedModel in the channel model to a job with backend=tensorflow" in said
    said = str(chosen("tensorflow-ic-efficientnet-v2-imagenet1k-b0", "torch"))
    assert "use backend=tensorflow, which has it (keras/EfficientNetV2B0)" in said
    said = str(chosen("pytorch-ic-vgg16", "mxnet"))
    assert "use backend=torch, which has it (timm/vgg16)" in said and "SavedModel" not in said


def test_an_id_of_timm_names_timm_where_it_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    said = str(chosen("pytorch-ic-vgg16", "mxnet"))
    assert "use backend=torch, which has it (timm/vgg16)" in said
    said = str(chosen("pytorch-ic-vgg16", "torch"))
    assert "set backbone=" in said and "install timm, which has it (timm/vgg16)" in said


def test_a_backbone_with_weights_comes_first(tmp_path: Path) -> None:
    row = model_ids.find("tensorflow-ic-imagenet-mobilenet-v2-100-224-classification-4")
    (tmp_path / "keras").mkdir()
    (tmp_path / "keras" / "MobileNetV2.h5").write_bytes(b"weights")
    found = model_ids.choose_backbone(row, "tensorflow", tmp_path)
    assert found.name == "keras/MobileNetV2"


def request(tmp_path: Path, model: Path | None = None, **given: Any) -> JobRequest:
    (tmp_path / "images").mkdir(exist_ok=True)
    channels = {"training": tmp_path / "images"} | ({"model": model} if model else {})
    return read_request(JobPaths(write_job(tmp_path / "ml", given, channels)))


def test_a_job_takes_backbone_and_size_from_its_model_id(tmp_path: Path) -> None:
    settings = request(
        tmp_path, model_id="tensorflow-ic-efficientnet-lite2-classification-2", preset="transfer"
    ).settings
    assert settings.backbone.name == "efficientnet_lite2"  # not that of the preset
    assert settings.preprocessing.height == settings.preprocessing.width == 260


def test_model_id_and_another_name_of_the_network_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(HyperparameterError, match="both choose the network: set only one"):
        request(tmp_path, model_id="pytorch-ic-resnet18", backbone="resnet18")


def test_the_saved_model_in_the_channel_is_the_model_of_its_id(tmp_path: Path) -> None:
    (tmp_path / "base" / "1").mkdir(parents=True)
    (tmp_path / "base" / "1" / "saved_model.pb").write_bytes(b"")
    given = {"model_id": "tensorflow-ic-imagenet-mobilenet-v1-025-128-classification-4"}
    settings = request(tmp_path, tmp_path / "base", backend="tensorflow", **given).settings
    assert settings.backbone.name == "saved_model"
    assert (settings.preprocessing.height, settings.preprocessing.width) == (128, 128)


def test_describe_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "--model-ids"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("model_id,handle,exact,") and len(lines) == 164
