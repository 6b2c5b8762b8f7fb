"""Sources: samples out of record files and class folders look alike."""

from __future__ import annotations

import inspect
import logging
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from image_classification.errors import DataError, RecordError
from image_classification.images import foreign
from image_classification.inventory.folders import take_inventory
from image_classification.inventory.splits import split_folders
from image_classification.labels import tree as trees
from image_classification.labels.label_map import LabelMap
from image_classification.loading.packed import find_packed
from image_classification.loading.records import RecordSource
from image_classification.loading.sources import FolderSource, ListedSource, Source
from image_classification.records.format import RecordHeader, pack_image_record
from image_classification.records.writer import RecordWriter
from image_classification.samples import Sample


def write_records(path: Path, *headers: RecordHeader) -> Path:
    with RecordWriter(path) as writer:
        for header in headers:
            content = f"image {header.id}".encode()
            writer.write(pack_image_record(header, content), header.id)
    return path


def tree(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return root


def test_shards_are_one_source_in_the_order_given(tmp_path: Path) -> None:
    one = write_records(tmp_path / "one.rec", RecordHeader(2, 7), RecordHeader(0, 5))
    empty = write_records(tmp_path / "empty.rec")
    two = write_records(tmp_path / "two.rec", RecordHeader((1.0,), 9))
    source: Source = RecordSource([one, empty, two])
    assert len(source) == 3
    assert source.class_indices.dtype == "int64"
    assert source.class_indices.tolist() == [2, 0, 1]
    assert [source.key(index) for index in range(3)] == ["one.rec#7", "one.rec#5", "two.rec#9"]
    assert source.read(2) == Sample("two.rec#9", 1, b"image 9")
    with pytest.raises(IndexError):
        source.read(3)
    source.close()


def test_shards_of_the_same_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    paths = [write_records(tmp_path / name / "data.rec", RecordHeader(0, 1)) for name in "ab"]
    source = RecordSource(paths)
    assert [source.key(index) for index in range(2)] == [f"{path}#1" for path in paths]
    source.close()


@pytest.mark.parametrize("label", [-1.0, 0.5, math.nan, math.inf, 3e9])
def test_a_label_that_is_not_a_class_index_is_reported_with_its_record(
    tmp_path: Path, label: float
) -> None:
    path = write_records(tmp_path / "data.rec", RecordHeader(0, 7), RecordHeader(label, 8))
    with pytest.raises(DataError, match=r"data\.rec: expected class indices .* in record 1, id 8"):
        RecordSource([path])


def test_records_with_several_labels_are_refused(tmp_path: Path) -> None:
    path = write_records(tmp_path / "data.rec", RecordHeader(0, 7), RecordHeader((1.0, 2.0), 8))
    with pytest.raises(DataError, match="expected one label in every record, got 2 in record 1"):
        RecordSource([path])


def test_a_damaged_shard_is_reported_by_name(tmp_path: Path) -> None:
    good = write_records(tmp_path / "good.rec", RecordHeader(0, 1))
    (tmp_path / "bad.rec").write_bytes(b"these are no records")
    with pytest.raises(RecordError, match=r"bad\.rec: damaged at byte 0, record 0"):
        RecordSource([good, tmp_path / "bad.rec"])


def test_class_folders_are_samples_in_the_byte_order_of_their_names(tmp_path: Path) -> None:
    root = tree(tmp_path, "b/2.JPG", "b/10.jpeg", "B/x.png", "é/y.webp", "a/z.gif", "a/w.bmp")
    source = FolderSource(root)
    typed: Source = source
    assert source.labels.names == ("B", "a", "b", "é")
    keys = [typed.key(index) for index in range(len(typed))]
    assert keys == ["B/x.png", "a/w.bmp", "a/z.gif", "b/10.jpeg", "b/2.JPG", "é/y.webp"]
    assert source.class_indices.dtype == "int64"
    assert source.class_indices.tolist() == [0, 1, 1, 2, 2, 3]
    assert source.read(4) == Sample("b/2.JPG", 2, b"b/2.JPG")
    source.close()


def test_files_that_are_not_samples_are_left_out_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tree(
        tmp_path,
        *("a/x.jpg", "a/.hidden.jpg", "a/notes.txt", "a/more.txt", "a/nested/y.jpg"),
        *(".cache/z.jpg", "loose.jpg", "README", "texts/only.txt"),
    )
    (root / "empty").mkdir()
    source = FolderSource(root)
    assert [source.key(index) for index in range(len(source))] == ["a/x.jpg", "a/nested/y.jpg"]
    assert source.labels.names == ("a",)
    assert source.subclasses == {"a": ["nested"]}
    left_out, nested = caplog.messages
    for part in (
        "2 hidden files or folders",
        "3 .txt files",
        "1 file without an extension",
        "1 image outside a class folder",
        "2 class folders without an image",
    ):
        assert part in left_out
    assert "subfolders have the class of the top folder, at any depth, in 1 of 1 classes" in nested


def test_clean_folders_are_read_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    FolderSource(tree(tmp_path, "a/x.jpg", "b/y.jpg"))
    assert not caplog.messages


def test_a_given_label_map_decides_the_class_indices(tmp_path: Path) -> None:
    source = FolderSource(tree(tmp_path, "a/x.jpg", "b/y.jpg"), LabelMap(("b", "a")))
    assert source.class_indices.tolist() == [1, 0]
    assert source.labels.names == ("b", "a")


def test_classes_that_differ_from_the_label_map_are_listed(tmp_path: Path) -> None:
    root = tree(tmp_path, "a/x.jpg", "dog/y.jpg", "c/no.txt")
    with pytest.raises(DataError) as raised:
        FolderSource(root, LabelMap(("a", "b", "c")))
    assert "2 missing or without an image: ['b', 'c']" in str(raised.value)
    assert "1 unknown: ['dog']" in str(raised.value)


def test_a_folder_without_class_folders_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected one folder for each class"):
        FolderSource(tree(tmp_path, "x.jpg"))
    with pytest.raises(DataError, match="absent: expected a folder of images: No such file"):
        FolderSource(tmp_path / "absent")


def test_a_file_that_vanishes_is_reported_by_name(tmp_path: Path) -> None:
    source = FolderSource(tree(tmp_path, "a/x.jpg"))
    (tmp_path / "a" / "x.jpg").unlink()
    with pytest.raises(DataError, match=r"a/x\.jpg cannot be read: No such file"):
        source.read(0)


JPEG, PNG, GIF = b"\xff\xd8\xff\xe0\0\x10JFIF\0", b"\x89PNG\r\n\x1a\n\0\0", b"GIF89a\0\0"
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
AVIF = b"\0\0\0\x18ftypavif\0\0\0\0mif1avif"


def fill(root: Path, content: bytes, *paths: str) -> Path:
    for path in tree(root, *paths) and paths:
        (root / path).write_bytes(content)
    return root


def keys(source: Source) -> list[str]:
    return [source.key(index) for index in range(len(source))]


def test_an_image_is_found_by_its_content_where_its_name_does_not_tell(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, JPEG, "cat/1.jfif", "cat/2.jpe", "cat/3", "cat/4.JPG_large", "dog/5.tmp")
    fill(tmp_path, PNG, "dog/6.image")
    fill(tmp_path, GIF, "dog/7.dat")
    fill(tmp_path, b"II*\0\x08\0\0\0", "dog/8")
    fill(tmp_path, AVIF, "dog/9", "dog/a.avif")
    source = FolderSource(tmp_path)
    found = ["cat/1.jfif", "cat/2.jpe", "cat/3", "cat/4.JPG_large"]
    assert keys(source) == [
        *found,
        "dog/5.tmp",
        "dog/6.image",
        "dog/7.dat",
        "dog/8",
        "dog/9",
        "dog/a.avif",
    ]
    assert not source.lost and not caplog.messages


def test_a_known_extension_is_believed_and_its_file_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(path: str) -> trees.Content:
        raise AssertionError(path)

    monkeypatch.setattr(trees, "look_into", opened)
    names = [f"cat/{n:02d}{ending}" for n, ending in enumerate(trees.IMAGE_EXTENSIONS)]
    assert keys(FolderSource(tree(tmp_path, *names, "dog/x.JPG"))) == [*names, "dog/x.JPG"]


def test_of_thousands_of_notes_one_in_each_folder_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, JPEG, "cat/1.jpg", "dog/1.txt", "dog/2.txt")
    fill(tmp_path, b"a note", *(f"cat/{n}.xml" for n in range(9)), *(f"cat/{n}.txt" for n in "ab"))
    opened = []
    look_into = trees.look_into
    monkeypatch.setattr(trees, "look_into", lambda p: opened.append(p) or look_into(p))
    assert keys(FolderSource(tmp_path)) == ["cat/1.jpg", "dog/1.txt", "dog/2.txt"]
    assert len(opened) == 4


