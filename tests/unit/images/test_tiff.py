"""TIFF: its common forms are decoded as Pillow decodes them, the others are refused by name."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from image_classification.errors import ImageDamagedError, ImageError, ImageFormatError
from image_classification.images.decode import decode
from image_classification.images.header import read_header
from image_classification.images.price import price_of

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
RGB = Image.fromarray(NOISE)
LONG, SHORT = 4, 3


def written(image: Image.Image, compression: str | None = None, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, "TIFF", compression=compression, **options)
    return content.getvalue()


def with_tag(data: bytes, tag: int, kind: int, count: int, value: int) -> bytes:
    """Replace an entry of the only directory."""
    (start,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, start)
    for entry in range(start + 2, start + 2 + 12 * entries, 12):
        if struct.unpack_from("<H", data, entry) == (tag,):
            new = struct.pack("<HHII", tag, kind, count, value)
            return data[:entry] + new + data[entry + 12 :]
    raise AssertionError(tag)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "RGBA", "LA"])
def test_common_forms_are_decoded_as_pillow_decodes_them(mode: str, compression: str) -> None:
    image = RGB.convert(mode)
    expected = image.convert("RGBA") if mode in ("RGBA", "LA") else image
    assert np.array_equal(decode(written(image, compression)), np.asarray(expected.convert("RGB")))


def test_16_bits_are_scaled_and_fax_is_decoded() -> None:
    deep = NOISE[:, :, 0].astype(np.uint16) * 257
    assert np.array_equal(decode(written(Image.fromarray(deep)), channels=1), NOISE[:, :, :1])
    fax = RGB.convert("1")
    assert np.array_equal(decode(written(fax, "group4")), np.asarray(fax.convert("RGB")))


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_the_orientation_of_a_tiff_is_applied_once(compression: str | None) -> None:
    data = written(RGB, compression, tiffinfo={274: 6})
    assert read_header(data).upright_size == (60, 40)
    assert np.array_equal(decode(data), np.rot90(NOISE, -1))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (written(RGB, "jpeg"), "a TIFF with JPEG compression: convert it to JPEG or PNG"),
        (written(Image.fromarray(NOISE[:, :, 0].astype(np.float32))), "floating-point numbers"),
        (with_tag(written(RGB), 262, SHORT, 1, 8), "of the color space Lab"),
        (with_tag(written(RGB), 277, SHORT, 1, 7), "of 7 samples with 8 bits"),
        (with_tag(written(RGB), 258, SHORT, 0, 0), "of 3 samples with 1 bits"),
        (b"II*\0" + bytes(100), "a TIFF without a readable directory"),
    ],
)
def test_other_forms_are_refused_by_name(data: bytes, said: str) -> None:
    with pytest.raises(ImageFormatError, match=said):
        decode(data)


@pytest.mark.parametrize(
    "data",
    [
        written(RGB)[:-1],
        written(RGB, "tiff_lzw")[:500],
        written(RGB)[:9],
        with_tag(written(RGB), 279, LONG, 1, 1 << 31),  # a strip longer than the file
        with_tag(written(RGB), 279, LONG, 1, 10),  # shorter than its pixels
        with_tag(written(RGB), 257, LONG, 1, 0),
        with_tag(written(RGB), 273, LONG, 0, 0),  # a tag without a value
    ],
)
def test_truncated_and_contradictory_files_are_damaged(data: bytes) -> None:
    with pytest.raises(ImageDamagedError):
        decode(data)


def test_a_directory_of_many_large_tags_costs_nothing() -> None:
    """Pillow would copy 4 MB for each of the tags: 4 GB."""
    pixels = written(RGB)
    (start,) = struct.unpack_from("<I", pixels, 4)
    (entries,) = struct.unpack_from("<H", pixels, start)
    own = pixels[start + 2 : start + 2 + 12 * entries]
    count = 1_000 - entries
    others = b"".join(struct.pack("<HHII", 40_000 + n, 1, 4 << 20, 8) for n in range(count))
    data = pixels.ljust(4 << 20, b"\0")
    data = data[:4] + struct.pack("<I", len(data)) + data[8:]
    data += struct.pack("<H", 1_000) + own + others + bytes(4)
    assert np.array_equal(decode(data), NOISE)
    assert price_of(data, read_header(data)).memory < 32 << 20


def test_changed_bytes_of_a_tiff_are_an_error_of_the_image_or_other_pixels() -> None:
    random = np.random.default_rng(1)
    originals = [written(RGB.convert(mode), c) for mode, c in (("RGB", None), ("P", "tiff_lzw"))]
    originals.append(written(RGB.convert("1"), "group4"))
    for number in range(600):
        data = bytearray(originals[number % 3])
        (start,) = struct.unpack_from("<I", data, 4)
        where = (
            start + random.integers(0, 200, 3) if number % 2 else random.integers(0, len(data), 3)
        )
        for at in where.tolist():
            if at < len(data):
                data[at] = random.integers(256)
        try:
            pixels = decode(bytes(data))
        except ImageError:
            continue
        assert pixels.dtype == np.uint8 and pixels.shape[2] == 3
