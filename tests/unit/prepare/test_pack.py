"""Packing: what is stored, what is refused, and that a failure leaves nothing behind."""

from __future__ import annotations

import errno
import io
import json
import math
import re
import tempfile
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from image_classification.cli import im2rec, main, parser
from image_classification.errors import DataError, UsageError
from image_classification.images.decode import decode
from image_classification.inventory.lists import read_list_inventory
from image_classification.labels.label_map import LabelMap
from image_classification.labels.lists import ListEntry, read_list, write_list
from image_classification.labels.tree import walk
from image_classification.loading.records import RecordSource, read_record_labels
from image_classification.prepare.check.problems import check, class_counts
from image_classification.prepare.check.subsets import find_subsets
from image_classification.prepare.contact_sheet import ContactSheet, draw_contact_sheet
from image_classification.prepare.encode import Transcoding
from image_classification.prepare.inspect import extract, summarize
from image_classification.prepare.pack import PackOptions, PackReport, pack
from image_classification.records.format import RecordHeader, pack_image_record
from image_classification.records.reader import RecordFile
from image_classification.records.writer import RecordWriter


def encoded(height: int, width: int, kind: str = "JPEG", mode: str = "RGB", seed: int = 0) -> bytes:
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (4, 4, 3), np.uint8))
    content = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).convert(mode).save(content, kind)
    return content.getvalue()


def build(folder: Path, images: dict[str, bytes]) -> tuple[Path, Path]:
    """An image root, and a list of the images in the order given, each of class 0."""
    root = folder / "images"
    for name, content in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    path = folder / "data.lst"
    write_list(path, [ListEntry(number, (0.0,), name) for number, name in enumerate(images)])
    return path, root


def transcode_one(folder: Path, content: bytes, transcoding: Transcoding) -> bytes:
    path, root = build(folder, {"image": content})
    pack(path, root, folder / "data.rec", options=PackOptions(transcoding))
    with RecordFile(folder / "data.rec") as file:
        return file.read_image(0).content


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in ("images", "data.lst"))


@pytest.mark.parametrize(
    ("size", "transcoding", "expected"),
    [
        ((375, 500), Transcoding(resize=256), (256, 341)),
        ((500, 375), Transcoding(resize=256), (341, 256)),
        ((500, 375), Transcoding(resize=256, center_crop=True), (256, 256)),
        ((500, 375), Transcoding(center_crop=True), (375, 375)),
        ((501, 375), Transcoding(resize=100), (133, 100)),
        ((1503, 1125), Transcoding(resize=100), (133, 100)),
        ((30, 20), Transcoding(resize=64), (96, 64)),
        ((30, 20), Transcoding(), (30, 20)),
    ],
)
def test_the_geometry_equals_im2recs(
    tmp_path: Path, size: tuple[int, int], transcoding: Transcoding, expected: tuple[int, int]
) -> None:
    stored = transcode_one(tmp_path, encoded(*size), transcoding)
    assert decode(stored).shape == (*expected, 3)


def test_the_crop_is_in_the_middle_and_before_the_resize(tmp_path: Path) -> None:
    pixels = np.zeros((40, 101, 3), np.uint8)
    pixels[:, 30:70] = 200  # the middle square: floor((101 − 40) / 2) = 30
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    stored = transcode_one(
        tmp_path, content.getvalue(), Transcoding(resize=20, center_crop=True, encoding=".png")
    )
    assert np.array_equal(decode(stored), np.full((20, 20, 3), 200))


def test_a_large_jpeg_gives_the_pixels_of_a_full_decode(tmp_path: Path) -> None:
    """The packer decodes at a fraction of the size; what it stores must not show it."""
    content = encoded(1200, 1600)
    stored = transcode_one(tmp_path, content, Transcoding(resize=128, encoding=".png"))
    image = Image.fromarray(decode(content)).resize((170, 128), Image.Resampling.BILINEAR)
    assert np.abs(decode(stored).astype(int) - np.asarray(image).astype(int)).mean() < 1.0


