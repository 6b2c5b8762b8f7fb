"""Weights in several files, as Hugging Face splits them, and in archives: read as one file is."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from image_classification.errors import ArtifactError
from image_classification.weights import opened, shards
from image_classification.weights.folder import describe, find_weights, located
from image_classification.weights.shards import sha256_of

TENSORS = {name: np.arange(4, dtype=np.float32) + place for place, name in enumerate("abc")}
NAMES = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
PLACES = {"a": NAMES[0], "b": NAMES[0], "c": NAMES[1]}
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three tensors in two files with their index, as `save_pretrained` writes them."""
    path = tmp_path / "hub"
    path.mkdir()
    for name in NAMES:
        save_file({t: TENSORS[t] for t, n in PLACES.items() if n == name}, path / name)
    (path / INDEX).write_text(json.dumps({"metadata": {"total_size": 48}, "weight_map": PLACES}))
    return path


def test_the_files_of_an_index_are_read_as_one(folder: Path) -> None:
    path = find_weights(folder)
    assert path.name == INDEX
    with opened(path) as (_, file):
        assert file.format == "safetensors in 2 files"
        found = {name: tensor.numbers() for name, tensor in file.tensors.items()}
    assert found.keys() == TENSORS.keys()
    assert all(np.array_equal(found[name], array) for name, array in TENSORS.items())


def test_the_files_of_pytorch_are_split_in_the_same_way(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    places = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    for tensor, name in places.items():
        torch.save({tensor: torch.from_numpy(TENSORS[tensor])}, tmp_path / name)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    with opened(find_weights(tmp_path)) as (_, file):
        assert file.format == "PyTorch in 2 files"
        assert all(np.array_equal(file.tensors[name].numbers(), TENSORS[name]) for name in places)


def test_their_hash_is_that_of_their_contents_one_after_another(folder: Path) -> None:
    contents = b"".join((folder / name).read_bytes() for name in NAMES)
    assert sha256_of(folder / INDEX) == hashlib.sha256(contents).hexdigest()


def test_what_the_folder_says_of_the_images_counts_for_all_its_files(folder: Path) -> None:
    (folder / "config.json").write_text(
        json.dumps({"architecture": "resnet50", "pretrained_cfg": {"input_size": [3, 160, 160]}})
    )
    assert describe(folder / INDEX).input_size == 160


def index_of(places: Any) -> bytes:
    return json.dumps({"weight_map": places}).encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[]", "without a weight_map"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (index_of({}), "without a weight_map"),
        (index_of({"a": "../../etc/passwd"}), "expected a plain name"),
        (index_of({"a": ".."}), "expected a plain name"),
        (index_of({"a": "a" * 300}), "expected a plain name"),
        (index_of({"a": 1}), "expected a plain name"),
        (index_of({"a": "absent.safetensors"}), "absent.safetensors is not next to it"),
        (index_of({"a": INDEX}), "a JSON text"),
        (index_of({"d": NAMES[0]}), "'d' in model-00001-of-00002.safetensors, which does not have"),
        (index_of({str(n): f"{n}.bin" for n in range(101)}), "an index of 101 files; expected"),
        (index_of({str(n): "x" for n in range(20_001)}), "of 1 to 20000 tensors"),
        (b" " * (16 * 2**20 + 1), "an index of 16777217 bytes"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_an_index_that_cannot_be_right_is_refused(
    folder: Path, content: bytes, reason: str
) -> None:
    (folder / INDEX).write_bytes(content)
    with pytest.raises(ArtifactError) as caught, opened(folder / INDEX):
        pass
    assert reason in str(caught.value)


def test_a_tensor_in_two_files_is_refused(folder: Path) -> None:
    save_file({"c": TENSORS["c"], "a": TENSORS["a"]}, folder / NAMES[1])
    with pytest.raises(ArtifactError, match="'a' in several of its files"):
        with opened(folder / INDEX):
            pass


def test_all_files_together_have_the_limit_of_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "MOST_FILE_BYTES", 200)
    with pytest.raises(ArtifactError, match=r"bytes in all files; expected at most 200"):
        with opened(folder / INDEX):
            pass


def test_files_without_their_index_are_an_error_that_names_it(folder: Path) -> None:
    (folder / INDEX).unlink()
    with pytest.raises(ArtifactError, match=rf"in 2 files, but {INDEX} is missing"):
        find_weights(folder)


def packed(folder: Path, path: Path, top: str = ".") -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in folder.iterdir():
                archive.write(file, f"{top}/{file.name}")
    else:
        with tarfile.open(path, "w:gz") as archive:
            archive.add(folder, top)
    return path


@pytest.mark.parametrize("name", ["hub.tar.gz", "hub.tgz", "hub.zip"])
@pytest.mark.parametrize("top", [".", "snapshots/1a2b"])
def test_an_archive_of_a_folder_is_unpacked_while_it_is_read(
    folder: Path, tmp_path: Path, name: str, top: str
) -> None:
    (tmp_path / "channel").mkdir()
    archive = packed(folder, tmp_path / "channel" / name, top)
    with located(tmp_path / "channel") as path, opened(path) as (_, file):
        assert path.name == INDEX and set(file.tensors) == set(TENSORS)
    assert not path.exists(), "nothing stays behind"
    assert find_weights(tmp_path / "channel") == archive


def test_the_weights_in_an_archive_of_an_artifact_are_those_of_its_best_epoch(
    tmp_path: Path,
) -> None:
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    for name in ("weights.safetensors", "weights-last.safetensors"):
        save_file(TENSORS, artifact / name)
    (artifact / "manifest.json").write_text("{}")
    with located(packed(artifact, tmp_path / "model.tar.gz")) as path:
        assert path.name == "weights.safetensors"


def test_errors_name_the_archive_and_not_where_it_was_unpacked(
    folder: Path, tmp_path: Path
) -> None:
    (folder / NAMES[1]).write_bytes(b"nonsense")
    archive = packed(folder, tmp_path / "hub.tar.gz")
    with pytest.raises(ArtifactError) as caught:
        with located(archive) as path, opened(path):
            pass
    assert str(caught.value).startswith(f"{archive}/{NAMES[1]}: expected weights")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError) as caught:
        with located(packed(tmp_path / "empty", tmp_path / "empty.tar.gz")):
            pass
    assert str(caught.value).startswith(f"{tmp_path / 'empty.tar.gz'}: expected a file of weights")


def test_an_archive_is_as_bounded_as_every_other(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.tar.gz"
    with tarfile.open(bomb, "w:gz") as archive:
        member = tarfile.TarInfo("model.safetensors")
        member.size = 300 * 2**20
        archive.addfile(member, io.BytesIO(bytes(member.size)))
        member = tarfile.TarInfo("more.bin")
        member.size = 2**30
        archive.fileobj.write(member.tobuf())  # type: ignore[union-attr]
    with pytest.raises(ArtifactError, match="bytes when unpacked"), located(bomb):
        pass
    outside = tmp_path / "outside.tar.gz"
    with tarfile.open(outside, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../model.safetensors"))
    with pytest.raises(ArtifactError, match="outside the folder"), located(outside):
        pass


def test_an_archive_in_an_archive_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outer").mkdir()
    packed(folder, tmp_path / "outer" / "inner.tar.gz")
    with pytest.raises(ArtifactError, match="an archive in an archive"):
        with located(packed(tmp_path / "outer", tmp_path / "outer.tar.gz")):
            pass
