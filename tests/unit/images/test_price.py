"""A picture has a price, known before it is paid, and what costs too much is refused at once."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from image_classification.contract import environment, process
from image_classification.errors import (
    ImageDamagedError,
    ImageError,
    ImageFormatError,
    ImageTooLargeError,
    UserError,
)
from image_classification.images import price as prices
from image_classification.images.augment import Augmentation, augment, draw_numbers
from image_classification.images.decode import decode, decode_region
from image_classification.images.encode import encode_jpeg, encode_png, thumbnail
from image_classification.images.header import ImageHeader, read_header
from image_classification.images.pixel_stream import PixelStream, pixel_spans
from image_classification.images.preprocessing import Preprocessing, preprocess
from image_classification.images.price import Allowance, PictureLimits, picture_limits, price_of
from tests.unit.images.conftest import Counter

MANY = 15_900_000  # bytes, a little less than the largest body of a request
MEMORY, SECONDS = "IMAGE_CLASSIFICATION_PICTURE_MEMORY_MB", "IMAGE_CLASSIFICATION_PICTURE_SECONDS"


@pytest.fixture(autouse=True)
def fresh_limits() -> Iterator[None]:
    picture_limits.cache_clear()
    yield
    picture_limits.cache_clear()


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def scan(*components: int, first: int = 0, last: int = 63) -> bytes:
    chosen = b"".join(bytes((number, 0)) for number in components)
    return segment(0xDA, bytes((len(components),)) + chosen + bytes((first, last, 0)))


def jpeg(
    width: int, height: int, scans: bytes, kind: int = 0xC0, components: int = 3, sampling: int = 17
) -> bytes:
    """A JPEG with tables of one code each; its scans have no code of their own."""
    tables = segment(0xDB, b"\0" + bytes([1] * 64))
    for number, value in ((0x00, 0x00), (0x10, 0x00)):
        tables += segment(0xC4, bytes((number, 1, *[0] * 15, value)))
    fields = b"".join(bytes((1 + n, sampling if n == 0 else 0x11, 0)) for n in range(components))
    frame = segment(kind, struct.pack(">BHHB", 8, height, width, components) + fields)
    return b"\xff\xd8" + tables + frame + scans + b"\xff\xd9"


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def png(width: int, height: int, color_type: int, body: bytes, more: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + chunk(b"IDAT", body) + chunk(b"IEND")


TINY_PNG = zlib.compress(bytes(9 * 8))  # 8 × 8 gray pixels


def gif(before_frame: bytes) -> bytes:
    content = io.BytesIO()
    Image.new("P", (8, 8)).save(content, "GIF")
    data = content.getvalue()
    end = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    return data[:end] + before_frame + data[end:]


def riff(*chunks: bytes) -> bytes:
    content = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def webp_chunk(kind: bytes, content: bytes = b"") -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def flat_webp(side: int) -> bytes:
    size = (side - 1) | (side - 1) << 14
    return riff(webp_chunk(b"VP8L", b"\x2f" + struct.pack("<I", size) + b"\x88\x88\x08\0"))


def bmp(width: int, height: int, compression: int, content: bytes) -> bytes:
    start = 54 + 1024
    sizes = struct.pack("<IHHI", start + len(content), 0, 0, start)
    rest = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, 0, 0, 0, 256, 0)
    return b"BM" + sizes + rest + bytes(range(256)) * 4 + content


ONE_BY_ONE = scan(1) + scan(2) + scan(3)
INFLATES_TO_NOTHING = bytes.fromhex("789c") + b"\0\0\0\xff\xff"  # and an empty stored block
EXTENDED = webp_chunk(b"VP8X", bytes(10))

REFUSED: dict[str, Callable[[], bytes]] = {
    "a sequential JPEG of many scans": lambda: jpeg(8184, 8184, ONE_BY_ONE + scan(1) * 97),
    "a JPEG of one scan too many": lambda: jpeg(64, 64, ONE_BY_ONE + scan(1) * 98),
    "a JPEG of two million scans": lambda: jpeg(8184, 8184, scan(1) * (MANY // 10)),
    "a progressive one": lambda: jpeg(8184, 8184, scan(1, first=1) * 90, 0xC2),
    "an arithmetic one": lambda: jpeg(4000, 4000, ONE_BY_ONE + scan(1) * 40, 0xC9),
    "a progressive arithmetic one": lambda: jpeg(4000, 4000, scan(1, first=1) * 40, 0xCA),
    "a lossless JPEG": lambda: jpeg(64, 64, scan(1, first=1, last=0), 0xC3, 1),
    "two components of one name": lambda: jpeg(8184, 8184, scan(1) * 9, components=2),
    "tables between scans": lambda: jpeg(
        64, 64, scan(1) + segment(0xC4, bytes((0, 1, *[0] * 16))) * 500_000
    ),
    "tables before the scan": lambda: b"\xff\xd8" + segment(0xDB, bytes(65)) * (MANY // 69),
    "comments before the scan": lambda: b"\xff\xd8" + segment(0xFE, b"") * (MANY // 4),
    "junk before the scan": lambda: b"\xff\xd8" + b"\xff\0" * (MANY // 2) + jpeg(8, 8, b"")[2:],
    "a flat WEBP of 67 megapixels": lambda: flat_webp(8191),
    "a WEBP of chunks": lambda: riff(EXTENDED, webp_chunk(b"abcd") * (MANY // 8)),
    "a PNG of empty chunks": lambda: png(8, 8, 0, TINY_PNG, chunk(b"IDAT") * (MANY // 12)),
    "a PNG of text": lambda: png(8, 8, 0, TINY_PNG, chunk(b"tEXt", b"a\0") * (MANY // 14)),
    "a transparent PNG of 60 megapixels": lambda: png(7_800, 7_800, 6, b""),
    "a PNG of one row": lambda: png(60_000_000, 1, 2, b""),
    "a GIF of comments": lambda: gif(b"\x21\xfe\0" * (MANY // 3)),
    "a GIF of blocks of one byte": lambda: gif(b"\x21\xfe" + b"\1a" * (MANY // 2) + b"\0"),
    "a GIF of junk": lambda: gif(b"a" * MANY),
    "a GIF whose screen is large": lambda: gif(b"")[:6] + b"\xff\x1f" * 2 + gif(b"")[10:],
    "run lengths of one pixel": lambda: bmp(2000, 2000, 1, b"\1\5" * (MANY // 2)),
    "run lengths that go nowhere": lambda: bmp(2000, 2000, 1, b"\0\2\0\0" * (MANY // 4)),
    "empty rows": lambda: bmp(8000, 8000, 1, b"\0\0" * 8000 + b"\0\1"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_costs_too_much_is_refused_before_it_costs_anything(
    name: str, calls_of: Counter
) -> None:
    data = REFUSED[name]()

    def refuse() -> None:
        with pytest.raises(ImageError) as refusal:
            decode(data)
        assert len(str(refusal.value)) > 40

    assert calls_of(refuse) < 500_000


CHEAP: dict[str, Callable[[], bytes]] = {
    "a text profile of 16 MB": lambda: png(
        8, 8, 0, TINY_PNG, chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 1\n" + b"\n" * MANY)
    ),
    "profiles that expand": lambda: png(
        8, 8, 0, TINY_PNG,
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n 1\n" + bytes(2**20)))
        * 3_000,
    ),
    "one comment of 16 MB": lambda: gif(b"\x21\xfe" + (b"\xff" + b"a" * 255) * 62_000 + b"\0"),
    "60,000 frame controls": lambda: gif(b"\x21\xf9\4\0\0\0\0\0" * 20_000),
    "stuffed zeros after the picture": lambda: encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    + b"\xff\0" * (MANY // 2),
}  # fmt: skip


@pytest.mark.parametrize("name", CHEAP)
def test_what_surrounds_the_pixels_costs_next_to_nothing(name: str, calls_of: Counter) -> None:
    data = CHEAP[name]()

    def use() -> None:
        assert decode(data).shape == (8, 8, 3)

    assert calls_of(use) < 100_000


def test_the_refusal_names_format_size_cost_limit_and_variable() -> None:
    with pytest.raises(ImageTooLargeError) as memory:
        decode(flat_webp(8191))
    assert str(memory.value) == (
        "decoding this WEBP of 8191 × 8191 pixels takes up to 1076 MB of memory, expected at most "
        f"400 MB; make the image smaller or raise the limit ({MEMORY})"
    )
    with pytest.raises(ImageTooLargeError) as seconds:
        decode(jpeg(4400, 4400, ONE_BY_ONE + scan(1) * 90))
    assert str(seconds.value) == (
        "decoding this JPEG of 4400 × 4400 pixels in 93 scans takes up to 2.5 seconds of CPU time, "
        f"expected at most 2; make the image smaller or raise the limit ({SECONDS})"
    )
    with pytest.raises(ImageFormatError, match=r"got a lossless .* \(frame SOF3\)"):
        decode(REFUSED["a lossless JPEG"]())


def test_the_memory_of_a_picture_follows_the_container_up_to_400_megabytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for available, expected in ((2**29, int(0.4 * 2**29)), (2**30, 400e6), (2**40, 400e6)):
        monkeypatch.setattr(process, "memory_limit", lambda available=available: available)
        picture_limits.cache_clear()
        assert picture_limits() == PictureLimits(int(expected), 2)


def test_variables_raise_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(4400, 4400, ONE_BY_ONE + scan(1) * 90)
    monkeypatch.setenv(MEMORY, "600")
    monkeypatch.setenv(SECONDS, "7")
    assert picture_limits() == PictureLimits(600 * 2**20, 7)
    assert price_of(data, read_header(data)).seconds < 7
    picture_limits.cache_clear()
    monkeypatch.setenv(SECONDS, "soon")
    with pytest.raises(UserError, match=f"{SECONDS} must be an integer"):
        picture_limits()


@pytest.mark.parametrize("name", [MEMORY, SECONDS])
def test_a_limit_that_the_system_cannot_set_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    picture_limits.cache_clear()
    monkeypatch.setenv(name, "1000001")
    for read in (picture_limits, environment.max_pixels):
        with pytest.raises(UserError, match=f"{name} must be an integer ≥ 0 and ≤ 1000000"):
            read()


@pytest.mark.parametrize("header", [
    ImageHeader("PNG", 8688, 5792), ImageHeader("BMP", 8688, 5792), ImageHeader("WEBP", 6000, 4000),
])  # fmt: skip
def test_pictures_of_today_s_cameras_are_within_the_default_limits(header: ImageHeader) -> None:
    size = 6_000_000 if header.format == "WEBP" else 2**24 - 200
    data = png(header.width, header.height, 2, bytes(size))
    prices.check_price(price_of(data, header), PictureLimits())


# The scans of libjpeg's default script.
PROGRESSIVE = scan(1, 2, 3) * 2 + scan(1) * 4 + (scan(2) + scan(3)) * 2


@pytest.mark.parametrize(("kind", "scans"), [(0xC0, scan(1, 2, 3)), (0xC2, PROGRESSIVE)])
def test_jpegs_of_50_megapixels_are_within_the_default_limits(kind: int, scans: bytes) -> None:
    data = jpeg(8688, 5792, scans + bytes(11 << 20), kind, sampling=0x22)
    prices.check_price(price_of(data, read_header(data)), PictureLimits())


def default_script(exact: int) -> bytes:
    """libjpeg's 10 scans of a color photograph, whose last precision is `exact`: 0 for all bits."""

    def part(names: tuple[int, ...], first: int, last: int, precision: int) -> bytes:
        header = scan(*names, first=first, last=last)
        return header[:-1] + bytes((precision,))

    coarse = part((1, 2, 3), 0, 0, 1) + part((1,), 1, 5, 2) + part((3,), 1, 63, 1)
    coarse += part((2,), 1, 63, 1) + part((1,), 6, 63, 2) + part((1,), 1, 63, 0x21)
    fine = part((1, 2, 3), 0, 0, 0x10)
    return coarse + fine + b"".join(part((n,), 1, 63, 0x10 | exact) for n in (3, 2, 1))


