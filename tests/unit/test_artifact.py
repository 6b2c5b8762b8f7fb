"""An artifact is verified before it is used, whoever packed it."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from image_classification.archive import UnpackLimits, file_names, unpack
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


def test_labels_info_has_the_names_as_jumpstarts_inference_script_reads_them(
    directory: Path,
) -> None:
    assert (directory / "labels_info.json").read_bytes() == b'{"labels": ["cat", "d\\u00f6g"]}\n'


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
        ({"format_version": 3}, "expected format version 1 or 2, got 3"),
        ({"format_version": True}, "expected format version 1 or 2, got True"),
        ({"format_version": 1.0}, "expected format version 1 or 2, got 1.0"),
        ({"classes": 2.0}, "classes must be a whole number, got 2.0"),
        ({"metrics": [1]}, "metrics must be an object"),
        ({"metrics": {"validation": 0.9}}, "metrics must be an object"),
        ({"files": FILES | {"labels.json": {"bytes": True}}}, "expected its bytes and sha256"),
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


@pytest.mark.parametrize(
    "change",
    [
        {"width": 2**24, "height": 1, "mode": "squash"},
        {"height": 2**24, "width": 1, "mode": "squash"},
        {"resize": 10**9},
        {"resize": 10**400},
        {"height": 5_000, "width": 5_000},
        {"channels": 3.0},
        {"max_pixels": True},
        {"mean": [10**400, 0, 0]},
    ],
    ids=str,
)
def test_a_preprocessing_that_no_picture_can_have_is_refused(
    tmp_path: Path, change: dict[str, object]
) -> None:
    content = PREPROCESSING.to_json() | change
    writers = {"model.onnx": lambda path: path.write_bytes(b"graph")}
    write_artifact(tmp_path, DESCRIPTION, LABELS, PREPROCESSING, writers)
    text = json.dumps(content).encode()
    (tmp_path / "preprocessing.json").write_bytes(text)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    listed = {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    manifest["files"]["preprocessing.json"] = listed
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=next(iter(change))):
        read_artifact(tmp_path)


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


def test_a_disk_that_fills_up_leaves_the_artifact_that_was_there_whole(directory: Path) -> None:
    before = {path.name: path.read_bytes() for path in directory.iterdir()}

    def fill(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    writers = {"model.onnx": lambda path: path.write_bytes(b"other"), "weights.safetensors": fill}
    with pytest.raises(OSError, match="weights") as raised:
        write_artifact(directory, DESCRIPTION, LABELS, PREPROCESSING, writers)
    assert raised.value.filename == str(directory / "weights.safetensors")
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    assert read_artifact(directory).labels == LABELS


def test_an_archive_is_read_like_its_folder(directory: Path, tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(directory, arcname=".")
    with open_artifact(archive) as artifact:
        assert artifact.labels == LABELS


def zipped(folder: Path, path: Path, top: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(folder.rglob("*")):
            packed.write(file, top + file.relative_to(folder).as_posix())
    return path


def tarred(folder: Path, path: Path, top: str = ".", mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:
        tar.add(folder, top)
    return path


FORMS: dict[str, Callable[[Path, Path], Path]] = {
    "a ZIP": lambda model, to: zipped(model, to / "model.zip"),
    "a ZIP with a top folder": lambda model, to: zipped(model, to / "m.zip", "model/"),
    "a ZIP with another name": lambda model, to: zipped(model, to / "model.tar.gz"),
    "an archive with a top folder": lambda model, to: tarred(model, to / "m.tar.gz", "model"),
    "an archive with two": lambda model, to: tarred(model, to / "m.tgz", "opt/ml/model"),
    "a tar": lambda model, to: tarred(model, to / "model.tar", mode="w"),
    "a folder with model.tar.gz": lambda model, to: tarred(model, to / "model.tar.gz").parent,
    "a folder with an archive": lambda model, to: tarred(model, to / "flowers.tgz", "x").parent,
    "a folder with a ZIP": lambda model, to: zipped(model, to / "model.zip").parent,
    "a folder with a folder": lambda model, to: Path(shutil.copytree(model, to / "a/b")).parents[1],
    "model.tar.gz in a folder of a ZIP": lambda model, to: zipped(
        tarred(model, to / "model.tar.gz").parent, to.parent / "download.zip", "job/output/"
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_artifact_is_read_from_every_form_in_which_people_have_it(
    directory: Path, tmp_path: Path, form: str
) -> None:
    (tmp_path / "given").mkdir()
    with open_artifact(FORMS[form](directory, tmp_path / "given")) as artifact:
        assert artifact.labels == LABELS and artifact.model_file.is_file()


def test_model_tar_gz_wins_over_the_other_archives_of_a_job(
    directory: Path, tmp_path: Path
) -> None:
    given = tmp_path / "given"
    given.mkdir()
    tarred(directory, given / "model.tar.gz")
    (given / "output.tar.gz").write_bytes(b"not looked at")
    with open_artifact(given) as artifact:
        assert artifact.labels == LABELS


def test_a_change_in_a_nested_archive_is_named_by_the_path_that_was_given(
    directory: Path, tmp_path: Path
) -> None:
    (directory / "model.onnx").write_bytes(b"changed")
    archive = tarred(directory, tmp_path / "m.tar.gz", "model")
    with pytest.raises(ArtifactError, match=rf"^{archive}/model.onnx: changed"):
        with open_artifact(archive):
            pass


def test_a_damaged_archive_in_an_archive_is_named_by_the_path_that_was_given(
    directory: Path, tmp_path: Path
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    packed = tarred(directory, inner / "model.tar.gz")
    packed.write_bytes(packed.read_bytes()[:-200])
    archive = tarred(inner, tmp_path / "outer.tar.gz")
    with pytest.raises(ArtifactError, match=rf"^{archive}/\S*model.tar.gz: not a usable"):
        with open_artifact(archive):
            pass


def test_archives_in_archives_in_archives_are_not_unpacked(directory: Path, tmp_path: Path) -> None:
    inner = tmp_path
    path = tarred(directory, tmp_path / "model.tar.gz")
    for number in range(3):
        inner = tmp_path / str(number)
        inner.mkdir()
        path = Path(shutil.move(path, inner / "model.tar.gz"))
        path = tarred(inner, tmp_path / f"{number}.tar.gz")
    with pytest.raises(ArtifactError, match=r"manifest.json is missing"), open_artifact(path):
        pass


def test_a_member_of_a_zip_without_a_name_is_refused(directory: Path, tmp_path: Path) -> None:
    path = zipped(directory, tmp_path / "model.zip")
    path.write_bytes(path.read_bytes().replace(b"labels.json", b"\0abels.json"))
    with pytest.raises(ArtifactError, match=rf"^{path}: '' is both a file and a folder"):
        with open_artifact(path):
            pass


def changed_zip(directory: Path, path: Path, change: Callable[[zipfile.ZipInfo], object]) -> Path:
    """A ZIP of the artifact with one more member, which `change` has changed."""
    zipped(directory, path)
    member = zipfile.ZipInfo("more")
    change(member)
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr(member, b"x" * 1000)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda member: setattr(member, "filename", "../outside"), "outside the folder"),
        (lambda member: setattr(member, "filename", "/etc/outside"), "outside the folder"),
        (lambda member: setattr(member, "external_attr", 0o120777 << 16), "is a link or a device"),
    ],
)
def test_a_zip_is_unpacked_as_safely_as_a_tar(
    directory: Path, tmp_path: Path, change: Callable[[zipfile.ZipInfo], object], message: str
) -> None:
    archive = changed_zip(directory, tmp_path / "model.zip", change)
    with pytest.raises(ArtifactError, match=message), open_artifact(archive):
        pass


def test_a_damaged_encrypted_huge_or_unusual_zip_is_refused_by_name(
    directory: Path, tmp_path: Path
) -> None:
    archive = zipped(directory, tmp_path / "model.zip")
    whole = archive.read_bytes()
    at = whole.rfind(b"PK\5\6")
    central = int.from_bytes(whole[at + 16 : at + 20], "little")
    cases = {
        "a damaged or incomplete ZIP archive": whole[: len(whole) // 2],
        "a directory of more than": whole[: at + 12] + b"\xff\xff\xff\x7f" + whole[at + 16 :],
        "a ZIP64": whole[:at] + b"PK\6\7" + bytes(16) + whole[at:],
        "has a password": whole[: central + 8] + b"\1" + whole[central + 9 :],
        "unsupported compression": whole[: central + 10] + b"\x09" + whole[central + 11 :],
        "at most 4294967296 bytes|at most 26.* bytes": whole[: central + 24]
        + b"\0\0\0\xf0"
        + whole[central + 28 :],
    }
    for message, content in cases.items():
        archive.write_bytes(content)
        with pytest.raises(ArtifactError, match=message), open_artifact(archive):
            pass
    archive.write_bytes(whole)
    with pytest.raises(ArtifactError, match="at most 2 files and folders"):
        unpack(archive, tmp_path / "few", UnpackLimits(members=2))


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("image-classification-0030.params", b"x", ("MXNet built-in", "--from-mxnet {folder} ")),
        ("net.params", b"x", ("an MXNet model", "image-classification train")),
        ("model.onnx", b"\x08\x07", ("a graph alone", "labels.json")),
        ("model.safetensors", b'\x08\0\0\0\0\0\0\0{"', ("Hugging Face", "train --channel")),
        ("model.pth", b"PK\3\4", ("PyTorch", "--weights", "the channel weights")),
        ("model.keras", b"PK\3\4", ("a Keras model", "backbone=keras/<name>")),
        ("model.h5", b"\x89HDF", ("a Keras model",)),
        ("model.tflite", b"x", ("compiled for another runtime",)),
        ("frozen.pb", b"\n\x04node", ("a frozen graph of TensorFlow", "preset=transfer")),
        ("manifest.json", b"{}", ("a file of an artifact", "give its whole folder, {folder}")),
        ("weights", b"\x80\4", ("a pickle",)),
        ("model", b"\x89HDF\r\n", ("an HDF5 file",)),
        ("model.tar.gz", b"version https://git-lfs.github.com/spec/v1", ("git lfs pull",)),
        ("model.tar.gz", b"\n<!DOCTYPE html><html>", ("an HTML or XML text", "login page")),
        ("model.tar.gz", b'<?xml version="1.0"?><Error>', ("an HTML or XML text",)),
        ("model.tar.gz", b'{"message": "Forbidden"}', ("a JSON text",)),
        ("model.tar.zst", b"\x28\xb5\x2f\xfd", ("a zstd archive", "tar -xf")),
        ("model.7z", b"7z\xbc\xaf", ("a 7z archive", "7z x")),
        ("photo.jpg", b"\xff\xd8\xff", ("a JPEG image",)),
    ],
)
def test_a_file_that_is_no_archive_is_named_with_what_to_do(
    tmp_path: Path, name: str, content: bytes, parts: tuple[str, ...]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ArtifactError) as caught, open_artifact(path):
        pass
    for part in parts:
        assert part.format(folder=tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("address", "command"),
    [
        ("s3://bucket/job/model.tar.gz", "aws s3 cp s3://bucket/job/model.tar.gz model.tar.gz"),
        ("S3://bucket/m.tgz", "aws s3 cp s3://bucket/m.tgz model.tar.gz"),
        ("https://host/m.tar.gz?a=1&b", "curl -LO 'https://host/m.tar.gz?a=1&b'"),
        (
            "arn:aws:sagemaker:eu-west-1:1:model/m",
            "ModelDataUrl of arn:aws:sagemaker:eu-west-1:1:m",
        ),
        ("gs://bucket/m.tar.gz", "gcloud storage cp gs://bucket/m.tar.gz model.tar.gz"),
    ],
)
def test_an_address_in_place_of_a_model_names_the_command_that_downloads_it(
    address: str, command: str
) -> None:
    for read in (lambda path: open_artifact(path).__enter__(), lambda path: list(file_names(path))):
        with pytest.raises(ArtifactError) as caught:
            read(Path(address))
        assert command in str(caught.value)


def test_the_words_of_pythons_modules_are_never_the_message(
    directory: Path, tmp_path: Path
) -> None:
    archive = tarred(directory, tmp_path / "model.tar.gz")
    whole = archive.read_bytes()
    plain = tarred(directory, tmp_path / "model.tar", mode="w").read_bytes()
    contents = [whole[:20], whole[:200], gzip.compress(b"not a tar" * 200), b"PK\3\4", b"BZh9"]
    contents += [b"\xfd7zXZ\0" * 9, plain[:300], b"\0" * 512, b"text", whole[:30] + whole]
    for content in contents:
        archive.write_bytes(content)
        with pytest.raises(ArtifactError) as caught, open_artifact(archive):
            pass
        said = str(caught.value).replace(str(archive), "")
        for word in ("ReadError", "method", "opened successfully", "end-of-stream", "zlib", "CRC"):
            assert word not in said, said


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


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        (
            ("image-classification-symbol.json", "image-classification-0030.params"),
            ("the MXNet built-in", "export --from-mxnet {path} --output model", "channel model"),
        ),
        (("resnet-symbol.json", "resnet-0000.params"), ("an MXNet model that the built-in",)),
        (
            ("1/saved_model.pb", "1/variables/variables.index"),
            ("a TensorFlow SavedModel", "backend=tensorflow"),
        ),
        (
            ("1/saved_model.pb", "__model_info__.json", "labels_info.json", "code/inference.py"),
            ("a model of JumpStart", "export --from-tensorflow {path}", "--channel model=DIR"),
        ),
        (("model.keras",), ("a Keras model", "backbone=keras/<name>")),
        (("config.json", "pytorch_model.bin"), ("a Hugging Face model",)),
        (("config.json", "model-00001-of-00002.safetensors"), ("a Hugging Face model",)),
        (("model.pth",), ("weights of PyTorch", "--weights", "the channel weights")),
        (("mine.safetensors",), ("weights alone", "labels.json", "--weights")),
        (("code/inference.py", "best.ckpt"), ("it can contain code", "--weights weights.pth")),
        (("model.onnx",), ("a graph alone", "labels.json")),
        (("checkpoint-0001-000003.safetensors",), ("checkpoints of a training job",)),
        (("a/manifest.json", "b/manifest.json"), ("2 artifacts in its folders a, b: give one",)),
        (("a.tar.gz", "b.zip"), ("2 archives (a.tar.gz, b.zip): give the one",)),
        (("photo.jpg",), ("found ['photo.jpg']",)),
        ((), ("found nothing",)),
    ],
)
@pytest.mark.parametrize("is_packed", [False, True])
def test_a_model_of_another_program_is_named_with_its_cure_and_never_opened(
    tmp_path: Path, files: tuple[str, ...], parts: tuple[str, ...], is_packed: bool
) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\x80\x04")
    path = folder
    if is_packed:
        path = tmp_path / "model.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            tar.add(folder, ".")
    with pytest.raises(ArtifactError) as caught, open_artifact(path):
        pass
    said = str(caught.value)
    assert "expected an artifact written by the train command" in said and "\n" not in said
    for part in parts:
        assert part.format(path=path) in said


@pytest.mark.parametrize("name", ["model.onnx", "model.pth", "saved_model.pb", "model.h5"])
def test_a_file_in_place_of_an_artifact_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"model\.tar\.gz or its folder, found"):
        with open_artifact(tmp_path / name):
            pass


def test_the_error_about_a_path_without_an_artifact_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "junk.tar.gz").write_bytes(b"junk")
    for path, message in (
        (tmp_path, r"junk.tar.gz: not a usable model.tar.gz"),
        (
            tmp_path / "junk.tar.gz",
            "not a usable model.tar.gz: not an archive, it begins with b'ju",
        ),
        (tmp_path / "nothing", r"found nothing$"),
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
    with pytest.raises(ArtifactError, match="at most 4294967296 bytes when unpacked"):
        list(file_names(archive))  # which would decompress it to find the next member


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
    with pytest.raises(ArtifactError, match="at most 10000 files and folders"):
        unpack(archive, tmp_path / "unpacked")


def test_an_archive_with_more_files_than_its_limit_or_too_slow_ones_is_refused(
    directory: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(directory, arcname=".")
    count = len(list(directory.iterdir())) + 1  # the folder
    with open_artifact(archive, UnpackLimits(members=count)) as artifact:
        assert artifact.labels == LABELS
    with pytest.raises(ArtifactError, match=f"at most {count - 1} files and folders"):
        unpack(archive, tmp_path / "many", UnpackLimits(members=count - 1))
    with pytest.raises(ArtifactError, match="unpacking takes too long"):
        unpack(archive, tmp_path / "late", UnpackLimits(seconds=0))


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


def packed(*members: tarfile.TarInfo, mode: str = "w:gz", **options: int) -> bytes:
    """An archive of members, each with as many null bytes as it claims."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode, **options) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return content.getvalue()


