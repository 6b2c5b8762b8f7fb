"""Safetensors files: every number of the header is checked against the file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from image_classification.errors import ArtifactError
from image_classification.weights import opened


def file_of(header: Any, numbers: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + numbers


def entry(shape: list[int], span: list[int], kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": span}


def test_tensors_and_metadata_are_what_the_safetensors_package_writes(tmp_path: Path) -> None:
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.arange(3, dtype=np.float64),
        "c": np.arange(3, dtype=np.float16),
        "d": np.array(7, np.int64),
        "e": np.zeros((0, 2), np.float32),
    }
    path = tmp_path / "x.safetensors"
    path.write_bytes(save(tensors, {"license": "MIT"}))
    with opened(path) as (_, file):
        assert file.metadata == {"license": "MIT"}
        assert set(file.tensors) == set(tensors)
        for name, array in tensors.items():
            assert file.tensors[name].shape == array.shape
            assert np.array_equal(file.tensors[name].numbers(), array.astype(np.float32))


def test_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    numbers = np.array([1.0, -2.5, 0.0], np.float32)
    halves = (numbers.view(np.uint32) >> 16).astype("<u2").tobytes()
    (tmp_path / "x").write_bytes(file_of({"a": entry([3], [0, 6], "BF16")}, halves))
    with opened(tmp_path / "x") as (_, file):
        assert np.array_equal(file.tensors["a"].numbers(), numbers)


HOSTILE = {
    "longer-than-the-file": (file_of({}, length=2**40), "got|bytes"),
    "longer-than-a-header": (file_of(b"{" + b" " * 100, length=2**30), "a header of 1073741824"),
    "no-json": (file_of(b"{nonsense"), "got"),
    "nested": (file_of(b'{"a":' + b"[" * 100_000), "nested too deep"),
    "list": (file_of(b"[]"), "got"),
    "name-twice": (file_of(b'{"a": 1, "a": 2}'), "a name twice"),
    "type-no-text": (
        file_of({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
        r"unknown type \"\['F32'\]\"",
    ),
    "type": (file_of({"a": entry([1], [0, 4], "F99")}, b"1234"), "unknown type 'F99'"),
    "entry": (file_of({"a": 5}), "unknown type '5'"),
    "shape": (file_of({"a": entry([2], [0, 4])}, b"1234"), "4 bytes for the shape"),
    "huge-shape": (file_of({"a": entry([2**39], [0, 4])}, b"1234"), "4 bytes for the shape"),
    "negative-shape": (file_of({"a": entry([-1], [0, 4])}, b"1234"), "the shape"),
    "shape-of-text": (file_of({"a": entry(["1"], [0, 4])}, b"1234"), "the shape"),
    "no-offsets": (file_of({"a": {"dtype": "F32", "shape": [1]}}, b"1234"), "bytes for the shape"),
    "beyond": (file_of({"a": entry([2], [0, 8])}, b"1234"), "copy the file again"),
    "overlap": (
        file_of({"a": entry([1], [0, 4]), "b": entry([1], [0, 4])}, b"1234"),
        "overlap or leave a gap",
    ),
    "gap": (file_of({"a": entry([1], [4, 8])}, b"12345678"), "overlap or leave a gap"),
    "rest": (file_of({"a": entry([1], [0, 4])}, b"12345678"), "copy the file again"),
    "metadata": (file_of({"__metadata__": {"a": 1}}), "metadata that are not text"),
}


@pytest.mark.parametrize(("content", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_a_header_that_contradicts_itself_or_the_file_is_refused(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"x\.safetensors: expected weights as .*({reason})"):
        with opened(tmp_path / "x.safetensors"):
            pass


OTHERS = {
    "nothing": (b"", "no bytes"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull"),
    "html": (b"\n<!doctype html>", "the error or login page of a download"),
    "json": (b'{"error": "not found"}', "the error of a download"),
    "gzip": (b"\x1f\x8b\x08", "unpack it"),
    "noise": (b"hello world, these are no weights", "one that begins with"),
}


@pytest.mark.parametrize(("content", "reason"), OTHERS.values(), ids=OTHERS)
def test_another_file_is_named_with_what_to_do(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ArtifactError, match=reason):
        with opened(tmp_path / "x.pth"):
            pass


def test_only_regular_files_are_opened_and_no_pipe_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "zero.pth").symlink_to("/dev/zero")
    (tmp_path / "circle.pth").symlink_to(tmp_path / "circle.pth")
    for name in ("pipe.pth", "zero.pth", "circle.pth", "absent.pth", "."):
        with pytest.raises(ArtifactError, match=r"no regular file|cannot be read"):
            with opened(tmp_path / name):
                pass


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    array = np.array([1, np.nan], np.float32)
    (tmp_path / "x").write_bytes(save({"a": array}))
    with opened(tmp_path / "x") as (_, file), pytest.raises(ValueError, match="not finite"):
        file.tensors["a"].numbers()