def test_a_progressive_jpeg_of_50_megapixels_in_full_color_is_within_the_limits_when_scaled() -> (
    None
):
    complete, coarse = (
        jpeg(8688, 5792, default_script(exact) + bytes(11 << 20), 0xC2) for exact in (0, 1)
    )
    prices.check_price(price_of(complete, read_header(complete), 8), PictureLimits())
    # Where bits are missing, libjpeg smooths what it shows: measured, twice the time.
    with pytest.raises(ImageTooLargeError, match="in 10 scans"):
        prices.check_price(price_of(coarse, read_header(coarse), 8), PictureLimits())


def test_a_file_above_16_megabytes_may_take_longer_in_proportion() -> None:
    limits = PictureLimits()
    assert [limits.seconds_for(n << 20) for n in (0, 16, 64)] == [2, 2, 8]


def test_only_a_jpeg_of_one_huffman_scan_in_gray_or_color_is_plain() -> None:
    def is_plain(data: bytes) -> bool:
        return price_of(data, read_header(data)).is_plain

    whole = scan(1, 2, 3)
    assert is_plain(jpeg(64, 64, whole)) and is_plain(jpeg(64, 64, whole, 0xC1))
    assert is_plain(jpeg(64, 64, scan(1), components=1))
    assert is_plain(encode_jpeg(np.zeros((64, 64, 3), np.uint8)))
    for kind in (0xC2, 0xC9, 0xCA):
        assert not is_plain(jpeg(64, 64, whole, kind))
    assert not is_plain(jpeg(64, 64, ONE_BY_ONE))
    assert not is_plain(jpeg(64, 64, scan(1, 2, 3, 4), components=4))
    assert not is_plain(encode_png(np.zeros((64, 64, 3), np.uint8)))


