"""A part of a picture is what a full decode has there, however the file is written; and damage is
damage."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from image_classification.errors import ImageDamagedError, ImageError
from image_classification.images import decode as images
from image_classification.images import jpeg_regions
from image_classification.images.augment import Augmentation
from image_classification.images.decode import decode, decode_region
from image_classification.images.encode import encode_png
from image_classification.images.header import read_header
from image_classification.images.jpeg_regions import (
    Box,
    JpegLayout,
    cut_jpeg,
    read_layout,
    segment_bounds,
    with_table,
)
from image_classification.images.preprocessing import Preprocessing
from image_classification.images.price import admit
from image_classification.loading.loader import Loader
from image_classification.loading.records import RecordSource
from image_classification.records.format import RecordHeader, pack_image_record
from image_classification.records.writer import RecordWriter

EXIF_OF = {n: b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + bytes([n]) + b"\0" * 7
           for n in range(1, 9)}  # fmt: skip
FAST = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def scene(height: int, width: int, seed: int = 0) -> Image.Image:
    """Colors that change from pixel to pixel, so that any pixel out of place is seen."""
    small = np.random.default_rng(seed).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(
    height: int,
    width: int,
    *,
    sampling: str = "4:2:0",
    interval: int = 0,
    orientation: int = 1,
    progressive: bool = False,
    gray: bool = False,
) -> bytes:
    image = scene(height, width)
    content = io.BytesIO()
    (image.convert("L") if gray else image).save(
        content,
        "JPEG",
        quality=85,
        subsampling=-1 if gray else sampling,
        restart_marker_blocks=interval,
        progressive=progressive,
        exif=EXIF_OF[orientation],
    )
    return content.getvalue()


def gridded(height: int = 96, width: int = 128, sampling: str = "4:2:0") -> bytes:
    """With restart markers every 32 pixels of a row."""
    return jpeg(height, width, sampling=sampling, interval=32 // (8 if sampling == "4:4:4" else 16))


def tabled(data: bytes, shift: int = 0) -> bytes:
    """With the table of its pieces, moved by `shift` bytes."""
    layout, size = the_layout(data), read_header(data)
    across = -(-size.width // layout.mcu_width) // layout.interval
    bounds = segment_bounds(data, layout, across * -(-size.height // layout.mcu_height))
    assert bounds is not None
    lengths = np.diff(bounds)
    lengths[9] += shift
    lengths[10] -= shift
    return with_table(data, data.rindex(b"\xff\xda", 0, layout.scan), lengths)


def the_layout(data: bytes) -> JpegLayout:
    layout = read_layout(data)
    assert layout is not None
    return layout


@st.composite
def files(draw: st.DrawFn) -> bytes:
    return jpeg(
        draw(st.integers(1, 100)),
        draw(st.integers(1, 100)),
        sampling=draw(st.sampled_from(["4:4:4", "4:2:2", "4:2:0"])),
        interval=draw(st.integers(0, 8)),
        orientation=draw(st.integers(1, 8)),
        progressive=draw(st.booleans()) and draw(st.booleans()),
        gray=draw(st.booleans()) and draw(st.booleans()),
    )


def any_part(draw: st.DataObject, size: tuple[int, int]) -> Box:
    (top, height), (left, width) = (
        (start, draw.draw(st.integers(1, side - start)))
        for side in size
        for start in [draw.draw(st.integers(0, side - 1))]
    )
    return top, left, height, width


@FAST
@given(files(), st.data(), st.booleans(), st.sampled_from([1, 3]))
def test_a_region_has_the_pixels_of_the_whole_picture_bit_for_bit(
    data: bytes, draw: st.DataObject, smooth: bool, channels: int
) -> None:
    top, left, height, width = any_part(draw, read_header(data).upright_size)
    whole = decode(data, channels=channels, smooth_chroma=smooth)
    part = decode_region(data, (top, left, height, width), channels=channels, smooth_chroma=smooth)
    assert (part == whole[top : top + height, left : left + width]).all()
    assert part.shape == (height, width, channels)


@FAST
@given(files(), st.data(), st.integers(1, 12))
def test_a_region_at_a_smaller_scale_is_a_region_of_the_picture_at_that_scale(
    data: bytes, draw: st.DataObject, least: int
) -> None:
    header = read_header(data)
    part = any_part(draw, header.upright_size)
    found = decode_region(data, part, min_size=(least, least))
    scale = next((s for s in (8, 4, 2) if part[2] // s >= least and part[3] // s >= least), 1)
    assert found.shape[:2] == (part[2] // scale, part[3] // scale)
    if header.orientation == 1:
        whole = images._decode_stored(data, header, 3, scale, True, admit(data, header))
        top, left = part[0] // scale, part[1] // scale
        expected = whole[top : top + found.shape[0], left : left + found.shape[1]]
        assert (found == expected).all()


@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_a_cut_of_a_segmented_file_is_a_small_file_that_any_decoder_takes(sampling: str) -> None:
    data = gridded(sampling=sampling)
    cut = cut_jpeg(data, (96, 128), the_layout(data), (40, 40, 20, 20))
    assert cut is not None and cut.is_whole
    assert len(cut.data) < len(data) / 3
    height = 24 if sampling != "4:2:0" else 32
    assert cut.box == (32 if sampling == "4:2:0" else 40, 32, height if height == 32 else 24, 32)
    with Image.open(io.BytesIO(cut.data)) as image:
        image.load()
        assert image.size == (32, cut.box[2])


def test_a_plain_file_is_cut_at_the_lowest_row() -> None:
    data = jpeg(96, 128)
    cut = cut_jpeg(data, (96, 128), the_layout(data), (8, 40, 20, 20))
    assert cut is not None and not cut.is_whole
    assert cut.box == (0, 0, 28, 128)
    assert read_header(bytes(cut.data)).height == 28


def test_interpolated_chroma_needs_the_pixels_around_a_region() -> None:
    """Without a margin the columns at a cut would differ: the exact rule of `cut_jpeg`."""
    data = gridded()
    whole = decode(data)
    for margin, is_equal in ((0, False), (2, True)):
        cut = cut_jpeg(data, (96, 128), the_layout(data), (32, 32, 32, 32), margin)
        assert cut is not None
        top, left, height, width = cut.box
        pixels = decode(bytes(cut.data))
        assert pixels.shape[:2] == (height, width)
        inside = pixels[32 - top : 64 - top, 32 - left : 64 - left]
        assert bool((inside == whole[32:64, 32:64]).all()) is is_equal


def cut_to(keep: float) -> bytes:
    data = gridded()
    return data[: int(len(data) * keep)]


@pytest.mark.parametrize("keep", [0.6, 0.8, 0.95])
@pytest.mark.parametrize("interval", [0, 2])
def test_a_truncated_file_is_refused_even_if_it_holds_the_region(
    keep: float, interval: int
) -> None:
    data = jpeg(96, 128, interval=interval)
    with pytest.raises(ImageDamagedError):
        decode_region(data[: int(len(data) * keep)], (0, 0, 16, 16))


def test_the_end_mark_of_a_thumbnail_does_not_hide_that_the_picture_is_truncated() -> None:
    data = jpeg(96, 128)
    comment = b"\xff\xfe" + (4).to_bytes(2, "big") + b"\xff\xd9"
    with pytest.raises(ImageDamagedError):
        decode_region(data[:2] + comment + data[2:-600], (0, 0, 16, 16))


def markers_of(data: bytes) -> list[int]:
    return [k for k in range(len(data) - 1) if data[k] == 0xFF and 0xD0 <= data[k + 1] <= 0xD7]


@pytest.mark.parametrize("damage", ["missing", "out of turn", "one too many"])
def test_restart_markers_that_do_not_fit_are_not_trusted(damage: str) -> None:
    data, place = gridded(), markers_of(gridded())[5]
    damaged = {
        "missing": data[:place] + data[place + 2 :],
        "out of turn": data[: place + 1] + b"\xd0" + data[place + 2 :],
        "one too many": data[:place] + b"\xff\xd5" + data[place:],
    }[damage]
    cut = cut_jpeg(damaged, (96, 128), the_layout(damaged), (40, 40, 20, 20))
    assert cut is not None and cut.box[:2] == (0, 0), "only cut at its lowest row"


def test_a_table_of_pieces_saves_the_search_for_markers(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tabled(gridded())
    expected = decode(data)[40:60, 40:60]
    assert (expected == decode(gridded())[40:60, 40:60]).all()
    monkeypatch.setattr(jpeg_regions.np, "flatnonzero", None)
    assert (decode_region(data, (40, 40, 20, 20)) == expected).all()


@pytest.mark.parametrize("shift", [-300, -2, 2, 300, 4000])
def test_a_table_that_is_wrong_is_not_trusted(shift: int) -> None:
    code = []
    for data in (gridded(), tabled(gridded(), shift)):
        cut = cut_jpeg(data, (96, 128), the_layout(data), (40, 40, 20, 20))
        assert cut is not None and cut.box == (32, 32, 32, 32)
        code.append(bytes(cut.data)[the_layout(bytes(cut.data)).scan :])
    assert code[0] == code[1], "the pieces lie where their markers are"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (jpeg(50, 60, progressive=True), "progressive"),
        (b"", "empty"),
        (b"\xff\xd8" + b"\0" * 20, "junk instead of segments"),
        (jpeg(50, 60)[:100], "no frame"),
    ],
)
def test_a_file_that_cannot_be_cut_has_no_layout(data: bytes, why: str) -> None:
    assert read_layout(data) is None, why


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6), st.data())
@example([(163, 0)], None)
def test_damaged_bytes_make_pixels_of_the_right_size_or_an_image_error(
    changes: list[tuple[int, int]], draw: st.DataObject | None
) -> None:
    data = bytearray(tabled(gridded()))
    for place, value in changes:
        data[place % len(data)] = value
    part = (20, 30, 40, 50)
    try:
        size = read_header(bytes(data)).upright_size
        if draw is not None and max(size) < 1000:
            part = any_part(draw, size)
        if part[0] + part[2] > size[0] or part[1] + part[3] > size[1]:
            return
        found = decode_region(bytes(data), part, max_pixels=1 << 20)
    except ImageError:
        return
    assert found.shape == (part[2], part[3], 3)


def test_regions_of_other_formats_are_cut_from_the_whole() -> None:
    image = np.asarray(scene(30, 40))
    assert (decode_region(encode_png(image), (3, 5, 10, 20)) == image[3:13, 5:25]).all()


def test_a_region_is_decoded_without_the_rest_of_the_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded: list[int] = []
    cut_whole = jpeg_regions.cut_jpeg

    def noted(*arguments: object) -> object:
        found = cut_whole(*arguments)  # type: ignore[arg-type]
        assert found is not None
        decoded.append(found.box[2] * found.box[3])
        return found

    monkeypatch.setattr("image_classification.images.decode.cut_jpeg", noted)
    decode_region(gridded(), (40, 40, 20, 20))
    assert decoded == [32 * 32]


@pytest.mark.parametrize(
    ("crop", "side"), [("random_resized", 24), ("random_resized", 100), ("random", 24)]
)
def test_a_loader_makes_the_same_batches_of_segmented_files(
    tmp_path: Path, crop: str, side: int
) -> None:
    batches = []
    for name, interval in (("plain", 0), ("segmented", 2)):
        with RecordWriter(tmp_path / f"{name}.rec") as writer:
            for number in range(12):
                content = jpeg(90 + 20 * number, 128, interval=interval, orientation=1 + number % 8)
                writer.write(pack_image_record(RecordHeader(0.0, number), content), number)
        source = RecordSource([tmp_path / f"{name}.rec"])
        augmentation = Augmentation(crop=crop, horizontal_flip=0.5)
        preprocessing = Preprocessing(side, side, resize=2 * side)
        with Loader(source, preprocessing, 4, augmentation=augmentation, threads=2) as loader:
            batches.append([batch.images.copy() for batch in loader.epoch(0)])
        source.close()
    for plain, segmented in zip(*batches, strict=True):
        assert (plain == segmented).all()


@pytest.mark.shared
def test_regions_of_the_hard_images_equal_those_of_the_whole_or_are_refused(shared: Path) -> None:
    hard = shared / "data" / "hard"
    compared = 0
    for entry in json.loads((hard / "manifest.json").read_text())["files"]:
        data = (hard / entry["file"]).read_bytes()
        try:
            whole = decode(data)
        except ImageError:
            whole = None
        try:
            height, width = read_header(data).upright_size
            part = (height // 3, width // 4, max(1, height // 2), max(1, width // 2))
            found = decode_region(data, part)
        except ImageError:
            assert whole is None, entry["file"]
            continue
        if whole is None:
            continue  # damaged outside the part
        top, left, height, width = part
        assert (found == whole[top : top + height, left : left + width]).all(), entry["file"]
        compared += 1
    assert compared > 50
