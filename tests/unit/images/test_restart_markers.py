"""Restart markers: the picture stays what it was, coefficient for coefficient, and what cannot be
rewritten is kept. Needs jpegtran."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classification.cli import main
from image_classification.errors import ImageError, ImageTooLargeError, UsageError
from image_classification.images.decode import decode
from image_classification.images.encode import encode_png
from image_classification.images.header import read_header
from image_classification.images.jpeg_regions import cut_jpeg, read_layout
from image_classification.images.restart_markers import PROGRAM, Segmenter, restart_interval
from image_classification.records.reader import RecordFile
from tests.unit.images.test_jpeg_regions import jpeg

needs_jpegtran = pytest.mark.skipif(
    shutil.which(PROGRAM) is None,
    reason=f"{PROGRAM} is not installed: apt-get install libjpeg-turbo-progs",
)
LIMIT = 1 << 26


@needs_jpegtran
@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_segmented_file_has_the_same_pixels_and_orientation_in_a_grid_of_32_pixels(
    sampling: str, progressive: bool, orientation: int
) -> None:
    data = jpeg(200, 256, sampling=sampling, progressive=progressive, orientation=orientation)
    segmented = Segmenter().segment(data, LIMIT)
    assert read_header(segmented).orientation == orientation
    assert (decode(segmented) == decode(data)).all()
    layout = read_layout(segmented)
    assert layout is not None and layout.interval * layout.mcu_width == 32
    assert layout.table[1] == 8 * -(-200 // layout.mcu_height), "the table names every piece"
    cut = cut_jpeg(segmented, (200, 256), layout, (64, 64, 32, 32))
    assert cut is not None and cut.box == (64, 64, 32, 32)


@needs_jpegtran
def test_a_gray_file_is_segmented_too() -> None:
    data = jpeg(200, 256, gray=True)
    segmented = Segmenter().segment(data, LIMIT)
    assert (decode(segmented) == decode(data)).all() and segmented != data


@needs_jpegtran
def test_a_file_that_cannot_be_rewritten_stays_as_it_is_and_is_counted() -> None:
    cmyk = io.BytesIO()
    Image.new("CMYK", (40, 40)).save(cmyk, "JPEG")
    png = encode_png(np.zeros((10, 10, 3), np.uint8))
    truncated = jpeg(200, 256)[:-400]
    segmenter = Segmenter()
    for content in (cmyk.getvalue(), png, truncated):
        assert segmenter.segment(content, LIMIT) is content
    assert (segmenter.segmented, segmenter.kept) == (0, 3)
    with pytest.raises(ImageError):
        segmenter.segment(b"no image", LIMIT)
    with pytest.raises(ImageTooLargeError):
        segmenter.segment(jpeg(200, 256), 100)


@pytest.mark.parametrize(
    ("width", "mcu_width", "interval"),
    [
        (500, 16, 2),  # 32 units: 32 pixels
        (500, 8, 3),  # 63 units: 24 pixels; 7 units would be 56
        (512, 8, 4),
        (376, 8, 47),  # a prime number of units: whole rows
        (375, 16, 2),
        (16, 16, 1),
        (1, 8, 1),
        (40, 8, 5),
    ],
)
def test_the_interval_divides_a_row_and_is_near_32_pixels(
    width: int, mcu_width: int, interval: int
) -> None:
    assert restart_interval(width, mcu_width) == interval
    assert -(-width // mcu_width) % interval == 0


@needs_jpegtran
def test_packed_segments_have_the_labels_and_pixels_of_plain_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(100 + number, 130))
    (tmp_path / "x.lst").write_text("".join(f"{n}\t{n % 2}\t{n}.jpg\n" for n in range(4)))
    command = ["pack", str(tmp_path / "x.lst"), str(tmp_path)]
    assert main([*command, "--output", str(tmp_path / "plain.rec")]) == 0
    assert main([*command, "--output", str(tmp_path / "cut.rec"), "--segment"]) == 0
    with RecordFile(tmp_path / "plain.rec") as plain, RecordFile(tmp_path / "cut.rec") as cut:
        assert (plain.record_headers == cut.record_headers).all()
        for number in range(4):
            before, after = plain.read_image(number).content, cut.read_image(number).content
            assert before != after and (decode(before) == decode(after)).all()


@needs_jpegtran
def test_preprocess_segments_after_it_has_resized(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "in" / name / f"{number}.jpg").write_bytes(jpeg(300, 400))
    command = ["preprocess", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert main([*command, "--resize", "128", "--segment"]) == 0
    with RecordFile(tmp_path / "out" / "train" / "train.rec") as records:
        content = records.read_image(0).content
    layout = read_layout(content)
    assert layout is not None and layout.interval
    assert read_header(content).upright_size == (128, 170)
    findings = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert findings["segment"] is True


def test_without_jpegtran_nothing_is_written_and_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "0.jpg").write_bytes(jpeg(40, 40))
    (tmp_path / "x.lst").write_text("0\t0\t0.jpg\n")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError, match="libjpeg-turbo-progs"):
        Segmenter()
    assert main(["pack", str(tmp_path / "x.lst"), str(tmp_path), "--segment"]) == 2
    assert "jpegtran" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.jpg", "x.lst"]


def test_segments_in_png_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.lst").write_text("0\t0\t0.jpg\n")
    command = ["pack", str(tmp_path / "x.lst"), str(tmp_path), "--segment", "--encoding", ".png"]
    assert main(command) == 2
    assert "--encoding .png" in capsys.readouterr().err


@needs_jpegtran
@pytest.mark.shared
def test_every_hard_image_is_segmented_or_stays_as_it_is(shared: Path) -> None:
    hard = shared / "data" / "hard"
    segmenter = Segmenter()
    for entry in json.loads((hard / "manifest.json").read_text())["files"]:
        data = (hard / entry["file"]).read_bytes()
        try:
            whole = decode(data)
        except ImageError:
            whole = None
        try:
            segmented = segmenter.segment(data, LIMIT)
        except ImageError:
            assert whole is None, entry["file"]
            continue
        if whole is None:
            assert segmented is data or entry["expect"] == "either", entry["file"]
        else:
            assert (decode(segmented) == whole).all(), entry["file"]
    assert segmenter.segmented > 15