def test_markers_in_other_segments_are_no_scans() -> None:
    comment = segment(0xFE, scan(1) * 200)
    data = jpeg(64, 64, scan(1) + comment + b"\xff\xff" + scan(2) + b"\xff\0\xff\xd0" + scan(3))
    assert "in 3 scans" in price_of(data + scan(1) * 50, read_header(data)).what


def test_the_scale_of_a_jpeg_divides_the_memory_of_its_pixels() -> None:
    data = jpeg(8000, 6000, scan(1, 2, 3))
    full, eighth = (price_of(data, read_header(data), scale) for scale in (1, 8))
    assert eighth.memory < full.memory / 30
    assert decode_region(encode_jpeg(np.zeros((64, 64, 3), np.uint8)), (0, 0, 8, 8)).shape == (
        8,
        8,
        3,
    )


def test_reading_ends_where_a_file_takes_longer_than_its_header_tells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A deflate block of 11.25 bytes defines tables of codes and ends at once.
    bits = "0" + "01" + "00000" * 2 + f"{14:04b}"[::-1]
    bits += "".join("100" if n in (2, 17) else "000" for n in range(18))
    bits += "1" + f"{127:07b}"[::-1] + "1" + f"{107:07b}"[::-1] + "000"
    blocks = np.packbits([int(bit) for bit in bits * 8], bitorder="little").tobytes()
    data = png(8, 8, 0, b"\x78\x9c" + blocks * 200_000)
    monkeypatch.setattr(prices, "picture_limits", lambda: PictureLimits(seconds=0.5))
    start = time.thread_time()
    with pytest.raises(ImageTooLargeError, match=r"more than 0.536 seconds .*PICTURE_SECONDS"):
        decode(data)
    assert time.thread_time() - start < 1.5  # to its end it takes 2.4


