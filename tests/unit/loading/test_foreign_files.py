"""What lies in a folder of data in place of samples is named, with the command that helps."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path

import pytest

from image_classification.cli import main
from image_classification.contract.channels import ChannelInput
from image_classification.errors import LFS_CURE, LFS_POINTER, DataError, UserError
from image_classification.inventory.folders import take_inventory
from image_classification.loading.foreign_files import describe_contents, describe_file
from image_classification.loading.sources import FolderSource
from image_classification.prepare.check.subsets import find_subsets
from image_classification.training.sources import Expected, open_channel

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
CASES = {
    "flowers.zip": (b"PK", "a ZIP archive", "python -m zipfile -e {folder}/flowers.zip {folder}"),
    "flowers.tar": (b"x", "a tar archive", "tar -xf {folder}/flowers.tar -C {folder}"),
    "flowers.tar.gz": (b"x", "a tar archive", "tar -xf {folder}/flowers.tar.gz -C {folder}"),
    "shard-000.tar.gz": (b"x", "a tar archive", "gunzip {folder}/shard-000.tar.gz"),
    "0001.cls": (b"3", "a label of WebDataset", "tar --sort=name -cf SHARDS/0.tar -C {folder} ."),
    "Flowers.TGZ": (b"x", "a tar archive", "tar -xf"),
    "flowers.7z": (b"x", "a 7z archive", "7z x"),
    "labels.gz": (b"x", "a gzip file", "gunzip"),
    "train.beton": (b"x", "FFCV", "image-classification preprocess --input IMAGES"),
    "train-0.parquet": (b"PAR1", "a table with images inside", "pyarrow"),
    "images.h5": (b"x", "an HDF5 file", "save each image as a PNG"),
    "arrays.npz": (b"x", "NumPy arrays", "save each image as a PNG"),
    "t10k-images-idx3-ubyte": (b"x", "an IDX file", "save each image as a PNG"),
    "data_batch_1": (b"x", "a pickle", "save each image as a PNG"),
    "flowers.zip.part": (b"x", "an unfinished download", "finish it"),
    "images.dvc": (b"outs:\n- md5: 0\n", "a DVC file", "dvc pull"),
    "flowers.bin": (LFS, "a Git LFS pointer", "git lfs pull"),
    "train.zip": (LFS, "a Git LFS pointer", "git lfs pull"),
    "a/labels.xlsx": (b"x", "a spreadsheet", "save it as CSV"),
    "clip.mp4": (b"x", "a video", "save frames"),
    "train.idx": (b"0\t0\n", "the index of record files", "add the .rec file"),
    "README.md": (b"# Flowers\n", "only README.md", "get the data itself"),
    "notes/a.xyz": (b"x", "1 .xyz file", "for example"),
    "train/data-00000-of-00001.arrow": (b"ARROW1", "an Arrow table", ".to_parquet("),
    "dataset": (b"PK\x03\x04" + bytes(30), "1 file without an extension", "unpack it first"),
    "a/b/.hidden": (b"x", "only empty or hidden", "copied completely?"),
}


def fill(folder: Path, *names: str, content: bytes = b"x") -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_every_other_file_of_a_channel_is_named_with_the_command_that_helps(
    tmp_path: Path, name: str
) -> None:
    content, kind, cure = CASES[name]
    folder = fill(tmp_path / "channel", name, content=content)
    for read in (FolderSource, take_inventory, find_subsets):
        if read is not FolderSource and name in ("train.idx", "train-0.parquet"):
            continue
        with pytest.raises(DataError) as caught:
            read(folder)
        said = str(caught.value)
        assert kind in said and cure.format(folder=folder) in said and len(said) < 1000


POINTED = ("a.rec", "a.tfrecord", "a-00000-of-00002", "a.tar", "a.parquet", "a.jpg", "c/a.jpg")


@pytest.mark.parametrize("name", [*POINTED, "a.lst", "a.csv", "a.jsonl", "a.manifest", "a.zip"])
def test_a_git_lfs_pointer_is_named_in_the_same_words_by_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder = fill(tmp_path / "data", name, content=LFS)
    if name == "c/a.jpg":
        fill(folder, "c/b.jpg", "d/a.jpg", "d/b.jpg", content=LFS)
    path, root = str(folder / name), str(folder)
    commands = [
        ["check", root],
        ["preprocess", "--input", root, "--output", str(tmp_path / "out")],
    ]
    if name in POINTED:
        commands += [["inspect", path], ["rec2idx", path], ["check", path]]
    if name == "a.lst":
        commands.append(["pack", path, root])
    for command in commands:
        assert main(command) in (1, 2)
        said = "".join(capsys.readouterr())
        assert LFS_POINTER in said and LFS_CURE in said, command
    if name != "c/a.jpg":  # only decoding shows it
        with pytest.raises(UserError, match=f"{LFS_POINTER}.*: {LFS_CURE}"):
            open_channel(ChannelInput("train", folder), None, Expected(None, None))


def test_inspect_refuses_tables_and_shards_with_the_command_that_reads_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = fill(tmp_path, "a.parquet", content=b"PAR1") / "a.parquet"
    assert main(["inspect", str(path)]) == 2
    assert f"are examined by image-classification check {path}" in capsys.readouterr().err


def test_the_command_is_one_that_a_shell_takes_whatever_the_name(tmp_path: Path) -> None:
    folder = fill(tmp_path / "my data", "the flowers (1).zip")
    assert f"-e '{folder}/the flowers (1).zip' '{folder}'" in describe_contents(folder)


def test_several_files_of_a_kind_are_one_example_and_a_count(tmp_path: Path) -> None:
    folder = fill(tmp_path, "1.parquet", "2.parquet", "3.parquet")
    assert "1.parquet', and 2 more like it)" in describe_contents(folder)


def test_an_empty_class_folder_leaves_no_open_folder_behind(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        assert "only empty or hidden folders" in describe_contents(tmp_path)
        gc.collect()
    assert not caught


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path) -> None:
    assert describe_contents(tmp_path) == "nothing: the folder is empty"


def test_images_next_to_their_table_get_the_command_that_packs_them(tmp_path: Path) -> None:
    folder = fill(tmp_path, "1.jpg", "2.jpg")
    assert "2 images outside a class folder" in describe_contents(folder)
    fill(folder, "labels.csv")
    said = describe_contents(folder)
    assert f"preprocess --input {folder} --list {folder}/labels.csv" in said
    assert "outside a class folder" not in said


def test_a_link_into_git_annex_names_git_annex(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").symlink_to("../.git/annex/objects/x/y")
    assert "git annex get" in describe_contents(tmp_path)


def test_a_file_in_place_of_a_folder_of_data_is_named(tmp_path: Path) -> None:
    archive = fill(tmp_path, "flowers.zip") / "flowers.zip"
    assert describe_file(archive).startswith("a ZIP archive")
    for read in (take_inventory, find_subsets):
        with pytest.raises(DataError, match="a ZIP archive"):
            read(archive)


def test_a_known_file_in_a_folder_like_a_class_is_named_too(tmp_path: Path) -> None:
    folder = fill(tmp_path, "data/train-00000-of-00002.parquet", "data/dataset.beton", "a/b.zip")
    with pytest.raises(DataError) as caught:
        FolderSource(folder)
    for part in ("preprocess --input", "FFCV", "python -m zipfile"):
        assert part in str(caught.value)


def test_a_table_is_no_cure_for_class_folders_of_a_format_that_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "00000").mkdir()
    (tmp_path / "00000/00000_00000.dcm").write_bytes(bytes(128) + b"DICM" + bytes(60))
    (tmp_path / "00000/GT-00000.csv").write_text("Filename;ClassId\n00000_00000.dcm;0\n")
    with pytest.raises(DataError, match=r"DICOM.*convert it") as refused:
        FolderSource(tmp_path)
    assert "--list" not in str(refused.value)


def test_a_spreadsheet_is_not_called_a_zip_archive(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/1.jpg").write_bytes(b"x")
    (tmp_path / "labels.xlsx").write_bytes(b"PK\x03\x04" + bytes(30))
    FolderSource(tmp_path)
    assert "a spreadsheet: save it as CSV" in caplog.text and "unpack" not in caplog.text
