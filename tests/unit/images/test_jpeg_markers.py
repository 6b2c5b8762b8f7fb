"""No arrangement of markers hides the scans of a JPEG from its price, or ends more than a picture.

libjpeg reads on where a stricter reader would stop: whatever these files hide it would find.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from image_classification.errors import ImageDamagedError, ImageError
from image_classification.images import decode as decoding
from image_classification.images import header as headers
from image_classification.images.decode import decode, decode_region
from image_classification.images.encode import encode_jpeg, encode_png, thumbnail
from image_classification.images.header import read_header
from image_classification.images.jpeg_regions import read_layout
from tests.unit.images.conftest import Counter

SIDE = 2048


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def scan(first: int = 1, last: int = 63) -> bytes:
    return segment(0xDA, bytes((1, 1, 0, first, last, 0)))


def hiding(
    hidden: bytes, *, kind: int = 0xC2, before: bytes = b"", side: int = SIDE, sampling: int = 0x11
) -> bytes:
    """A JPEG of one component with `before` ahead of its scans and `hidden` as these."""
    tables = segment(0xDB, b"\0" + bytes([1] * 64))
    for number in (0x00, 0x10):
        tables += segment(0xC4, bytes((number, 1, *[0] * 15, 0)))
    fields = b"".join(bytes((1 + n, 0x11 if n else sampling, 0)) for n in range(3))
    frame = segment(kind, struct.pack(">BHHB", 8, side, side, 3) + fields)
    return b"\xff\xd8" + tables + frame + before + hidden + b"\xff\xd9"


SCANS = scan() * 12_000
RESTARTS = segment(0xDD, b"\0\1")
HIDDEN: dict[str, Callable[[], bytes]] = {
    "fill bytes": lambda: hiding(SCANS, before=b"\xff" * 65_600),
    "16 MB of fill bytes": lambda: hiding(SCANS, before=b"\xff" * 16_000_000),
    "junk": lambda: hiding(SCANS, before=b"a" * 65_600),
    "stuffed zeros": lambda: hiding(SCANS, before=b"\xff\0" * 40_000),
    "markers without a length": lambda: hiding(SCANS, before=b"\xff\1\xff\xd0" * 1_000),
    "a segment of length 0": lambda: hiding(SCANS, before=b"\xff\xfe\0\0" * 100),
    "a segment of length 1": lambda: hiding(SCANS, before=b"\xff\xfe\0\1" * 100),
    "a second start": lambda: hiding(SCANS, before=b"\xff\xd8"),
    "an end before the scans": lambda: hiding(SCANS, before=b"\xff\xd9"),
    "a number of lines": lambda: hiding(SCANS, before=segment(0xDC, b"\0\x08")),
    "a height of zero": lambda: hiding(SCANS).replace(b"\x08\x08\0\x08\0", b"\x08\0\0\x08\0"),
    "a second frame": lambda: hiding(SCANS, before=hiding(b"", side=8)[2:-2]),
    "unknown components": lambda: hiding(SCANS.replace(b"\1\1\0\1", b"\1\7\0\1")),
    "a scan before the frame": lambda: b"\xff\xd8" + scan() + hiding(SCANS)[2:],
    "a reserved marker where a restart is due": lambda: hiding(
        scan(0, 0) + b"\0\xff\2\xff\xff" + SCANS, before=RESTARTS
    ),
    "fill bytes between scans": lambda: hiding((scan() + b"\xff" * 66_000) * 200),
    "no scan": lambda: hiding(b""),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_no_marker_hides_scans(name: str, calls_of: Counter) -> None:
    data = HIDDEN[name]()
    for use in (decode, lambda data: decode_region(data, (0, 0, 8, 8))):

        def refuse(use: Callable[[bytes], object] = use) -> None:
            with pytest.raises(ImageError) as refusal:
                use(data)
            assert len(str(refusal.value)) > 40

        assert calls_of(refuse) < 100_000
    assert thumbnail(data) is None


def test_the_refusal_of_junk_says_where_it_begins() -> None:
    data = HIDDEN["junk"]()
    with pytest.raises(ImageDamagedError, match=rf"only other bytes from byte {data.index(b'aa')}"):
        decode(data)
    with pytest.raises(ImageDamagedError, match="ends before its first scan"):
        read_header(HIDDEN["no scan"]())


def test_a_jpeg_with_a_marker_without_length_is_not_cut() -> None:
    data = encode_jpeg(np.zeros((64, 64, 3), np.uint8))
    assert read_layout(data) is not None
    assert read_layout(data[:2] + b"\xff\xd0" + data[2:]) is None
    assert decode(data[:2] + b"\xff\xff\xff\xd0" + data[2:]).shape == (64, 64, 3)


@pytest.mark.parametrize("sampling", [0x14, 0x41, 0x24, 0x42, 0x44, 0x13, 0x31, 0x33])
def test_a_jpeg_of_unusual_sampling_is_decoded(sampling: int) -> None:
    one = segment(0xDA, bytes((3, 1, 0, 2, 0, 3, 0, 0, 63, 0)))
    data = hiding(one + bytes(64), kind=0xC0, side=32, sampling=sampling)
    try:
        assert decode(data).shape == (32, 32, 3)
        assert decode_region(data, (0, 0, 8, 8)).shape == (8, 8, 3)
    except ImageError as error:
        assert "truncated or corrupt" in str(error)  # more than 10 blocks in a unit


@pytest.mark.parametrize("name", ["decode_jpeg_header", "decode_jpeg"])
@pytest.mark.parametrize("error", [KeyError("0x14"), IndexError(), TypeError("no")])
def test_whatever_libjpeg_turbo_s_binding_raises_pillow_decides(
    monkeypatch: pytest.MonkeyPatch, name: str, error: Exception
) -> None:
    monkeypatch.setattr(decoding.simplejpeg, name, raising(error))
    assert decode(encode_jpeg(np.zeros((8, 8, 3), np.uint8))).shape == (8, 8, 3)


def raising(error: BaseException) -> Callable[..., object]:
    def raises(*_: object, **__: object) -> object:
        raise error

    return raises


def test_an_error_that_nobody_foresaw_is_that_of_one_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = encode_png(np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setattr(decoding, "admit", raising(KeyError("what")))
    for use in (decode, lambda data: decode_region(data, (0, 0, 8, 8))):
        with pytest.raises(ImageDamagedError, match=r"PNG of 8 × 8 pixels .* KeyError: 'what'"):
            use(data)
    monkeypatch.setattr(headers, "_png_orientation", raising(OverflowError("how")))
    with pytest.raises(ImageDamagedError, match=r"header of this PNG .* OverflowError: how"):
        read_header(data)


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()])
def test_want_of_memory_and_an_interrupt_are_no_fault_of_the_image(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "JPEG")
    for name in ("decode_jpeg_header", "decode_jpeg"):
        with monkeypatch.context() as context, pytest.raises(type(error)):
            context.setattr(decoding.simplejpeg, name, raising(error))
            decode(content.getvalue())