@pytest.mark.parametrize(
    ("content", "ending", "cure"),
    [
        (HEIC, ".heic", "HEIC: convert it to JPEG or PNG"),
        (HEIC, "", "HEIC: convert it to JPEG or PNG"),
        (HEIC.replace(b"heic", b"avif"), "", "AVIF: convert it to JPEG or PNG, or install"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ".svg", "SVG, a drawing: convert it"),
        (b"%PDF-1.7\n\0", ".pdf", "PDF, a document: convert it to JPEG or PNG"),
        (b"version https://git-lfs.github.com/spec/v1\n", ".jfif", "run git lfs pull"),
        (b"\x01\x02\x03\x04", ".xyz", r"1 \.xyz file "),
    ],
)
def test_a_class_that_loses_all_its_files_is_an_error_with_the_cure(
    tmp_path: Path, content: bytes, ending: str, cure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foreign, "can_decode", lambda: False)  # as a Pillow without AVIF
    fill(tmp_path, JPEG, "cat/1.jpg", "dog/1.jpg")
    fill(tmp_path, content, f"owl/2024/1{ending}")
    source = FolderSource(tmp_path)
    with pytest.raises(DataError, match=f"no file of these can be used: 'owl' .*{cure}"):
        source.refuse_lost_classes()


def test_a_class_of_links_to_nowhere_is_an_error(tmp_path: Path) -> None:
    fill(tmp_path, JPEG, "cat/1.jpg", "dog/1.jpg")
    (tmp_path / "owl").mkdir()
    (tmp_path / "owl" / "1.jpg").symlink_to("../objects/1")
    with pytest.raises(DataError, match=r"'owl' \(1 link to nowhere or special file"):
        FolderSource(tmp_path).refuse_lost_classes()


