"""Lists: read from anybody, written as im2rec does; walking, dividing and splitting."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from image_classification.errors import DataError, ListError, UsageError
from image_classification.labels.label_map import LabelMap
from image_classification.labels.lists import (
    ListEntry,
    divide_list,
    read_list,
    shuffled,
    write_list,
)
from image_classification.labels.split import stratified_split
from image_classification.labels.tree import walk


def write(folder: Path, content: bytes) -> Path:
    path = folder / "data.lst"
    path.write_bytes(content)
    return path


def tree(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")
    return root


def entries(count: int) -> list[ListEntry]:
    return [ListEntry(number, (0.0,), f"{number}.jpg") for number in range(count)]


def ids(part: list[ListEntry]) -> list[int]:
    return [entry.id for entry in part]


@pytest.mark.parametrize(
    "content",
    [
        b"0\t3.000000\ta/b.jpg\n7\t-1.5\tc d.jpg\n",
        b"\xef\xbb\xbf0\t3\ta/b.jpg\r\n\r\n7\t-1.5\tc d.jpg\r\n",
        b"\n 0 \t 3e0 \ta/b.jpg\n   \n7\t-1.5\tc d.jpg",
    ],
)
def test_a_list_may_have_any_usual_form(tmp_path: Path, content: bytes) -> None:
    assert read_list(write(tmp_path, content)) == [
        ListEntry(0, (3.0,), "a/b.jpg"),
        ListEntry(7, (-1.5,), "c d.jpg"),
    ]


def test_several_label_columns_are_several_labels(tmp_path: Path) -> None:
    path = write(tmp_path, b"5\t1\t0.5\t1e3\tx.jpg\n")
    assert read_list(path) == [ListEntry(5, (1.0, 0.5, 1000.0), "x.jpg")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"1 2 a.jpg", "got 1 of at least 3 fields: '1 2 a.jpg'; separate the fields with TABs"),
        (b"1\ta.jpg", "got 2 of at least 3 fields"),
        (b"one\t2\ta.jpg", "whole number from 0 as id, got 'one'"),
        (b"-1\t2\ta.jpg", "whole number from 0 as id, got '-1'"),
        (b"18446744073709551616\t2\ta.jpg", "whole number from 0 as id"),
        (b"1\tcat\ta.jpg", r"numbers as labels \(class indices\), got \['cat'\]"),
        (b"1\t2\t ", "a path as the last field, got an empty one"),
        (b"0\t2\tb.jpg", "id 0 already occurs in line 1"),
    ],
)
def test_a_malformed_line_is_reported_by_file_and_number(
    tmp_path: Path, line: bytes, message: str
) -> None:
    path = write(tmp_path, b"0\t0\tgood.jpg\n\n" + line + b"\n")
    with pytest.raises(ListError, match=message) as raised:
        read_list(path)
    assert str(raised.value).startswith(f"{path}, line 3: ")


def test_a_missing_list_is_reported_by_name(tmp_path: Path) -> None:
    with pytest.raises(ListError, match=r"absent\.lst: the list cannot be read"):
        read_list(tmp_path / "absent.lst")


def test_labels_are_written_with_six_decimals(tmp_path: Path) -> None:
    path = tmp_path / "data.lst"
    write_list(path, [ListEntry(0, (3.0,), "été.jpg"), ListEntry(9, (1.0, 0.25), "b.jpg")])
    assert path.read_bytes() == "0\t3.000000\tété.jpg\n9\t1.000000\t0.250000\tb.jpg\n".encode()


@pytest.mark.parametrize("name", ["a\tb.jpg", "a\nb.jpg", "a\rb.jpg"])
def test_a_name_that_a_list_cannot_hold_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ListError, match="TAB or line break"):
        write_list(tmp_path / "data.lst", [ListEntry(0, (0.0,), name)])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ListError, match="TAB or a line break; rename"):
        walk(tree(tmp_path, f"class/{name}"))


def test_names_that_are_not_utf8_are_kept_byte_for_byte(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path / "images")
    os.makedirs(root + b"/no\xebl")
    with open(root + b"/no\xebl/\xff.jpg", "wb"):
        pass
    found = walk(tmp_path / "images")
    write_list(tmp_path / "data.lst", found.entries)
    assert (tmp_path / "data.lst").read_bytes() == b"0\t0.000000\tno\xebl/\xff.jpg\n"
    assert read_list(tmp_path / "data.lst") == found.entries
    found.labels.write(tmp_path / "labels.json")
    assert LabelMap.read(tmp_path / "labels.json").names == ("no\\xebl",)


def test_the_walk_has_im2recs_order_and_class_numbers(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        *("ünïcode/u.jpg", "beta/z.png", "beta/sub2/deep/d.jpg", "beta/sub1/s.jpg"),
        *("alpha2/b.JPG", "alpha2/a.jpeg", "alpha10/x.jpg", "Alpha/q.jpg", "empty/notes.txt"),
    )
    (root / "none").mkdir()
    found = walk(root)
    assert [(e.id, e.labels[0], e.path) for e in found.entries] == [
        (0, 0, "Alpha/q.jpg"),
        (1, 1, "alpha10/x.jpg"),
        (2, 2, "alpha2/a.jpeg"),
        (3, 2, "alpha2/b.JPG"),
        (4, 3, "beta/z.png"),
        (5, 4, "beta/sub1/s.jpg"),
        (6, 5, "beta/sub2/deep/d.jpg"),
        (7, 6, "ünïcode/u.jpg"),
    ]
    assert found.labels.names[3:6] == ("beta", "beta/sub1", "beta/sub2/deep")


def test_an_image_in_the_root_makes_the_root_class_0(tmp_path: Path) -> None:
    found = walk(tree(tmp_path, "z.jpg", "a/b.jpg"))
    assert found.labels.names == (".", "a")
    assert [entry.path for entry in found.entries] == ["z.jpg", "a/b.jpg"]


def test_a_walk_without_recursion_is_one_class(tmp_path: Path) -> None:
    found = walk(tree(tmp_path, "z.jpg", "c.png", "a/b.jpg"), recursive=False)
    assert [(e.labels[0], e.path) for e in found.entries] == [(0, "c.png"), (0, "z.jpg")]


def test_hidden_names_are_left_out_with_one_warning_and_can_be_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tree(tmp_path, "a/x.jpg", "a/._x.jpg", ".cache/y.jpg")
    assert [entry.path for entry in walk(root).entries] == ["a/x.jpg"]
    assert len(caplog.messages) == 1
    assert "1 hidden file or folder" in caplog.text and "--include-hidden" in caplog.text
    kept = walk(root, include_hidden=True)
    assert [entry.path for entry in kept.entries] == [".cache/y.jpg", "a/._x.jpg", "a/x.jpg"]


def test_a_folder_that_a_list_lacks_for_its_extensions_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tree(tmp_path, "a/x.jpg", "b/y.jfif", "b/z.jfif")
    assert walk(root).labels.names == ("a",)
    assert re.search(r"2 \.jfif files .*1 folder without such an image \('.*/b'\)", caplog.text)


def test_extensions_are_taken_in_any_case_with_or_without_a_dot(tmp_path: Path) -> None:
    root = tree(tmp_path, "a/x.JPG", "a/y.webp", "a/z.png")
    found = walk(root, extensions=["JPG", ".WebP"])
    assert [entry.path for entry in found.entries] == ["a/x.JPG", "a/y.webp"]


def test_a_link_to_a_folder_that_contains_it_is_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tree(tmp_path / "root", "a/x.jpg")
    (root / "a" / "loop").symlink_to(root)
    (root / "self").symlink_to(".")
    assert [entry.path for entry in walk(root).entries] == ["a/x.jpg"]
    assert "2 links to a folder that contains them" in caplog.text


def test_links_to_other_folders_and_files_are_followed(tmp_path: Path) -> None:
    elsewhere = tree(tmp_path / "elsewhere", "x.jpg")
    root = tree(tmp_path / "root", "a/y.jpg")
    (root / "b").symlink_to(elsewhere)
    (root / "a" / "link.jpg").symlink_to(elsewhere / "x.jpg")
    (root / "a" / "dangling.jpg").symlink_to("nowhere")
    (root / "a" / "folder.jpg").mkdir()
    paths = [entry.path for entry in walk(root).entries]
    assert paths == ["a/link.jpg", "a/y.jpg", "b/x.jpg"]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ((), "found none"),
        (("a/x.txt", "a/y.txt"), r"left out: 2 \.txt files"),
        ((".hidden/x.jpg",), "left out: 1 hidden"),
    ],
)
def test_a_root_without_images_is_an_error_that_names_its_content(
    tmp_path: Path, paths: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        walk(tree(tmp_path, *paths))


def test_a_missing_root_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a folder of images: No such file"):
        walk(tmp_path / "absent")
    with pytest.raises(DataError, match="subfolders were not visited"):
        walk(tree(tmp_path, "a/x.jpg"), recursive=False)


# Spec 2.2, observed with im2rec.
def test_the_shuffle_is_that_of_im2rec() -> None:
    assert ids(shuffled(entries(11))) == [1, 0, 4, 6, 8, 3, 5, 10, 9, 7, 2]
    assert ids(shuffled(entries(8))) == [0, 4, 7, 5, 1, 6, 3, 2]


def test_an_undivided_list_has_no_suffix() -> None:
    assert divide_list(entries(3)) == {"": entries(3)}


def test_no_image_is_lost_if_the_ratios_add_up_to_one() -> None:
    lists = divide_list(entries(11), train_ratio=0.7, test_ratio=0.3)
    assert list(lists) == ["_test", "_train"]
    assert ids(lists["_test"]) == [0, 1, 2]
    assert ids(lists["_train"]) == list(range(3, 11))


def test_im2recs_loss_of_images_is_optional_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    lists = divide_list(entries(11), train_ratio=0.7, test_ratio=0.3, exact_im2rec_ratios=True)
    assert [len(part) for part in lists.values()] == [3, 7]
    assert "1 of 11 images are in no list" in caplog.text


def test_ratios_are_rounded_down_in_float_arithmetic() -> None:
    lists = divide_list(entries(100), train_ratio=0.29)
    assert {name: len(part) for name, part in lists.items()} == {"_val": 72, "_train": 28}


def test_the_validation_list_is_what_the_ratios_leave_over() -> None:
    lists = divide_list(entries(8), train_ratio=0.5, test_ratio=0.25)
    assert {name: ids(part) for name, part in lists.items()} == {
        "_test": [0, 1],
        "_val": [6, 7],
        "_train": [2, 3, 4, 5],
    }


def test_chunks_share_one_numbering_and_are_each_divided() -> None:
    lists = divide_list(entries(7), chunks=2, train_ratio=0.5)
    assert {name: ids(part) for name, part in lists.items()} == {
        "_0_val": [2, 3],
        "_0_train": [0, 1],
        "_1_val": [6],
        "_1_train": [4, 5],
    }


def test_an_impossible_division_is_refused() -> None:
    with pytest.raises(UsageError, match=r"add up to at most 1, got 1\.0"):
        divide_list(entries(9), test_ratio=0.2)
    with pytest.raises(UsageError, match="train ratio above 0"):
        divide_list(entries(9), train_ratio=1.5)
    with pytest.raises(UsageError, match="use at most 6 chunks"):
        divide_list(entries(11), chunks=8)
    with pytest.raises(UsageError, match="1 chunk or more, got 0"):
        divide_list(entries(11), chunks=0)


def test_exact_im2rec_division_writes_empty_lists() -> None:
    lists = divide_list(entries(11), chunks=20, exact_im2rec_ratios=True)
    assert len(lists) == 20
    assert sum(not part for part in lists.values()) == 9


def test_a_split_has_every_sample_once_and_divides_each_class() -> None:
    classes = np.random.default_rng(0).integers(0, 5, 1000)
    parts = stratified_split(classes, (0.7, 0.2, 0.1), seed=3)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1000))
    for class_index in range(5):
        count = int((classes == class_index).sum())
        found = [int((classes[part] == class_index).sum()) for part in parts]
        assert found[1:] == [round(count * 0.2), round(count * 0.1)]


def test_a_split_depends_only_on_its_seed() -> None:
    classes = np.repeat([0, 1, 2], 50)
    one, same, other = (stratified_split(classes, (0.8, 0.2, 0.0), seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one.validation, other.validation)


def test_a_new_class_does_not_move_the_samples_of_the_others() -> None:
    few, many = np.repeat([0, 1], 20), np.repeat([0, 1, 2], 20)
    ratios = (0.8, 0.2, 0.0)
    before = stratified_split(few, ratios, 7).validation
    after = stratified_split(many, ratios, 7).validation
    assert np.array_equal(before, after[after < 40])


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (20, (16, 2, 2))]
)
def test_small_classes_are_in_validation_too(count: int, sizes: tuple[int, int, int]) -> None:
    parts = stratified_split(np.zeros(count, np.int64), (0.8, 0.1, 0.1), seed=0)
    assert tuple(len(part) for part in parts) == sizes


def test_a_class_keeps_a_sample_to_train_on() -> None:
    parts = stratified_split(np.repeat([0, 1], [2, 3]), (0.1, 0.5, 0.4), seed=0)
    assert [len(part) for part in parts] == [2, 2, 1]
    parts = stratified_split(np.zeros(3, np.int64), (0.1, 0.9, 0.0), seed=0)
    assert [len(part) for part in parts] == [1, 2, 0]


def test_a_share_of_zero_gets_nothing() -> None:
    parts = stratified_split(np.zeros(4, np.int64), (1.0, 0.0, 0.0), seed=0)
    assert [len(part) for part in parts] == [4, 0, 0]
    assert [len(part) for part in stratified_split(np.zeros(0, np.int64), (0.5, 0.5, 0), 0)] == [
        0
    ] * 3


@pytest.mark.parametrize("ratios", [(0.5, 0.2, 0.2), (0.0, 0.5, 0.5), (1.2, -0.2, 0.0)])
def test_ratios_that_do_not_add_up_to_one_are_refused(
    ratios: tuple[float, float, float],
) -> None:
    with pytest.raises(UsageError, match="add up to 1"):
        stratified_split(np.zeros(4, np.int64), ratios, seed=0)


@pytest.mark.parametrize("label", ["nan", "inf", "-inf", "1e39", "3.5e38"])
def test_a_label_that_a_record_cannot_hold_is_refused_with_its_line(
    tmp_path: Path, label: str
) -> None:
    path = write(tmp_path, f"0\t1\ta.jpg\n1\t{label}\tb.jpg\n".encode())
    with pytest.raises(ListError, match=f"line 2: expected labels within float32.*got {label}"):
        read_list(path)


def test_a_line_with_another_number_of_labels_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, b"0\t1\t2\ta.jpg\n\n1\t1\tb.jpg\n2\t1\tc.jpg\n")
    assert len(read_list(path)) == 3
    with pytest.raises(ListError, match="line 3: expected 2 labels, got 1"):
        read_list(path, label_width=2)