def test_the_orientation_is_applied_when_transcoding_and_kept_when_not(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = io.BytesIO()
    Image.new("RGB", (40, 20)).save(content, "JPEG", exif=exif)
    stored = transcode_one(tmp_path, content.getvalue(), Transcoding())
    assert decode(stored).shape == (40, 20, 3)
    pack(tmp_path / "data.lst", tmp_path / "images", tmp_path / "data.rec")
    with RecordFile(tmp_path / "data.rec") as file:
        assert file.read_image(0).content == content.getvalue()


@pytest.mark.parametrize(
    ("mode", "color", "stored_mode"),
    [("RGB", 1, "RGB"), ("L", 1, "RGB"), ("RGB", 0, "L"), ("L", -1, "L"), ("RGB", -1, "RGB")],
)
@pytest.mark.parametrize("encoding", [".jpg", ".png"])
def test_the_color_option_decides_the_channels(
    tmp_path: Path, mode: str, color: int, stored_mode: str, encoding: str
) -> None:
    transcoding = Transcoding(color=color, encoding=encoding)
    stored = transcode_one(tmp_path, encoded(20, 30, mode=mode), transcoding)
    with Image.open(io.BytesIO(stored)) as image:
        assert (image.mode, image.format) == (
            stored_mode,
            {".jpg": "JPEG", ".png": "PNG"}[encoding],
        )


@pytest.mark.parametrize(
    "options", [{"resize": -1}, {"quality": 0}, {"quality": 101}, {"encoding": "x"}, {"color": 2}]
)
def test_an_impossible_transcoding_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="expected"):
        Transcoding(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("transcoding", [None, Transcoding(resize=16)])
def test_any_number_of_workers_writes_the_same_file(
    tmp_path: Path, transcoding: Transcoding | None
) -> None:
    images = {f"{n}.jpg": encoded(20 + n, 30, seed=n) for n in range(60)}
    path, root = build(tmp_path, images)
    contents = []
    for workers in (1, 2, 7):
        output = tmp_path / f"{workers}.rec"
        pack(path, root, output, options=PackOptions(transcoding), workers=workers)
        contents.append((output.read_bytes(), output.with_suffix(".idx").read_bytes()))
    assert contents[0] == contents[1] == contents[2]


GOOD = encoded(20, 30)
BAD = {
    "empty.jpg": (b"", "got 0 bytes"),
    "text.jpg": (b"not an image at all", "expected an image"),
    "half.jpg": (GOOD[: len(GOOD) // 2], "truncated or corrupt"),
    "half.png": (encoded(20, 30, "PNG")[:-40], "truncated or corrupt"),
}


@pytest.mark.parametrize("transcoding", [None, Transcoding()])
@pytest.mark.parametrize("name", BAD)
def test_an_unusable_image_fails_the_run_by_name_and_leaves_nothing(
    tmp_path: Path, name: str, transcoding: Transcoding | None
) -> None:
    path, root = build(tmp_path, {"good.jpg": GOOD, name: BAD[name][0]})
    with pytest.raises(DataError, match="expected at most 0 unusable images, got 1 of 2") as raised:
        pack(path, root, tmp_path / "data.rec", options=PackOptions(transcoding))
    assert f"{name}: " in str(raised.value) and BAD[name][1] in str(raised.value)
    assert left_behind(tmp_path) == []


def test_a_failed_pack_keeps_an_older_record_file(tmp_path: Path) -> None:
    path, root = build(tmp_path, {"good.jpg": GOOD})
    pack(path, root, tmp_path / "data.rec")
    before = (tmp_path / "data.rec").read_bytes()
    (root / "good.jpg").unlink()
    with pytest.raises(DataError):
        pack(path, root, tmp_path / "data.rec")
    assert (tmp_path / "data.rec").read_bytes() == before
    assert left_behind(tmp_path) == ["data.idx", "data.rec"]


def test_a_full_disk_is_reported_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, root = build(tmp_path, {f"{n}.jpg": GOOD for n in range(50)})

    def fail(self: object, payload: bytes, key: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RecordWriter, "write", fail)
    with pytest.raises(DataError, match=r"data\.rec cannot be written: No space left"):
        pack(path, root, tmp_path / "data.rec")
    assert left_behind(tmp_path) == []


def test_an_interrupted_pack_leaves_nothing(tmp_path: Path) -> None:
    path, root = build(tmp_path, {f"{n}.jpg": GOOD for n in range(50)})

    def interrupt(done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(path, root, tmp_path / "data.rec", on_progress=interrupt)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("max_bad", [2, 0.5])
def test_unusable_images_within_the_budget_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, max_bad: float
) -> None:
    path, root = build(tmp_path, {"a.jpg": GOOD, "b.jpg": b"", "c.jpg": GOOD, "d.jpg": b"text"})
    (root / "d.jpg").unlink()
    report = pack(path, root, tmp_path / "data.rec", max_bad=max_bad)
    assert report.packed == 2
    assert [image.entry[::2] for image in report.skipped] == [(1, "b.jpg"), (3, "d.jpg")]
    assert "no such file below" in report.skipped[1].reason
    assert "b.jpg cannot be used" in caplog.text
    with RecordFile(tmp_path / "data.rec") as file:
        assert file.keys is not None and file.keys.tolist() == [0, 2]


@pytest.mark.parametrize("max_bad", [1, 0.49])
def test_more_unusable_images_than_the_budget_fail_the_run(tmp_path: Path, max_bad: float) -> None:
    path, root = build(tmp_path, {"a.jpg": GOOD, "b.jpg": b"", "c.jpg": GOOD, "d.jpg": b"text"})
    with pytest.raises(DataError, match="at most 1 unusable images, got 2 of 4"):
        pack(path, root, tmp_path / "data.rec", max_bad=max_bad)
    assert left_behind(tmp_path) == []


def test_the_error_suspects_a_wrong_root_when_no_image_is_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, _ = build(tmp_path, {f"{n}.jpg": GOOD for n in range(12)})
    with pytest.raises(DataError, match=r"is .*elsewhere the folder of the images") as raised:
        pack(path, tmp_path / "elsewhere", tmp_path / "data.rec", max_bad=1.0)
    assert "and 2 more; no image could be used" in str(raised.value)
    assert not caplog.messages


def test_unusable_images_beyond_the_first_ten_are_named_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, root = build(tmp_path, {f"{n}.jpg": GOOD if n == 5 else b"" for n in range(13)})
    with pytest.raises(DataError, match="and 2 more, named in the log"):
        pack(path, root, tmp_path / "data.rec")
    logged = [message.split(" ")[0] for message in caplog.messages]
    assert logged == [f"{n}.jpg" for n in range(13) if n != 5]


def test_an_empty_list_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "data.lst").write_bytes(b"\n")
    with pytest.raises(DataError, match="expected a list of images, got an empty file"):
        pack(tmp_path / "data.lst", tmp_path, tmp_path / "data.rec")


def test_a_list_from_windows_packs_the_same_file(tmp_path: Path) -> None:
    path, root = build(tmp_path, {"a/b.jpg": GOOD, "a/c.jpg": GOOD})
    pack(path, root, tmp_path / "unix.rec")
    path.write_bytes(path.read_bytes().replace(b"/", b"\\").replace(b"\n", b"\r\n"))
    pack(path, root, tmp_path / "windows.rec")
    assert (tmp_path / "windows.rec").read_bytes() == (tmp_path / "unix.rec").read_bytes()


@pytest.mark.parametrize(
    ("labels", "pack_labels", "flag", "packed"),
    [
        ((3.0,), False, 0, (3.0,)),
        ((3.0,), True, 0, (3.0,)),
        ((3.0, 0.5), False, 0, (3.0,)),
        ((3.0, 0.5), True, 2, (3.0, 0.5)),
    ],
)
def test_several_labels_are_stored_only_on_request(
    tmp_path: Path, labels: Sequence[float], pack_labels: bool, flag: int, packed: Sequence[float]
) -> None:
    _, root = build(tmp_path, {"a.jpg": GOOD})
    write_list(tmp_path / "data.lst", [ListEntry(7, tuple(labels), "a.jpg")])
    pack(
        tmp_path / "data.lst",
        root,
        tmp_path / "data.rec",
        options=PackOptions(pack_labels=pack_labels),
    )
    with RecordFile(tmp_path / "data.rec") as file:
        assert file.record_headers["flag"].tolist() == [flag]
        assert file.read_image(0).header.labels == packed


def test_the_report_and_the_progress_count_what_was_done(tmp_path: Path) -> None:
    _, root = build(tmp_path, {"a.jpg": GOOD, "b.jpg": GOOD, "c.jpg": GOOD})
    lines = [ListEntry(n, (n % 2,), f"{name}.jpg") for n, name in enumerate("abc")]
    write_list(tmp_path / "data.lst", lines)
    seen: list[tuple[int, int]] = []
    output = tmp_path / "data.rec"
    report = pack(
        tmp_path / "data.lst", root, output, on_progress=lambda *count: seen.append(count)
    )
    size = output.stat().st_size
    assert report == PackReport(str(output), 3, (), {0.0: 2, 1.0: 1}, size)
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert json.loads(json.dumps(report.to_json()))["class_counts"] == {"0": 2, "1": 1}


def test_the_label_map_is_copied_next_to_the_records(tmp_path: Path) -> None:
    path, root = build(tmp_path, {"a.jpg": GOOD})
    LabelMap(("cat",)).write(tmp_path / "labels.json")
    pack(path, root, tmp_path / "channel" / "data.rec")
    assert LabelMap.read(tmp_path / "channel" / "labels.json").names == ("cat",)


def test_an_image_too_long_for_a_jpeg_is_unusable(tmp_path: Path) -> None:
    path, root = build(tmp_path, {"a.png": encoded(1, 300, "PNG"), "b.jpg": GOOD})
    with pytest.raises(DataError, match="sides of at most 65500 pixels in a JPEG, got 76800 × 256"):
        pack(path, root, tmp_path / "data.rec", options=PackOptions(Transcoding(resize=256)))


def run(*arguments: str) -> int:
    namespace = parser().parse_args(arguments)
    code: int = namespace.run(namespace)
    return code


def test_the_commands_go_from_folders_to_records_and_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = {f"{name}/{n}.jpg": encoded(20, 30, seed=n) for name in ("cat", "dog") for n in (1, 2)}
    _, root = build(tmp_path, images)
    assert run("list", str(tmp_path / "out" / "data"), str(root)) == 0
    assert capsys.readouterr().out == "cat 0\ndog 1\n"
    assert LabelMap.read(tmp_path / "out" / "labels.json").names == ("cat", "dog")
    assert run("pack", str(tmp_path / "out" / "data.lst"), str(root)) == 0
    record_file = tmp_path / "out" / "data.rec"
    assert f"{record_file}: 4 records" in capsys.readouterr().out
    assert run("inspect", str(record_file), "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["records"], summary["labels"]) == (4, {"0": 2, "1": 2})
    assert (summary["formats"], summary["index"]) == ({"JPEG": 4}, "agrees")
    assert run("inspect", str(record_file), "--extract", str(tmp_path / "back")) == 0
    back = {path.relative_to(tmp_path / "back").as_posix() for path in tmp_path.glob("back/*/*")}
    assert back == {"0/0.jpg", "0/1.jpg", "1/2.jpg", "1/3.jpg"}
    first = walk(root).entries[0].path
    assert (tmp_path / "back" / "0" / "0.jpg").read_bytes() == (root / first).read_bytes()
    with pytest.raises(DataError, match="extract into an empty folder"):
        run("inspect", str(record_file), "--extract", str(tmp_path / "back"))


def test_one_record_can_be_inspected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, root = build(tmp_path, {"a.jpg": GOOD, "b.png": encoded(7, 9, "PNG")})
    pack(path, root, tmp_path / "data.rec")
    assert run("inspect", str(tmp_path / "data.rec"), "--record", "1", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert {name: shown[name] for name in ("record", "key", "id", "labels", "flag")} == {
        "record": 1,
        "key": 1,
        "id": 1,
        "labels": [0.0],
        "flag": 0,
    }
    assert (shown["format"], shown["width"], shown["height"]) == ("PNG", 9, 7)
    with pytest.raises(DataError, match="expected a record from 0 to 1, got 2"):
        run("inspect", str(tmp_path / "data.rec"), "--record", "2")


def test_images_of_the_same_id_are_extracted_side_by_side_and_only_images_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RecordWriter(tmp_path / "data.rec") as writer:
        for content in (GOOD, b"raw", GOOD):
            record = pack_image_record(RecordHeader(1.0, 5), content)
            writer.write(record, 5)
    assert run("inspect", str(tmp_path / "data.rec"), "--extract", str(tmp_path / "back")) == 0
    names = sorted(path.name for path in (tmp_path / "back" / "1").iterdir())
    assert names == ["5-2.jpg", "5.bin", "5.jpg"]
    out = capsys.readouterr().out
    assert "2 images written" in out and "1 file without an image written as .bin" in out


def test_records_without_images_can_be_inspected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RecordWriter(tmp_path / "data.rec") as writer:
        writer.write(b"raw", 0)
    assert run("inspect", str(tmp_path / "data.rec")) == 0
    assert "these are not image records" in capsys.readouterr().out


def test_pass_through_contradicts_transcoding_options(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--pass-through .* drop --resize, --color"):
        run("pack", "a.lst", "root", "--pass-through", "--resize", "8", "--color", "0")


@pytest.mark.parametrize(
    ("text", "amount"), [("0", 0), ("5", 5), ("1%", 0.01), ("0.5%", 0.005), ("100%", 1.0)]
)
def test_the_budget_of_unusable_images_is_a_count_or_a_share(
    tmp_path: Path, text: str, amount: float
) -> None:
    parsed = parser().parse_args(["pack", "a.lst", "root", "--max-bad", text]).max_bad
    assert (parsed, type(parsed)) == (amount, type(amount))


@pytest.mark.parametrize("text", ["-1", "1.5", "101%", "nan%", "many"])
def test_a_malformed_budget_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("pack", "a.lst", "root", f"--max-bad={text}")
    assert "expected a count such as 5 or a share such as 1%" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["list", "pack", "inspect"])
def test_every_command_helps_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        run(command, "--help")
    assert exited.value.code == 0
    assert f"image-classification {command} " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["data.lst", "data.idx", "data", "other.lst", "data.REC"])
def test_an_output_that_is_not_named_as_a_record_file_is_refused(tmp_path: Path, name: str) -> None:
    path, root = build(tmp_path, {"1.jpg": encoded(10, 10)})
    content = path.read_bytes()
    with pytest.raises(UsageError, match=r"\.rec"):
        pack(path, root, tmp_path / name)
    assert path.read_bytes() == content and left_behind(tmp_path) == []


def test_a_list_that_is_named_as_a_record_file_is_not_overwritten(tmp_path: Path) -> None:
    path, root = build(tmp_path, {"1.jpg": encoded(10, 10)})
    path = path.rename(tmp_path / "data.rec")
    content = path.read_bytes()
    with pytest.raises(UsageError, match="the file to read"):
        pack(path, root, path)
    assert path.read_bytes() == content


def test_a_label_map_of_other_classes_is_neither_replaced_nor_copied(tmp_path: Path) -> None:
    path, root = build(tmp_path, {"cat/1.jpg": encoded(10, 10)})
    LabelMap(("cat",)).write(tmp_path / "labels.json")
    LabelMap(("dog",)).write(tmp_path / "out" / "labels.json")
    with pytest.raises(DataError, match=r"does not have the classes.*another folder, or delete it"):
        pack(path, root, tmp_path / "out" / "data.rec")
    assert left_behind(tmp_path / "out") == ["labels.json"]
    assert LabelMap.read(tmp_path / "out" / "labels.json").names == ("dog",)


def test_a_label_map_that_numbers_the_folders_differently_is_refused(tmp_path: Path) -> None:
    path, root = build(tmp_path, {"cat/1.jpg": encoded(10, 10)})
    LabelMap(("ant", "cat")).write(tmp_path / "labels.json")
    with pytest.raises(DataError, match="belongs to another list"):
        pack(path, root, tmp_path / "data.rec")


@pytest.mark.parametrize("resize", [-1, 65_501, 100_000])
def test_a_resize_beyond_what_a_jpeg_can_hold_is_refused(resize: int) -> None:
    with pytest.raises(UsageError, match=f"from 0 to 65500 pixels.*got {resize}"):
        Transcoding(resize=resize)


@pytest.mark.parametrize("size", [(10, 10), (4, 400)])
def test_an_image_that_a_resize_makes_too_large_is_refused_before_allocation(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    path, root = build(tmp_path, {"1.png": encoded(*size, kind="PNG")})
    with pytest.raises(DataError, match=r"after the resize got .*megapixels"):
        pack(path, root, tmp_path / "data.rec", options=PackOptions(Transcoding(resize=60_000)))
    assert left_behind(tmp_path) == []


def test_the_pixel_limit_applies_to_the_image_before_the_resize(tmp_path: Path) -> None:
    path, root = build(tmp_path, {"1.jpg": encoded(100, 100)})
    options = PackOptions(Transcoding(resize=10), max_pixels=9_999)
    with pytest.raises(DataError, match="expected at most 9999 pixels"):
        pack(path, root, tmp_path / "data.rec", options)


def test_lines_with_different_numbers_of_labels_are_packed_as_im2rec_does_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, root = build(tmp_path, {"1.jpg": encoded(10, 10)})
    path.write_text("0\t1\t1.jpg\n1\t1\t2\t1.jpg\n")
    report = pack(path, root, tmp_path / "data.rec", options=PackOptions(pack_labels=True))
    assert (report.packed, report.label_kind) == (2, "numbers")
    assert "the labels (1 in the first line, 2 of id 1) are neither one class nor" in caplog.text
    with RecordFile(tmp_path / "data.rec") as file:
        assert file.record_headers["flag"].tolist() == [0, 2]
    assert pack(path, root, tmp_path / "data.rec").packed == 2


def test_the_pack_report_counts_every_label_of_an_image(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, root = build(tmp_path, {"1.jpg": encoded(10, 10)})
    path.write_text("0\t1\t0\t0\t1.jpg\n1\t1\t1\t0\t1.jpg\n2\t0\t0\t0\t1.jpg\n")
    LabelMap(("cat", "dog", "emu")).write(tmp_path / "labels.json")
    (tmp_path / "out").mkdir()
    report = pack(path, root, tmp_path / "out" / "d.rec", options=PackOptions(pack_labels=True))
    assert (report.packed, report.label_kind) == (3, "multi-hot")
    assert report.class_counts == {0.0: 2, 1.0: 1, 2.0: 0}
    assert "training needs multi_label=1" in "\n".join(report.lines())
    assert LabelMap.read(tmp_path / "out" / "labels.json").names == ("cat", "dog", "emu")
    assert PackReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    assert "only the first" not in caplog.text
    assert pack(path, root, tmp_path / "out" / "d.rec").class_counts == {0.0: 1, 1.0: 2}
    assert "only the first is packed, which is not a class: --pack-label" in caplog.text


def test_a_detection_list_is_packed_whole_and_its_objects_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, root = build(tmp_path, {"1.jpg": encoded(10, 10)})
    box = "\t.1\t.1\t.5\t.5"
    path.write_text(f"0\t2\t5\t7{box}\t1.jpg\n1\t2\t5\t7{box}\t3{box}\t1.jpg\n2\t2\t5\t1.jpg\n")
    report = pack(path, root, tmp_path / "data.rec", options=PackOptions(pack_labels=True))
    assert (report.packed, report.class_counts) == (3, {3.0: 1, 7.0: 2})
    assert "object detection" in "\n".join(report.lines()) and not caplog.text
    with RecordFile(tmp_path / "data.rec") as file:
        assert file.record_headers["flag"].tolist() == [7, 12, 2]


def labeled_records(path: Path, labels: Sequence[Any], contents: Sequence[bytes]) -> Path:
    with RecordWriter(path) as writer:
        for number, (label, content) in enumerate(zip(labels, contents, strict=True)):
            writer.write(pack_image_record(RecordHeader(label, number), content), number)
    return path


def identity_records(path: Path, *, single: bool = False) -> Path:
    """As insightface packs faces: record 0, two images of each of two identities, two ranges."""
    of_images: list[Any] = [0.0, 0.0, 1.0, 1.0] if single else [(0, 0), (0, 0), (1, 0), (1, 0)]
    labels = [(5.0, 7.0), *of_images, (1.0, 3.0), (3.0, 5.0)]
    return labeled_records(path, labels, [b"", *[GOOD] * 4, b"", b""])


def inspected(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    assert run("inspect", str(path), "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert run("inspect", str(path)) == 0
    return summary, capsys.readouterr().out


def test_inspect_counts_every_label_of_an_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = labeled_records(tmp_path / "d.rec", [(1, 0, 1), (0, 0, 1), (0, 0, 0)], [GOOD] * 3)
    LabelMap(("cat", "dog", "emu")).write(tmp_path / "labels.json")
    summary, text = inspected(path, capsys)
    assert summary["labels"] == {"0": 1, "1": 0, "2": 2}
    assert (summary["label_kind"], summary["label_width"]) == ("multi-hot", 3)
    assert "classes: 3" in text and "images of no class: 1" in text
    assert "label 1 (dog): 0\nlabel 2 (emu): 2" in text


@pytest.mark.parametrize("single", [False, True])
def test_inspect_counts_identities_and_not_the_records_that_index_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], single: bool
) -> None:
    summary, text = inspected(identity_records(tmp_path / "d.rec", single=single), capsys)
    assert (summary["label_kind"], summary["index_records"]) == ("identity", 3)
    assert summary["labels"] == {"0": 2, "1": 2}
    assert "identities: 2" in text and "--extract DIR" in text and "multi_label" not in text


def test_inspect_counts_the_objects_of_detection_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box = (0.1, 0.1, 0.5, 0.5)
    labels = [(4, 5, 40, 30, 2, *box), (4, 5, 40, 30, 2, *box, 6, *box), (4, 5, 40, 30)]
    summary, text = inspected(labeled_records(tmp_path / "d.rec", labels, [GOOD] * 3), capsys)
    assert (summary["label_kind"], summary["labels"]) == ("detection", {"2": 2, "6": 1})
    assert summary["unlabeled"] == 1
    assert "objects of class 6: 1" in text and "multi_label" not in text


def test_numbers_that_are_not_classes_are_not_counted_as_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = [(30.5, 20.0, 1.0), (31.0, 22.5, 0.0)]
    summary, text = inspected(labeled_records(tmp_path / "d.rec", labels, [GOOD] * 2), capsys)
    assert (summary["label_kind"], summary["labels"]) == ("numbers", {})
    assert "3 numbers per image, which are not classes" in text


@settings(max_examples=15, deadline=None)  # make test-fuzz tries many more
@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.floats(width=32),
                st.lists(
                    st.sampled_from([0.0, 1.0, 2.0, 5.0, 7.0, -1.0, math.nan, math.inf]),
                    max_size=9,
                ).map(tuple),
            ),
            st.booleans(),
        ),
        min_size=1,
        max_size=6,
    )
)
@example([((math.nan,), False)])
def test_any_labels_are_counted_or_named_by_every_tool(records: list[tuple[Any, bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d.rec"
        contents = [GOOD if has_image else b"" for _, has_image in records]
        labeled_records(path, [label for label, _ in records], contents)
        with RecordFile(path) as file:
            summary = summarize(file)
            assert summary.records == len(records)
            assert draw_contact_sheet(file, range(len(file)))
            extract(file, range(len(file)), Path(folder) / "out")
        subsets = find_subsets(path)
        verdict = json.dumps(check(subsets, 1, lambda _: None).to_json())
        assert "nan" not in verdict.replace(folder, "").lower()
        for is_multi_label in (False, True):
            try:
                RecordSource([path], is_multi_label=is_multi_label).close()
            except DataError as error:
                is_sound = summary.label_kind in ("class", "multi-hot")
                assert is_sound or "set multi_label=1" not in str(error)


def test_extracting_identities_writes_class_folders_without_the_index_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = identity_records(tmp_path / "d.rec")
    assert run("inspect", str(path), "--extract", str(tmp_path / "back")) == 0
    back = {path.relative_to(tmp_path / "back").as_posix() for path in tmp_path.glob("back/*/*")}
    assert back == {"0/1.jpg", "0/2.jpg", "1/3.jpg", "1/4.jpg"}
    out = capsys.readouterr().out
    assert "4 images written" in out and "3 records have no content and no file" in out


def test_extracting_images_with_several_labels_writes_a_list_that_packs_them_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = labeled_records(tmp_path / "d.rec", [(1, 0, 1), (0, 1, 1)], [GOOD] * 2)
    assert run("inspect", str(path), "--extract", str(tmp_path / "back")) == 0
    assert "all labels of the images" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "back").iterdir())
    assert names == ["0.jpg", "1.jpg", "extracted.lst"]
    again = tmp_path / "again.rec"
    listing = tmp_path / "back" / "extracted.lst"
    assert (
        run("pack", "--pack-label", str(listing), str(tmp_path / "back"), "--output", str(again))
        == 0
    )
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("7\t0.5\ta.jpg", "id 7: the label 0.5 is not a class number"),
        ("7\t0\ta.jpg\n8\t-1\tb.jpg\n9\t0.143\tb.jpg", "id 8: the label -1 is .* (2 such labels)"),
        ("7\t-1\t0.5\ta.jpg", "id 7: the label -1 is not a class number"),
        (
            "0\t0\ta.jpg\n1\t1\t./a.jpg",
            "./a.jpg has the label 0 (id 0) and the label 1 (id 1): keep",
        ),
        ("0\t0\ta.jpg\n1\t1\ta.jpg\n2\t2\ta.jpg", "the label 1 (id 1), and 1 more such lines: "),
        ("0\t0\ta.jpg\n1\t2000000000\tb.jpg", "0, 2000000000, but class numbers are below"),
    ],
)
def test_labels_that_training_cannot_use_are_packed_and_named_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lines: str, said: str
) -> None:
    path, root = build(tmp_path, {"a.jpg": GOOD, "b.jpg": GOOD})
    path.write_text(lines + "\n")
    report = pack(path, root, tmp_path / "data.rec")
    assert report.packed == lines.count("\n") + 1
    assert re.search(re.escape(said).replace(r"\.\*", ".*"), caplog.text)


