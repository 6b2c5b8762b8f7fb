"""Sources: samples out of record files and class folders look alike."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from image_classification.errors import DataError, RecordError
from image_classification.labels.label_map import LabelMap
from image_classification.loading.records import RecordSource
from image_classification.loading.sources import FolderSource, Source
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
    assert [source.key(index) for index in range(len(source))] == ["a/x.jpg"]
    assert source.labels.names == ("a",)
    assert len(caplog.messages) == 1
    for part in (
        "2 hidden files or folders",
        "3 .txt files",
        "1 files without an extension",
        "1 images outside a class folder",
        "1 folders inside a class folder",
        "2 class folders without an image",
    ):
        assert part in caplog.text


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