def member_of(name: str, size: int = 0, **fields: object) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    for field, value in fields.items():
        setattr(member, field, value)
    return member


@pytest.mark.parametrize(("mode", "name"), [("gz", "gzip"), ("bz2", "bzip2"), ("xz", "xz")])
def test_a_damaged_archive_is_refused_by_the_name_of_its_compression(
    directory: Path, tmp_path: Path, mode: str, name: str
) -> None:
    archive = tmp_path / "model.tar.gz"
    with tarfile.open(archive, f"w:{mode}") as tar:
        tar.add(directory, arcname=".")
        tar.addfile(member_of("noise", 100_000), io.BytesIO(os.urandom(100_000)))
    whole = archive.read_bytes()
    changed = whole[:50_000] + bytes(100) + whole[50_100:]
    contents = [whole[: len(whole) // 2], whole[:40]]
    if mode != "gz":  # its checksum is at the end, and the manifest's are checked anyway
        contents.append(changed)
    for content in contents:
        archive.write_bytes(content)
        with pytest.raises(ArtifactError, match=f"damaged or incomplete {name} archive"):
            unpack(archive, tmp_path / "unpacked")
        with pytest.raises(ArtifactError, match=f"damaged or incomplete {name} archive"):
            list(file_names(archive))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (packed(member_of("a/" * 2000 + "b")), "2001 parts of up to 1 bytes: expected at most 64"),
        (packed(member_of("a/" * 100 + "b")), "101 parts"),
        (packed(member_of("n" * 300)), "up to 300 bytes"),
        (packed(member_of("a", 10), member_of("a/b", 10)), "both a file and a folder"),
        (packed(member_of("a/b", 10), member_of("a", 10)), "both a file and a folder"),
        (packed(member_of("a", type=tarfile.LNKTYPE, linkname="/etc/passwd")), "is a link"),
        (packed(member_of("a", type=tarfile.FIFOTYPE)), "is a link or a device"),
        (packed(member_of("a", type=tarfile.CHRTYPE)), "is a link or a device"),
        (packed(member_of("a", type=tarfile.GNUTYPE_SPARSE)), "sparse"),
        (packed(member_of("a", pax_headers={"GNU.sparse.map": "0,1"})), "sparse"),
        (packed(member_of("a", pax_headers={"GNU.sparse.size": "9", "x": "1"})), "sparse"),
        (
            packed(
                member_of("a", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}),
                member_of("b"),
            ),
            "sparse",
        ),
        (packed(member_of("a", pax_headers={"size": "-1"})), "-1 bytes"),
        (
            gzip.compress(member_of("a", 300 * 2**20).tobuf(), mtime=0),
            r"at most 26.* bytes when unpacked",
        ),
        (
            gzip.compress(
                member_of("././@LongLink", type=tarfile.GNUTYPE_LONGNAME).tobuf() * 3000, mtime=0
            ),
            "nested headers",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "archive",
)
def test_an_archive_that_an_artifact_never_is_is_refused_by_name(
    content: bytes, message: str, tmp_path: Path
) -> None:
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        unpack(archive, tmp_path / "unpacked")
    assert sum(file.stat().st_size for file in (tmp_path / "unpacked").rglob("*")) < 2**29


def test_an_archive_larger_than_the_disk_is_an_error_of_the_disk(tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    archive.write_bytes(packed(member_of("a", 2**20)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 1000))
        with pytest.raises(OSError, match=r"'a' has 1048576 bytes, 1000 are free") as raised:
            unpack(archive, tmp_path / "unpacked")
    assert raised.value.errno == errno.ENOSPC


def test_what_is_neither_a_folder_nor_a_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    for path in (tmp_path / "pipe", tmp_path / "empty", Path("/dev/zero"), Path("/proc/kmsg")):
        with pytest.raises(ArtifactError, match=r"a device or a pipe|an empty file"):
            with open_artifact(path):
                pass


@pytest.mark.parametrize("name", ["manifest.json", "labels.json", "preprocessing.json"])
def test_a_file_of_an_artifact_that_would_fill_the_memory_is_not_read(
    directory: Path, name: str
) -> None:
    with (directory / name).open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(ArtifactError, match=r"at most 16 MiB|changed"):
        read_artifact(directory)
    (directory / name).unlink()
    os.mkfifo(directory / name)
    with pytest.raises(ArtifactError, match="regular file"):
        read_artifact(directory)


@pytest.mark.parametrize(
    "files",
    [
        {"model.onnx": None},
        {"model.onnx": {"bytes": "7", "sha256": 1}},
        {"model.onnx": {"bytes": 10**30, "sha256": ""}},
        {"\0": {"bytes": 1, "sha256": ""}},
        {"..": {"bytes": 1, "sha256": ""}},
        {"": {"bytes": 1, "sha256": ""}},
        {"\ud800": {"bytes": 1, "sha256": ""}},
        {"n" * 300: {"bytes": 1, "sha256": ""}},
    ],
)
def test_a_manifest_that_lists_impossible_files_is_refused(
    directory: Path, files: dict[str, object]
) -> None:
    content = json.loads((directory / "manifest.json").read_text())
    content["files"] |= files
    (directory / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError):
        read_artifact(directory)


def test_a_pipe_in_place_of_an_archive_is_refused_without_waiting_for_its_writer(
    tmp_path: Path,
) -> None:
    os.mkfifo(tmp_path / "model.tar.gz")
    handle = os.open(tmp_path / "model.tar.gz", os.O_RDWR)  # whoever reads it would not wait
    try:
        os.write(handle, bytes(512))
        with pytest.raises(ArtifactError, match="a device, a pipe or a folder"):
            list(file_names(tmp_path / "model.tar.gz"))
    finally:
        os.close(handle)