def test_an_image_that_a_list_repeats_with_the_same_label_is_no_contradiction(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, root = build(tmp_path, {"a.jpg": GOOD, "b.jpg": GOOD})
    path.write_text("0\t0\ta.jpg\n1\t0\ta.jpg\n2\t1\tb.jpg\n")
    pack(path, root, tmp_path / "data.rec")
    assert not caplog.messages
    path.write_text("0\t0\ta.jpg\n1\t1\ta.jpg\n2\t1\tb.jpg\n")
    read_list_inventory(root, path, None)  # as for train and preprocess
    assert "a.jpg has the label 0 (id 0) and the label 1 (id 1)" in caplog.text


@pytest.mark.parametrize(
    ("names", "given", "said"),
    [
        ([], "data", "write it first (im2rec --list --recursive {0}/data {0}/images), then pack "),
        ([], "data.lst", "found no file; write it first (im2rec --list --recursive {0}/data {0}"),
        (
            [],
            "images",
            "found a folder; write it first (im2rec --list --recursive {0}/images-list ",
        ),
        (["data.lst"], "data", "found no file; did you mean {0}/data.lst?"),
        (["images/x.lst"], "images", "found a folder; did you mean {0}/images/x.lst?"),
        (
            ["data_train.lst", "data_val.lst", "database.lst"],
            "data",
            "name one of the lists data_train.lst, data_val.lst, or pack them all with im2rec {0}",
        ),
    ],
)
def test_a_prefix_or_folder_in_place_of_a_list_is_refused_with_the_list_or_how_to_write_it(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    names: Sequence[str],
    given: str,
    said: str,
) -> None:
    (tmp_path / "images").mkdir()
    for name in names:
        (tmp_path / name).write_text("0\t0\ta.jpg\n")
    assert main(["pack", str(tmp_path / given), str(tmp_path / "images")]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"ClientError: {tmp_path / given}: expected a list (.lst), found ")
    assert said.format(tmp_path) in error and "table" not in error


def test_swapped_arguments_of_pack_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, root = build(tmp_path, {"a.jpg": GOOD})
    assert main(["pack", str(root), str(path)]) == 2
    assert f"the list comes first: {path} {root}" in capsys.readouterr().err
    monkeypatch.chdir(root)
    for folder in (".", "/"):
        assert main(["pack", folder, "."]) == 2
        assert "expected a list (.lst), found a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("program", "words"),
    [(main, ["pack"]), (main, ["nonsense"]), (main, ["pack", "--color", "7"]), (im2rec.main, [])],
)
def test_an_error_on_the_command_line_comes_before_the_usage(
    program: Callable[[Sequence[str]], int],
    words: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exited:
        program(words)
    first, usage = capsys.readouterr().err.split("\n", 1)
    assert exited.value.code == 2 and first.startswith("ClientError: ")
    assert usage.startswith("usage: ")


def test_label_numbers_that_leave_gaps_are_named_in_the_log_unless_names_explain_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, root = build(tmp_path, {"a.jpg": GOOD, "b.jpg": GOOD})
    write_list(path, [ListEntry(0, (1.0,), "a.jpg"), ListEntry(1, (2.0,), "b.jpg")])
    pack(path, root, tmp_path / "data.rec")
    assert "data.lst: the labels are 1 to 2, so no image has 0: labels count from 0" in caplog.text
    caplog.clear()
    LabelMap(("x", "y", "z")).write(tmp_path / "labels.json")
    pack(path, root, tmp_path / "data.rec")
    assert not caplog.messages


def test_a_table_in_place_of_a_list_is_refused_with_the_command_that_reads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.csv").write_text("file,label\n1.jpg,cat\n")
    assert main(["pack", str(tmp_path / "t.csv"), str(tmp_path)]) == 2
    assert "image-classification preprocess --list" in capsys.readouterr().err


def test_minus_zero_is_the_class_zero(tmp_path: Path) -> None:
    path = labeled_records(tmp_path / "d.rec", [-0.0, 0.0, 1.0], [GOOD] * 3)
    assert run("inspect", str(path), "--extract", str(tmp_path / "back")) == 0
    assert {folder.name for folder in (tmp_path / "back").iterdir()} == {"0", "1"}
    with RecordFile(path) as file:
        assert summarize(file).labels == {"0": 2, "1": 1}
    verdict = check(find_subsets(path), 1, lambda _: None)
    assert verdict.subsets[0].class_counts == {"0": 2, "1": 1}


def test_extracting_several_numbers_per_image_keeps_all_of_them_or_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    landmarks = [(30.5, 20.0, 1.0), (31.0, 22.5, 0.0)]
    path = labeled_records(tmp_path / "d.rec", landmarks, [GOOD] * 2)
    assert run("inspect", str(path), "--extract", str(tmp_path / "back")) == 0
    rows = read_list(tmp_path / "back" / "extracted.lst")
    assert [row.labels for row in rows] == landmarks
    with RecordFile(labeled_records(path, [1.0, *landmarks], [GOOD] * 3)) as file:
        extract(file, range(3), tmp_path / "mixed")
    assert "2 of 3 records have several labels, of which only the first is kept" in caplog.text


def test_a_contact_sheet_calls_index_records_empty_and_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words: list[str] = []

    def add(_: ContactSheet, thumbnail: object, __: str, without: str) -> None:
        words.append(without if thumbnail is None else "picture")

    monkeypatch.setattr(ContactSheet, "add", add)
    with RecordFile(identity_records(tmp_path / "d.rec")) as file:
        draw_contact_sheet(file, range(len(file)))
    assert words.count("no image") == 3 and words.count("picture") == 4 and len(words) == 7


def test_identities_beyond_a_million_stay_apart_in_every_tool(tmp_path: Path) -> None:
    labels = [1_000_001.0, 1_000_002.0]
    path = tmp_path / "d.rec"
    labeled_records(path, [(label,) for label in labels], [GOOD] * 2)
    with RecordFile(path) as file:
        assert summarize(file).labels == {"1000001": 1, "1000002": 1}
        extract(file, range(2), tmp_path / "back")
    assert len(list(tmp_path.glob("back/*"))) == 2
    (subset,) = find_subsets(path)
    assert class_counts(subset) == {"1000001": 1, "1000002": 1}
    report = PackReport("d.rec", 2, (), dict.fromkeys(labels, 1), 1)
    assert PackReport.from_json(report.to_json()) == report


def test_wide_labels_are_read_some_at_a_time(tmp_path: Path) -> None:
    path, width = tmp_path / "d.rec", 20_000
    labels = np.zeros(width, np.float32)
    with RecordWriter(path) as writer:
        for number in range(300):
            labels[number] = 1
            record = pack_image_record(RecordHeader(tuple(labels.tolist()), number), b"")
            writer.write(record, number)
    tracemalloc.start()
    source = RecordSource([path], is_multi_label=True)
    with RecordFile(path) as file:
        assert read_record_labels([file]).kind.value == "multi-hot"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert source.multi_hot is not None and source.multi_hot.sum() == 300 * 301 // 2
    assert peak < 60 << 20  # of 6 million labels, all at once take 100 MB and more