def test_a_pixel_stream_reads_its_spans_as_one_file() -> None:
    data = bytes(range(100))
    stream = PixelStream(data, [(0, 10), (20, 25), (90, 100)], Allowance(1e9, "", 1))
    expected = io.BytesIO(data[:10] + data[20:25] + data[90:])
    for size in (3, 0, 9, 4, 100, 1):
        assert stream.read(size) == expected.read(size)
        assert stream.tell() == expected.tell()
    for offset, whence in ((12, 0), (-4, 1), (-11, 2), (30, 0), (0, 0)):
        assert stream.seek(offset, whence) == expected.seek(offset, whence)
        assert stream.read() == expected.read()


def test_a_gif_without_its_extensions_is_the_same_picture() -> None:
    frames = [Image.new("P", (8, 8), color) for color in (3, 7)]
    for frame in frames:
        frame.putpalette(np.arange(768).astype(np.uint8).tobytes())
        frame.putpixel((2, 2), 5)
    content = io.BytesIO()
    frames[0].save(content, "GIF", save_all=True, append_images=frames[1:], transparency=5)
    data = content.getvalue()
    header = read_header(data)
    data = data[: header.control] + b"\x21\xfe\3abc\0" + data[header.control :]
    header = read_header(data)
    kept = b"".join(data[start:end] for start, end in pixel_spans(data, header))
    assert b"abc" not in kept and len(kept) < len(data)
    pixels = decode(data)
    assert (pixels[2, 2] == 255).all() and (pixels[0, 0] != 255).any()
    with Image.open(io.BytesIO(data)) as image:
        assert (np.asarray(image.convert("RGB"))[0, 0] == pixels[0, 0]).all()


BOMB = jpeg(8184, 8184, ONE_BY_ONE + scan(1) * 90)
SIZES = Preprocessing(height=32, width=32, resize=36)


@pytest.mark.parametrize(
    "use",
    [
        decode,
        lambda data: decode(data, min_size=(64, 64)),
        lambda data: decode_region(data, (0, 0, 64, 64)),
        lambda data: preprocess(data, SIZES),
        lambda data: augment(data, SIZES, Augmentation(), draw_one(Augmentation())),
    ],
)
def test_every_way_to_the_pixels_has_the_same_limits(use: Callable[[bytes], object]) -> None:
    with pytest.raises(ImageTooLargeError, match="in 93 scans"):
        use(BOMB)
    assert thumbnail(BOMB) is None


