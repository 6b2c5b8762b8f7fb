"""An artifact is verified before it is used, whoever packed it."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from image_classification.archive import file_names, unpack
from image_classification.artifact import open_artifact, read_artifact, write_artifact
from image_classification.errors import ArtifactError, DataError
from image_classification.images.preprocessing import Preprocessing
from image_classification.labels.label_map import LabelMap

LABELS = LabelMap(("cat", "dög"))
PREPROCESSING = Preprocessing(height=8, width=8, resize=9)
DESCRIPTION = {"interface": "mxnet", "backend": "torch", "backbone": "resnet20"}
FILES: dict[str, object] = {"labels.json": {}, "model.onnx": {}, "preprocessing.json": {}}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    writers = {"model.onnx": lambda path: path.write_bytes(b"graph" * 100)}
    write_artifact(tmp_path / "model", DESCRIPTION, LABELS, PREPROCESSING, writers)
    return tmp_path / "model"


def test_a_written_artifact_is_read_back(directory: Path) -> None:
    artifact = read_artifact(directory)
    assert artifact.labels == LABELS
    assert artifact.preprocessing == PREPROCESSING
    assert artifact.manifest["input"]["shape"] == [None, 8, 8, 3]


@pytest.mark.parametrize("name", ["model.onnx", "labels.json", "preprocessing.json"])
def test_a_changed_missing_or_linked_file_is_named(directory: Path, name: str) -> None:
    path = directory / name
    content = path.read_bytes()
    path.write_bytes(content[:-2] + b"xx")
    with pytest.raises(ArtifactError, match=f"{name}: changed since it was written"):
        read_artifact(directory)
    path.unlink()
    with pytest.raises(
        ArtifactError, match=f"{name}: listed in the manifest, but missing from the"
    ):
        read_artifact(directory)
    (directory.parent / "elsewhere").write_bytes(content)
    path.symlink_to(directory.parent / "elsewhere")
    with pytest.raises(ArtifactError, match=name):
        read_artifact(directory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "expected format version 1, got 2"),
        ({"files": None}, "not a manifest"),
        ({"files": {}}, "expected labels.json, model.onnx, preprocessing.json in the manifest"),
        ({"classes": 3}, "labels.json has 2 names, but the manifest has 3"),
        ({"files": FILES | {"../outside": {"bytes": 1}}}, "files in this folder, got '../outside'"),
        ({"files": FILES | {"labels.json": 3}}, "expected its bytes and sha256"),
    ],
)
def test_an_impossible_manifest_is_refused(
    directory: Path, change: dict[str, object], message: str
) -> None:
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtifactError, match=message):
        read_artifact(directory)


def test_a_manifest_of_a_hundred_thousand_brackets_is_refused(directory: Path) -> None:
    (directory / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(ArtifactError, match="not a manifest"):
        read_artifact(directory)


def test_a_write_that_fails_leaves_no_manifest_and_no_partial_file(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise DataError("no")

    with pytest.raises(DataError):
        write_artifact(tmp_path, DESCRIPTION, LABELS, PREPROCESSING, {"model.onnx": fail})
    names = {path.name for path in tmp_path.iterdir()}
    assert "manifest.json" not in names and not any("model.onnx" in name for name in names)


def test_an_archive_is_read_like_its_folder(directory: Path, tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(directory, arcname=".")
    with open_artifact(archive) as artifact:
        assert artifact.labels == LABELS


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/../../outside"])
def test_an_archive_that_reaches_outside_is_refused(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size = 1
        tar.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(ArtifactError):
        with open_artifact(archive):
            pass
    assert not (tmp_path / "outside").exists() and not Path("/tmp/outside").exists()


def test_an_archive_with_a_link_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo("model.onnx")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(ArtifactError, match="is a link or a device"):
        with open_artifact(archive):
            pass


def test_the_error_about_a_path_without_an_artifact_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "junk.tar.gz").write_bytes(b"junk")
    for path, message in (
        (tmp_path, r"manifest.json is missing: .*junk.tar.gz"),
        (tmp_path / "junk.tar.gz", "not a usable model.tar.gz"),
        (tmp_path / "nothing", "found nothing"),
    ):
        with pytest.raises(ArtifactError, match=message):
            with open_artifact(path):
                pass


def test_an_archive_that_claims_a_huge_member_is_refused_before_it_is_written(
    tmp_path: Path,
) -> None:
    member = tarfile.TarInfo("model.onnx")
    member.size = 5 * 2**30
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(gzip.compress(member.tobuf() + b"\0" * 10_000))
    with pytest.raises(ArtifactError, match="at most 4294967296 bytes when unpacked"):
        unpack(archive, tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


def test_an_archive_that_is_damaged_inside_is_refused(directory: Path, tmp_path: Path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        tar.add(directory, arcname=".")
    packed = bytearray(gzip.compress(content.getvalue(), 0))
    packed[13:15] = b"\xff\xff"  # a stored block whose length contradicts itself
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(packed[:12] + b"\x07" + packed[13:])
    with pytest.raises(ArtifactError, match="not a usable"), open_artifact(archive):
        pass
    with pytest.raises(ArtifactError, match="not a usable"):  # what a job's channel model is asked
        list(file_names(archive))


def test_an_archive_of_countless_members_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(gzip.compress(tarfile.TarInfo("a").tobuf() * 10_001 + b"\0" * 1024))
    with pytest.raises(ArtifactError, match="more than 10000 members"):
        unpack(archive, tmp_path / "unpacked")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_huge_header_of_an_archive_is_not_read(tmp_path: Path, kind: bytes) -> None:
    header = tarfile.TarInfo("header")
    header.type, header.size = kind, 2**30
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(gzip.compress(tarfile.TarInfo("a").tobuf() + header.tobuf() + bytes(1024)))
    with pytest.raises(ArtifactError, match="an extended header of 1073741824 bytes"):
        unpack(archive, tmp_path / "unpacked")


def test_a_member_whose_name_holds_a_null_byte_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo("a")
        member.pax_headers = {"path": "a\0b"}
        tar.addfile(member)
    with pytest.raises(ArtifactError, match="null byte"):
        unpack(archive, tmp_path / "unpacked")
