"""Folders of weights: which file counts, and what Hugging Face's and timm's folders say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from image_classification.errors import ArtifactError
from image_classification.weights.folder import (
    Description,
    describe,
    description_of,
    find_weights,
)

TIMM = {
    "architecture": "resnet50",
    "num_classes": 2,
    "label_names": ["cat", "dog"],
    "pretrained_cfg": {
        "license": "apache-2.0",
        "input_size": [3, 288, 288],
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
    },
}
TRANSFORMERS = {
    "architectures": ["ResNetForImageClassification"],
    "id2label": {"0": "cat", "1": "dog"},
}
PREPROCESSOR = {
    "crop_pct": 0.875,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "resample": 3,
    "size": {"shortest_edge": 224},
}


def folder_of(folder: Path, **files: Any) -> Path:
    """A folder with a file of weights; returns the path of that."""
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").touch()
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text)
    return folder / "model.safetensors"


def test_timms_folder_says_size_normalization_classes_and_license(tmp_path: Path) -> None:
    assert describe(folder_of(tmp_path / "m", config__json=TIMM)) == Description(
        architecture="resnet50",
        mean=(127.5,) * 3,
        std=(63.75,) * 3,
        input_size=288,
        resize=303,
        interpolation="bicubic",
        labels=("cat", "dog"),
        license="apache-2.0",
    )


def test_transformers_folder_says_the_same_in_two_files_and_the_model_card(tmp_path: Path) -> None:
    weights = folder_of(
        tmp_path / "m",
        config__json=TRANSFORMERS,
        preprocessor_config__json=PREPROCESSOR,
        README__md="---\nlicense: apache-2.0\ntags:\n- vision\n---\n# ResNet\nlicense: other\n",
    )
    found = describe(weights)
    assert (found.input_size, found.resize, found.interpolation) == (224, 256, "bicubic")
    assert found.mean == pytest.approx((123.675, 116.28, 103.53))
    assert found.std == pytest.approx((58.395, 57.12, 57.375))
    assert (found.labels, found.license) == (("cat", "dog"), "apache-2.0")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"size": 224}, (224, 224)),
        ({"size": {"height": 192, "width": 192}}, (192, 192)),
        (
            {"size": {"shortest_edge": 256}, "crop_size": {"height": 224}, "do_center_crop": True},
            (224, 256),
        ),
    ],
)
def test_the_forms_in_which_transformers_writes_a_size_are_read(
    tmp_path: Path, given: dict[str, Any], expected: tuple[int, int]
) -> None:
    weights = folder_of(tmp_path / "m", config__json=TRANSFORMERS, preprocessor_config__json=given)
    found = describe(weights)
    assert (found.input_size, found.resize) == expected


def test_names_that_transformers_made_up_are_no_class_names(tmp_path: Path) -> None:
    config = TRANSFORMERS | {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}
    assert describe(folder_of(tmp_path / "m", config__json=config)).labels == ()


@pytest.mark.parametrize(
    "change",
    [
        {"mean": [0.5]},
        {"std": [0, 0, 0]},
        {"mean": ["a", "b", "c"]},
        {"mean": [1e999, 0, 0]},
        {"input_size": [3, 100_000, 100_000]},
        {"input_size": []},
        {"crop_pct": 0},
        {"crop_pct": "x"},
    ],
    ids=lambda change: "-".join(change),
)
def test_an_impossible_configuration_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    config = TIMM | {"pretrained_cfg": TIMM["pretrained_cfg"] | change}  # type: ignore[operator]
    with pytest.raises(ArtifactError, match=r"config\.json"):
        describe(folder_of(tmp_path / "m", config__json=config))


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "x" * 9_000_000])
def test_a_configuration_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ArtifactError, match=r"config\.json: expected a JSON object"):
        describe(folder_of(tmp_path / "m", config__json=text))


def test_the_weights_of_a_hub_are_found_below_a_folder_and_through_links(tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (blobs / "abc").touch()
    snapshot = tmp_path / "snapshot" / "1"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(blobs / "abc")  # as the hub's cache has them
    (snapshot / "pytorch_model.bin").touch()
    (snapshot / "README.md").touch()
    assert find_weights(tmp_path / "snapshot") == snapshot / "model.safetensors"


def test_one_file_of_weights_in_a_folder_is_found_whatever_lies_beside_it(tmp_path: Path) -> None:
    for name in ("resnet50.md", "LICENSE", ".DS_Store", "resnet50-0676ba61.pth"):
        (tmp_path / name).touch()
    assert find_weights(tmp_path).name == "resnet50-0676ba61.pth"


def test_several_or_no_files_of_weights_are_listed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ArtifactError, match=r"expected a file of weights .* got notes\.txt"):
        find_weights(tmp_path)
    for name in ("a.pth", "b.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(ArtifactError, match=r"got a\.pth, b\.safetensors; name one"):
        find_weights(tmp_path)


def test_a_mean_in_the_metadata_beyond_every_float_is_refused() -> None:
    said = {"mean": f"[{10**400}]", "std": "[1]"}
    with pytest.raises(ArtifactError, match="x: its metadata: int too large"):
        description_of(said, Path("x"))