def draw_one(augmentation: Augmentation) -> np.void:
    return draw_numbers(augmentation, np.random.default_rng(0), 1)[0]


def test_a_thin_picture_is_enlarged_no_further_than_the_crop() -> None:
    data = encode_png(np.zeros((60_000, 1, 3), np.uint8))
    warped = replace(Augmentation(), rotation=(-10, 10))
    assert preprocess(data, SIZES).shape == (32, 32, 3)
    assert augment(data, SIZES, warped, draw_one(warped)).shape == (32, 32, 3)


def test_the_price_of_an_ordinary_photograph_costs_microseconds(calls_of: Counter) -> None:
    data = encode_jpeg(np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8), 80)
    header = read_header(data)
    assert calls_of(lambda: price_of(data, header)) < 200  # about 20 µs


MEASURE = """
import io, json, sys, time
import numpy as np
from pathlib import Path
from PIL import Image
from image_classification.images.decode import decode
from image_classification.images.header import read_header
from image_classification.images.price import price_of
def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))
def encoded(picture, name, options):
    content = io.BytesIO()
    picture.save(content, name, **options)
    return content.getvalue()
side = 1200
noise = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, 4), np.uint8)
picture = Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)
small = picture.resize((64, 64))
for mode, name, options in json.loads(sys.argv[1]):
    decode(encoded(small.convert(mode), name, options))
    data = encoded(picture.convert(mode), name, options)
    price = price_of(data, read_header(data))
    Path("/proc/self/clear_refs").write_text("5")
    before, start = status("VmRSS"), time.thread_time()
    decode(data)
    print(json.dumps([status("VmHWM") - before, time.thread_time() - start,
                      price.memory, price.seconds]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_decoding_costs_at_most_its_price() -> None:
    kinds = [
        ("RGB", "JPEG", {}), ("RGB", "JPEG", {"progressive": True, "subsampling": 0}),
        ("CMYK", "JPEG", {}), ("RGB", "PNG", {}), ("RGBA", "PNG", {"compress_level": 1}),
        ("P", "PNG", {}),
        ("P", "GIF", {}), ("RGB", "BMP", {}), ("RGB", "WEBP", {"method": 0}),
        ("RGBA", "WEBP", {"lossless": True, "method": 0, "quality": 0}),
    ]  # fmt: skip
    command = [sys.executable, "-c", MEASURE, json.dumps(kinds)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    measured = [json.loads(line) for line in output.splitlines()]
    assert len(measured) == len(kinds)
    for kind, (memory, seconds, most_memory, most_seconds) in zip(kinds, measured, strict=True):
        assert memory < 1.02 * most_memory + 2e6, kind
        assert seconds < 5 * most_seconds, kind  # ample, because CPUs are shared
        assert most_memory < 4 * memory + 60e6, kind


def test_a_damaged_scan_header_is_refused() -> None:
    for end in range(len(jpeg(64, 64, ONE_BY_ONE)) - 40, len(jpeg(64, 64, ONE_BY_ONE))):
        data = jpeg(64, 64, ONE_BY_ONE)[:end]
        with pytest.raises((ImageDamagedError, ImageTooLargeError)):
            decode(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_a_file_that_ends_anywhere_is_damaged_and_never_another_error(kind: str) -> None:
    whole = io.BytesIO()
    Image.linear_gradient("L").resize((24, 20)).convert("RGB").save(whole, kind)
    for end in range(min(800, len(whole.getvalue()) - 1)):
        data = whole.getvalue()[:end]
        with contextlib.suppress(ImageError):
            price_of(data, read_header(data))
            decode(data)


def test_several_scans_keep_all_coefficients_in_memory() -> None:
    several, one = (jpeg(4000, 4000, scans) for scans in (ONE_BY_ONE, scan(1, 2, 3)))
    assert 160.3e6 < price_of(several, read_header(several)).memory < 165e6  # measured: 160.3 MB
    assert 112e6 < price_of(one, read_header(one)).memory < 118e6  # Pillow: 7 bytes per pixel


def test_a_lossless_webp_that_fails_is_damaged_or_short_of_memory() -> None:
    data = flat_webp(64)
    with pytest.raises(ImageDamagedError, match="or its code tables need more memory"):
        decode(data[:24] + b"\xff" * (len(data) - 24))
    content = io.BytesIO()
    Image.new("RGB", (64, 64)).save(content, "WEBP")
    with pytest.raises(ImageDamagedError, match=r"WEBP .* is truncated or corrupt: "):
        decode(content.getvalue()[:-20])