@pytest.mark.parametrize("link", ["loop", "cat/loop", "cat/loop.jpg"])
def test_a_link_to_itself_is_left_out_by_everything_that_reads_folders(
    tmp_path: Path, link: str
) -> None:
    fill(tmp_path, JPEG, "cat/1.jpg", "dog/1.jpg")
    (tmp_path / link).symlink_to(Path(link).name)
    assert len(FolderSource(tmp_path)) == 2
    assert len(take_inventory(tmp_path).entries) == 2
    assert split_folders(tmp_path) == {} and find_packed(tmp_path) == []


def test_the_files_of_a_class_that_cannot_be_used_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, JPEG, "cat/1.jpg", "cat/2.jpg", "dog/1.jpg")
    fill(tmp_path, HEIC, "cat/3.heic", "cat/4.heic")
    fill(tmp_path, b"about the images\n", "cat/readme.txt", "notes/all.txt")
    source = FolderSource(tmp_path)
    source.refuse_lost_classes()  # a folder of texts is no class
    assert "files that are no usable images, by class: cat (2 of 4)" in caplog.text
    assert "2 .heic files (for example" in caplog.text and "HEIC: convert it" in caplog.text


def test_files_of_operating_systems_and_notebooks_are_ignored_quietly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, JPEG, "cat/1.jpg", "dog/1.jpg", "cat/._1.jpg", "__MACOSX/cat/._1.jpg")
    fill(tmp_path, b"\0\0\0\1Bud1", ".DS_Store", "cat/.DS_Store", "dog/Thumbs.db")
    fill(tmp_path, b"", "dog/desktop.ini", "cat/.gitkeep", "cat/.ipynb_checkpoints/1.jpg")
    assert keys(FolderSource(tmp_path)) == ["cat/1.jpg", "dog/1.jpg"]
    assert not caplog.messages


def test_class_folders_are_walked_to_any_depth_and_links_back_are_not_followed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tree(tmp_path / "root", "b/z.jpg", "b/2024/05/y.jpg", "a/deep/er/x.jpg", "b/2023/w.jpg")
    (root / "b" / "2024" / "loop").symlink_to(root / "b")
    (root / "c").symlink_to(root)
    (root / "d").symlink_to(tmp_path)
    source = FolderSource(root)
    found = ["a/deep/er/x.jpg", "b/z.jpg", "b/2023/w.jpg", "b/2024/05/y.jpg"]
    assert keys(source) == found and source.labels.names == ("a", "b")
    assert source.subclasses == {"a": ["deep"], "b": ["2023", "2024"]}
    assert "3 links to a folder that contains them" in caplog.text


