"""Reading the MXNet built-in's files without MXNet, and errors for damaged and foreign files."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image_classification.backends import networks
from image_classification.backends.mxnet_archive import (
    SHAPES_FILE,
    SYMBOL_FILE,
    read_built_in,
    read_params,
)
from image_classification.errors import ArtifactError
from tests.unit.backends.built_in_archive import params_bytes, write_archive

ARRAYS = {
    "arg:a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "aux:b": np.array([1, 2], np.float16),
    "arg:c": np.array([[[7]]], np.int64),
}


def test_arrays_of_every_type_are_read_with_their_names(tmp_path: Path) -> None:
    (tmp_path / "x.params").write_bytes(params_bytes(ARRAYS))
    found = read_params(tmp_path / "x.params")
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_a_file_from_before_mxnet_1_is_read(tmp_path: Path) -> None:
    """There an array begins with its number of dimensions, and sizes have 32 bits."""
    array = struct.pack("<III", 2, 1, 2) + struct.pack("<iii", 1, 0, 0) + struct.pack("<ff", 3, 4)
    content = struct.pack("<QQQ", 0x112, 0, 1) + array + struct.pack("<QQ", 1, 5) + b"arg:x"
    (tmp_path / "x.params").write_bytes(content)
    np.testing.assert_array_equal(read_params(tmp_path / "x.params")["arg:x"], [[3, 4]])


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_file_is_rejected_or_read_but_never_crashes_the_reader(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(params_bytes(ARRAYS))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "x.params"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        read_params(path)
    except ArtifactError as error:
        assert "x.params, byte " in str(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[:-1], "truncated"),
        (lambda c: c + b"x", "1 unexpected bytes at the end"),
        (lambda c: b"PK" + c[2:], "expected an MXNet .params"),
        (lambda c: c[:16] + struct.pack("<Q", 2**60) + c[24:], "entries do not fit"),
        (lambda c: c[:28] + struct.pack("<i", 1) + c[32:], "storage type 1"),
        (lambda c: c[:36] + struct.pack("<q", 2**62) + c[44:], "truncated"),
    ],
)
def test_the_error_says_what_is_wrong_with_a_file(
    tmp_path: Path, change: object, message: str
) -> None:
    (tmp_path / "x.params").write_bytes(change(params_bytes(ARRAYS)))  # type: ignore[operator]
    with pytest.raises(ArtifactError, match=message):
        read_params(tmp_path / "x.params")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_archive_becomes_a_resnet_under_neutral_names(tmp_path: Path, dtype: str) -> None:
    arrays = write_archive(tmp_path, classes=5, dtype=dtype)
    model = read_built_in(tmp_path)
    assert (model.backbone, model.input_shape, model.classes) == ("resnet20", (3, 32, 32), 5)
    assert (model.epoch, model.multi_label) == (7, False)
    shapes = networks.network("resnet20", (3, 32, 32)).tensor_shapes()
    shapes |= {"head.weight": (5, 64), "head.bias": (5,)}
    assert {k.removeprefix("weight/"): v.shape for k, v in model.weights.items()} == shapes
    assert {v.dtype for v in model.weights.values()} == {np.dtype(np.float32)}
    for ours, theirs in {
        "weight/stem.conv.weight": "arg:conv0_weight",
        "weight/stage2.block1.shortcut.weight": "arg:stage2_unit1_sc_weight",
        "weight/stage3.block2.bn1.running_var": "aux:stage3_unit2_bn1_moving_var",
        "weight/final.bn.bias": "arg:bn1_beta",
    }.items():
        np.testing.assert_array_equal(model.weights[ours], arrays[theirs].astype(np.float32))


def test_the_last_of_several_epochs_is_read(tmp_path: Path) -> None:
    write_archive(tmp_path, epoch=12, seed=1)
    newest = read_built_in(tmp_path).weights
    write_archive(tmp_path, epoch=3)
    assert read_built_in(tmp_path).epoch == 12
    assert np.array_equal(
        read_built_in(tmp_path).weights["weight/head.bias"], newest["weight/head.bias"]
    )


def _edit_symbol(folder: Path, name: str, attribute: str, value: str) -> None:
    path = folder / "image-classification-symbol.json"
    graph = json.loads(path.read_text())
    next(n for n in graph["nodes"] if n["name"] == name)["attrs"][attribute] = value
    path.write_text(json.dumps(graph))


def test_a_batchnorm_without_a_scale_of_its_own_has_ones(tmp_path: Path) -> None:
    write_archive(tmp_path)
    _edit_symbol(tmp_path, "bn1", "fix_gamma", "True")
    assert (read_built_in(tmp_path).weights["weight/final.bn.weight"] == 1).all()


@pytest.mark.parametrize(
    ("name", "attribute", "value"),
    [
        ("conv0", "stride", "(2, 2)"),
        ("bn1", "eps", "0.001"),
        ("stage1_unit1_conv1", "pad", "(0, 0)"),
    ],
)
def test_a_network_with_the_same_names_but_other_layers_is_rejected(
    tmp_path: Path, name: str, attribute: str, value: str
) -> None:
    write_archive(tmp_path)
    _edit_symbol(tmp_path, name, attribute, value)
    with pytest.raises(ArtifactError, match=f"{name} has {attribute}="):
        read_built_in(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("image-classification-symbol.json", None, "not an archive of the MXNet built-in"),
        ("image-classification-0007.params", None, "not an archive of the MXNet built-in"),
        ("image-classification-symbol.json", "{}", "not an MXNet graph"),
        ("image-classification-symbol.json", '{"nodes": []}', "expected a ResNet of the built-in"),
        ("model-shapes.json", None, "model-shapes.json: expected"),
        (
            "model-shapes.json",
            '[{"name": "data", "shape": [1, 4, 8, 8]}]',
            "expected images with 1 or 3 channels",
        ),
    ],
)
def test_the_error_names_what_an_archive_lacks(
    tmp_path: Path, file: str, content: str | None, message: str
) -> None:
    write_archive(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(ArtifactError, match=message):
        read_built_in(tmp_path)


def test_the_error_names_a_missing_array(tmp_path: Path) -> None:
    arrays = write_archive(tmp_path)
    del arrays["aux:stage1_unit2_bn1_moving_mean"]
    (tmp_path / "image-classification-0007.params").write_bytes(params_bytes(arrays))
    with pytest.raises(ArtifactError, match=r"bn1_moving_mean should be .* is absent"):
        read_built_in(tmp_path)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (SYMBOL_FILE, "", "[" * 100_000),
        (SYMBOL_FILE, '"(3, 3)"', '"' + "-" * 100_000 + '1"'),
        (SYMBOL_FILE, '"(3, 3)"', '"' + "(" * 5_000 + '"'),
        (SHAPES_FILE, "", "[" * 100_000),
        (SHAPES_FILE, "", '[{"name": "data", "shape": [1, 3, 1e999, 32]}]'),
        (SHAPES_FILE, "", '[{"name": "data", "shape": 3}]'),
    ],
)
def test_text_that_exhausts_a_parser_is_rejected(
    tmp_path: Path, file: str, old: str, new: str
) -> None:
    write_archive(tmp_path)
    text = (tmp_path / file).read_text()
    (tmp_path / file).write_text(text.replace(old, new) if old else new)
    with pytest.raises(ArtifactError):
        read_built_in(tmp_path)
