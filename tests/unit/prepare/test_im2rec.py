"""im2rec's command line: its flags, its files to the byte, and what it does better on purpose."""

from __future__ import annotations

import io
import os
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classification.cli import im2rec, main
from image_classification.cli.pack import INTERPOLATION_NUMBERS
from image_classification.errors import UsageError
from image_classification.images.decode import decode
from image_classification.labels.lists import ListEntry, write_list
from image_classification.prepare.pack_lists import select_lists
from image_classification.records.reader import RecordFile


def picture(height: int = 20, width: int = 30, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG")
    return content.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    for number, name in enumerate(["b/2.jpg", "a/1.jpg", "a/10.jpg", "c/x.png"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(seed=number))
    return folder


def im2rec_says(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = im2rec.main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_defaults_are_those_of_im2rec() -> None:
    namespace = vars(im2rec.parser().parse_args(["data", "images"]))
    expected = {
        "list": False,
        "exts": [".jpeg", ".jpg", ".png"],
        "chunks": 1,
        "train_ratio": 1.0,
        "test_ratio": 0.0,
        "recursive": False,
        "shuffle": True,
        "pass_through": False,
        "resize": 0,
        "center_crop": False,
        "quality": 95,
        "num_thread": 1,
        "color": 1,
        "encoding": ".jpg",
        "pack_label": False,
    }
    assert {name: namespace[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--list True p r", "--list p r"),
        ("--list=1 --recursive true p r", "--list --recursive p r"),
        ("--recursive False p r", "p r"),
        ("--shuffle 1 p r", "p r"),
        ("--shuffle False p r", "--no-shuffle p r"),
        ("--pass-through 1 --center-crop 0 p r", "--pass-through p r"),
        ("--list p r", "--list p r"),
        ("p r --num-thread 1", "p r --num-thread 1"),
        ("--list ./1 r", "--list ./1 r"),
    ],
)
def test_command_lines_from_before_2018_work(old: str, new: str) -> None:
    assert im2rec.without_old_values(old.split()) == new.split()


def test_lists_have_the_names_order_and_classes_of_im2rec(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = im2rec_says(
        capsys, "--list", "--recursive", "--no-shuffle", tmp_path / "d", root
    )
    assert (code, out) == (0, "a 0\nb 1\nc 2\n")
    assert (tmp_path / "d.lst").read_text() == (
        "0\t0.000000\ta/1.jpg\n1\t0.000000\ta/10.jpg\n2\t1.000000\tb/2.jpg\n3\t2.000000\tc/x.png\n"
    )
    assert (tmp_path / "labels.json").is_file()
    im2rec_says(
        capsys, "--list", "--recursive", "--train-ratio", 0.5, "--chunks", 2, tmp_path / "e", root
    )
    names = {path.name for path in tmp_path.glob("e*.lst")}
    assert names == {"e_0_train.lst", "e_0_val.lst", "e_1_train.lst", "e_1_val.lst"}


def test_ratios_that_add_up_to_1_lose_no_image_unless_asked_to(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--list", "--recursive", "--train-ratio", 0.7, "--test-ratio", 0.3]
    im2rec_says(capsys, *words, tmp_path / "ours", root)
    lines = [path.read_text().count("\n") for path in sorted(tmp_path.glob("ours*.lst"))]
    assert lines == [1, 3]
    _, _, error = im2rec_says(capsys, *words, "--exact-im2rec-ratios", tmp_path / "theirs", root)
    lines = [path.read_text().count("\n") for path in sorted(tmp_path.glob("theirs*.lst"))]
    assert lines == [1, 2]
    assert "1 of 4 images are in no list" in error


def test_hidden_files_are_listed_as_im2rec_does_and_reported(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "a" / "._1.jpg").write_bytes(b"")
    _, _, error = im2rec_says(capsys, "--list", "--recursive", tmp_path / "d", root)
    assert (tmp_path / "d.lst").read_text().count("\n") == 5
    assert "1 hidden file is listed, as im2rec.py does ('a/._1.jpg')" in error
    im2rec_says(capsys, "--list", "--recursive", "--skip-hidden", tmp_path / "d", root)
    assert (tmp_path / "d.lst").read_text().count("\n") == 4


@pytest.mark.parametrize("recursive", [[], ["--recursive"]])
def test_an_empty_or_missing_root_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recursive: list[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing"):
        code, _, error = im2rec_says(capsys, "--list", *recursive, tmp_path / "d", tmp_path / name)
        assert code == 2 and error.startswith("ClientError: ") and name in error
    assert not (tmp_path / "d.lst").exists()


def test_packing_prints_and_stores_what_im2rec_does(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    im2rec_says(capsys, "--list", "--recursive", "--train-ratio", 0.5, tmp_path / "d", root)
    code, out, _ = im2rec_says(capsys, "--pass-through", "--num-thread", 3, tmp_path / "d", root)
    assert code == 0
    for name in ("d_train", "d_val"):
        path = tmp_path / f"{name}.lst"
        assert f"Creating .rec file from {path} in {tmp_path}\n" in out
        ids = [int(line.split("\t")[0]) for line in path.read_text().splitlines()]
        with RecordFile(tmp_path / f"{name}.rec") as file:
            assert file.keys is not None and file.keys.tolist() == ids
            for number, line in enumerate(path.read_text().splitlines()):
                content = (root / line.split("\t")[-1]).read_bytes()
                assert file.read_image(number).content == content


def test_without_pass_through_everything_becomes_a_jpeg(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    im2rec_says(capsys, "--list", "--recursive", tmp_path / "d", root)
    im2rec_says(capsys, "--resize", 8, "--center-crop", tmp_path / "d", root)
    with RecordFile(tmp_path / "d.rec") as file:
        contents = [file.read_image(number).content for number in range(4)]
    assert all(content.startswith(b"\xff\xd8") for content in contents)
    assert [decode(content).shape for content in contents] == [(8, 8, 3)] * 4


@pytest.mark.parametrize("number", sorted(INTERPOLATION_NUMBERS))
def test_every_interpolation_of_the_cpp_im2rec_is_available(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    im2rec_says(capsys, "--list", "--recursive", tmp_path / "d", root)
    for size in (8, 64):
        words = ["--resize", size, "--inter-method", number, tmp_path / "d", root]
        assert im2rec_says(capsys, *words)[0] == 0
        with RecordFile(tmp_path / "d.rec") as file:
            assert decode(file.read_image(0).content).shape == (size, size * 30 // 20, 3)


def test_a_slice_of_a_list_is_packed_into_its_own_file(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    im2rec_says(capsys, "--list", "--recursive", "--no-shuffle", tmp_path / "d", root)
    ids = []
    for part in range(3):
        words = ["--pass-through", "--nsplit", 3, "--part", part, tmp_path / "d", root]
        assert im2rec_says(capsys, *words)[0] == 0
        with RecordFile(tmp_path / f"d.part{part:03d}.rec") as file:
            assert file.keys is not None
            ids += file.keys.tolist()
    assert ids == [0, 1, 2, 3]
    code, _, error = im2rec_says(capsys, "--nsplit", 3, "--part", 3, tmp_path / "d", root)
    assert code == 2 and "expected a part from 0 to 2 of 3, got 3" in error


def test_every_line_must_have_the_label_width(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_list(
        tmp_path / "d.lst", [ListEntry(0, (1.0, 2.0), "a/1.jpg"), ListEntry(1, (1.0,), "b/2.jpg")]
    )
    words = ["--pass-through", "--pack-label", "--label-width", 2, tmp_path / "d", root]
    code, _, error = im2rec_says(capsys, *words)
    assert code == 2 and "d.lst, line 2: expected 2 labels, got 1" in error
    write_list(tmp_path / "d.lst", [ListEntry(0, (1.0, 2.0), "a/1.jpg")])
    assert im2rec_says(capsys, *words)[0] == 0
    with RecordFile(tmp_path / "d.rec") as file:
        assert file.read_image(0).header.labels == (1.0, 2.0)


def test_the_command_line_of_the_cpp_im2rec_gets_the_same_command_of_ours(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_list(tmp_path / "d.lst", [ListEntry(0, (1.0, 0.0), "a/1.jpg")])
    listing, output = tmp_path / "d.lst", tmp_path / "out.rec"
    words = [listing, f"{root}/", output, "resize=16", "center_crop=1", "color=-1", "pack_label=1"]
    code, _, error = im2rec_says(capsys, *words, "label_width=2", "inter_method=3", "resize", "x=1")
    assert code == 2 and error.startswith("ClientError: ") and error.count("\n") == 1
    assert "without an equivalent: resize x=1" in error
    command, *arguments = shlex.split(error.partition("packed by: ")[2].partition(";")[0])
    assert command == "image-classification"
    assert main(arguments) == 0
    with RecordFile(output) as file:
        record = file.read_image(0)
    assert record.header.labels == (1.0, 0.0)
    assert decode(record.content).shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("a.lst r/ o.rec", "image-classification pack a.lst r/ --output o.rec --quality 95"),
        ("a.lst r/ o.rec unchanged=1", "image-classification pack a.lst r/ --output o.rec"),
        (
            "a.lst r/ o.rec center_crop=1 quality=80",
            "image-classification pack a.lst r/ --output o.rec --quality 80",
        ),
        (
            "a.lst r/ o.rec nsplit=4 part=1 inter_method=2",
            "im2rec a.lst r/ --quality 95 --inter-method 2 --nsplit 4 --part 1",
        ),
        ("a.lst r/ resize=9", "image-classification pack a.lst r/ --resize 9 --quality 95"),
    ],
)
def test_keys_of_the_cpp_im2rec_become_options(words: str, command: str) -> None:
    assert im2rec.translated_cpp_form(words.split()) == (command, [])


@pytest.mark.parametrize("words", ["data images", "--resize 9 data images", "data images --list"])
def test_command_lines_of_im2rec_py_are_not_taken_for_those_of_the_cpp_im2rec(words: str) -> None:
    assert not im2rec.is_cpp_form(words.split())


def names_of(tmp_path: Path, prefix: str, *, exact: bool = False) -> list[str]:
    return [path.name for path in select_lists(tmp_path / prefix, exact_im2rec_prefix=exact)]


def test_a_prefix_selects_the_lists_that_were_written_with_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("data", "data2", "data_old", "data_train", "data_1_val", "v1.2"):
        (tmp_path / f"{name}.lst").write_text("")
    (tmp_path / "data_test.lst").mkdir()  # a folder of that name is no list
    assert names_of(tmp_path, "data") == ["data.lst", "data_1_val.lst", "data_train.lst"]
    assert "not packed: data2.lst, data_old.lst" in caplog.text
    assert len(names_of(tmp_path, "data", exact=True)) == 5
    assert names_of(tmp_path, "v1.2") == ["v1.2.lst"]
    assert names_of(tmp_path, "data2.lst") == ["data2.lst"]
    assert len(names_of(tmp_path, ".")) == 6
    with pytest.raises(UsageError, match=r"there is data\.lst, .*; name one of them"):
        names_of(tmp_path, "dat")


def test_a_missing_list_is_an_error_that_explains_how_to_make_one(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = im2rec_says(capsys, tmp_path / "nothing", root)
    assert code == 2
    assert "make lists first: im2rec --list --recursive PREFIX ROOT" in error


def test_an_unusable_image_fails_the_run_with_any_number_of_threads(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    im2rec_says(capsys, "--list", "--recursive", tmp_path / "d", root)
    (root / "a" / "1.jpg").write_bytes(picture()[:200])
    for threads in (1, 4):
        code, _, error = im2rec_says(capsys, "--num-thread", threads, tmp_path / "d", root)
        assert code == 2 and "a/1.jpg" in error and "nothing was written" in error
        assert sorted(p.name for p in tmp_path.iterdir()) == ["d.lst", "images", "labels.json"]
    code, out, _ = im2rec_says(capsys, "--max-bad", 1, tmp_path / "d", root)
    assert code == 0 and "skipped a/1.jpg" in out


def test_a_16_bit_gray_image_is_scaled_to_8_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    levels = np.full((16, 16), 20_000, np.uint16)
    Image.fromarray(levels).save(tmp_path / "images" / "gray.png")
    im2rec_says(capsys, "--list", tmp_path / "d", tmp_path / "images")
    assert im2rec_says(capsys, "--color", "-1", tmp_path / "d", tmp_path / "images")[0] == 0
    with RecordFile(tmp_path / "d.rec") as file:
        pixels = decode(file.read_image(0).content, channels=1)
    assert abs(float(pixels.mean()) - 20_000 / 257) < 1


def test_a_named_pipe_in_a_list_is_unusable_and_does_not_block(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(root / "pipe.jpg")
    write_list(
        tmp_path / "d.lst", [ListEntry(0, (0.0,), "a/1.jpg"), ListEntry(1, (0.0,), "pipe.jpg")]
    )
    code, _, error = im2rec_says(capsys, "--pass-through", tmp_path / "d", root)
    assert code == 2 and "pipe.jpg: not a regular file" in error


def test_a_second_prefix_does_not_rename_the_classes_of_the_first(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--list", "--recursive"]
    assert im2rec_says(capsys, *words, tmp_path / "d" / "one", root)[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "d").iterdir()}
    (root / "a").rename(root / "other")
    code, _, error = im2rec_says(capsys, *words, tmp_path / "d" / "two", root)
    assert code == 2 and "another folder, or delete it" in error
    assert {path: path.read_bytes() for path in (tmp_path / "d").iterdir()} == before