def test_folders_can_be_deeper_than_python_can_call(tmp_path: Path) -> None:
    tree(tmp_path, "cat/" + "d/" * 300 + "x.jpg")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 150)
    try:
        (found,) = keys(FolderSource(tmp_path))
    finally:
        sys.setrecursionlimit(limit)
    assert found.count("/d") == 300


def test_a_path_with_a_null_byte_is_an_error_of_the_sample(tmp_path: Path) -> None:
    source = ListedSource("list", tmp_path, ["a\0.jpg"], np.zeros(1, np.int64))
    with pytest.raises(DataError, match="cannot be read: embedded null byte"):
        source.read(0)


def test_a_class_folder_may_have_the_name_of_a_list_or_label_map(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = ("a.csv", "a.lst", "b.manifest", "c.rec", "data.jpg", "labels.json")
    root = tree(tmp_path, *(f"{name}/1.jpg" for name in names))
    assert FolderSource(root).labels.names == names and not caplog.messages


def test_two_folders_that_would_share_a_label_are_refused_by_name(tmp_path: Path) -> None:
    for name in (b"caf\xe9", rb"caf\xe9"):
        folder = os.path.join(os.fsencode(tmp_path), name)
        os.mkdir(folder)
        with open(os.path.join(folder, b"1.jpg"), "wb"):
            pass
    with pytest.raises(DataError, match=r"b'caf\\xe9'.* would both be the class .*rename one"):
        FolderSource(tmp_path)


def test_folders_named_by_numbers_are_sorted_as_text_which_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for folder, numbers in (("few", range(10)), ("many", range(12))):
        source = FolderSource(tree(tmp_path / folder, *(f"{n}/x.jpg" for n in numbers)))
        assert source.labels.names == tuple(sorted(map(str, numbers)))
        assert not caplog.messages
        source.log_order_of_numbers()
    assert "class indices 0, 1, 2, … are 0, 1, 10, 11, 2, 3" in caplog.text


def test_an_unknown_class_has_the_cure_in_its_message(tmp_path: Path) -> None:
    root = tree(tmp_path, "Cat/x.jpg", "dog/y.jpg")
    with pytest.raises(DataError) as raised:
        FolderSource(root, LabelMap(("cat", "dog")), may_lack_classes=True)
    assert "1 unknown: ['Cat'] (did you mean 'cat'?)" in str(raised.value)
    assert "rename the unknown folders, move them away, or train" in str(raised.value)


FOLDERS = (
    "cat",
    "Cat",
    "x.lst",
    "labels.json",
    "caf\u00e9",
    "cafe\u0301",
    "10",
    "2",
    "train",
    "a b",
)
INNER = ("2024", "deep", ".cache", "__MACOSX", "data.rec", "b.csv")
FILES = (
    "1.jpg",
    "2.jfif",
    "3",
    "4.PNG",
    "5.txt",
    "6.heic",
    ".7.jpg",
    "Thumbs.db",
    "a.lst",
    "8.tif",
)
CONTENTS = (JPEG, PNG, GIF, HEIC, b"II*\0\x08\0\0\0", b"a note\n", b"", b"\1\2\3")


def is_hidden(path: Path) -> bool:
    return any(trees.is_system_name(part) or part.startswith(".") for part in path.parts)


@pytest.mark.parametrize("seed", range(40))
def test_no_file_of_a_random_tree_is_lost_without_a_word(
    tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    random = np.random.default_rng(seed)
    for number in range(5):
        root, made = tmp_path / str(number), []
        root.mkdir()
        for _ in range(int(random.integers(1, 12))):
            depth = int(random.integers(0, 4))
            folders = [str(random.choice(FOLDERS)), *map(str, random.choice(INNER, 3))][:depth]
            path = Path(*folders, str(random.choice(FILES)))
            if not (root / path).exists():
                content = CONTENTS[random.integers(len(CONTENTS))]
                fill(root, content, str(path))
                made.append(path)
        caplog.clear()
        try:
            source = FolderSource(root)
        except DataError as error:
            assert "expected one folder for each class with images" in str(error)
            continue
        found, lost = set(keys(source)), {folder.label for folder in source.lost}
        assert len(found) == len(source)
        for path in made:
            is_image = path.suffix.lower() in trees.IMAGE_EXTENSIONS
            is_image |= trees.look_into(str(root / path)).is_image
            if is_hidden(path) or len(path.parts) == 1:
                assert str(path) not in found
            elif is_image:
                assert str(path) in found
            else:
                assert path.parts[0] in lost or path.suffix in caplog.text
