"""Binary PPM and PGM files, such as the images of GTSRB, are decoded at the cost of their size."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from image_classification.errors import ImageDamagedError, ImageFormatError
from image_classification.images.decode import decode
from image_classification.images.header import read_header
from image_classification.labels.tree import look_into
from image_classification.samples import UInt8Array


@pytest.fixture
def pixels() -> UInt8Array:
    return np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def written(pixels: UInt8Array) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PPM")
    return content.getvalue()


def test_a_color_image_keeps_its_pixels(pixels: UInt8Array) -> None:
    header = read_header(written(pixels))
    assert (header.format, header.upright_size, header.channels) == ("PPM", (5, 7), 3)
    assert np.array_equal(decode(written(pixels)), pixels)


def test_a_gray_image_keeps_its_pixels(pixels: UInt8Array) -> None:
    gray = pixels[:, :, 0]
    assert np.array_equal(decode(written(gray), channels=1)[:, :, 0], gray)


def test_comments_in_the_head_and_bytes_after_the_pixels_are_skipped(pixels: UInt8Array) -> None:
    head = b"P6\n# CREATOR: a program\n7 #width\n5\n# 1\n# 2\n255\n"
    assert np.array_equal(decode(head + pixels.tobytes() + b"more"), pixels)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"P6\n7 5\n255\n" + bytes(104), "7 × 5 pixels is cut off: expected 105 bytes .* got 104"),
        (b"P5 60000 60000 255 " + bytes(9), "60000 × 60000 pixels is cut off"),
        (b"P6\n7 5", "expected width, height and maximum"),
        (b"P6\n" + b"#" * 9000 + b"\n7 5\n255\n", "expected width, height and maximum"),
        (b"P6\n0 5\n255\n", "at least 1 × 1"),
    ],
)
def test_a_head_that_the_file_does_not_keep_is_damage(data: bytes, text: str) -> None:
    with pytest.raises(ImageDamagedError, match=text):
        decode(data)


def test_a_file_of_16_bits_is_refused_by_name() -> None:
    with pytest.raises(ImageFormatError, match="a PPM with values up to 65535, not 255: convert"):
        decode(b"P5\n2 2\n65535\n" + bytes(8))


def test_a_file_without_a_known_extension_is_an_image_by_its_content(
    tmp_path: Path, pixels: UInt8Array
) -> None:
    (tmp_path / "00000").write_bytes(written(pixels))
    assert look_into(str(tmp_path / "00000")).is_image
