"""GIF89a, BMP (BITMAPINFOHEADER) and WebP (RFC 9649) files that cost far more than their size."""

from __future__ import annotations

import struct

_GIF = b"GIF89a"
_COLORS = bytes(range(256)) * 3


def gif(
    width: int,
    height: int,
    *,
    before: bytes = b"",
    frame: tuple[int, int] | None = None,
    data: bytes = b"",
    frames: int = 1,
    is_interlaced: bool = False,
) -> bytes:
    """Return a GIF of a screen, `before` its frames, which are cut off unless `data` fills them."""
    wide, tall = frame or (width, height)
    screen = _GIF + struct.pack("<HHBBB", width, height, 0xF7, 0, 0) + _COLORS
    flags = 0x40 if is_interlaced else 0
    one = b"\x2c" + struct.pack("<HHHHB", 0, 0, wide, tall, flags) + b"\x08" + blocks(data)
    return screen + before + one * frames + b";"


def blocks(data: bytes) -> bytes:
    """Return data in sub-blocks of at most 255 bytes, with their end."""
    parts = (data[at : at + 255] for at in range(0, len(data), 255))
    return b"".join(bytes((len(part),)) + part for part in parts) + b"\0"


def growing_codes(pixels: int) -> bytes:
    """Return LZW codes of a run: each is one longer than the one before (4,096, then repeated)."""
    codes, width, following, run = _Bits(), 9, 258, 1
    codes.add(256, 9)
    codes.add(0, 9)
    left = pixels - 1
    while left > 0:
        code = following if following < 4096 else 4095
        codes.add(code, width)
        run = run + 1 if following < 4096 else run
        left -= run
        if following < 4096:
            following += 1
            width = min(12, following.bit_length())
    codes.add(257, width)
    return codes.bytes()


def clear_codes(budget: int) -> bytes:
    """Return LZW data that empties its table again and again and yields no pixel."""
    codes = _Bits()
    for _ in range(8):
        codes.add(256, 9)
    return codes.bytes() * (budget // 9)


def gif_extensions(budget: int, label: int, size: int) -> bytes:
    """Return an 8 × 8 GIF after extension blocks (0xFE: comment, 0xFF: application) that fit."""
    one = bytes((0x21, label)) + blocks(b"\x0bNETSCAPE2.0"[1:] + b"A" * size)
    return gif(8, 8, before=one * max(1, (budget - 2000) // len(one)), data=growing_codes(64))


def gif_comment(budget: int) -> bytes:
    """Return an 8 × 8 GIF with one comment of many sub-blocks."""
    comment = b"\x21\xfe" + (b"\xff" + b"A" * 255) * (budget // 256 - 8) + b"\0"
    return gif(8, 8, before=comment, data=growing_codes(64))


def bmp(width: int, height: int, depth: int, data: bytes, compression: int = 0) -> bytes:
    """Return a BMP with rows from the bottom (a negative height: from the top)."""
    colors = b"\x10\x20\x30\0" * (1 << depth) if depth <= 8 else b""
    start = 54 + len(colors)
    head = struct.pack("<IHHI", start + len(data), 0, 0, start)
    info = struct.pack(
        "<IiiHHIIiiII", 40, width, height, 1, depth, compression, len(data), 0, 0, 0, 0
    )
    return b"BM" + head + info + colors + data


def run_lengths(side: int, kind: str) -> bytes:
    """Return RLE data of a square: ends of lines, moves, or runs as long as they can be."""
    if kind == "line ends":
        return b"\0\0" * side + b"\0\1"
    if kind == "moves":
        return b"\0\2\xff\1" * (side * (side // 255)) + b"\0\1"
    if kind == "runs of one":
        return b"\1\7" * (side * side) + b"\0\1"
    return (b"\xff\7" * (side // 255) + b"\0\0") * side + b"\0\1"


def webp(width: int, height: int, *, has_alpha: bool = False) -> bytes:
    """Return a lossless WebP of one color, in about 40 bytes."""
    return _riff(_vp8l(width, height, has_alpha))


def webp_animation(width: int, height: int, frames: int) -> bytes:
    """Return an animated WebP of flat frames that fill the canvas."""
    place = _u24(0) + _u24(0) + _u24(width - 1) + _u24(height - 1) + _u24(100) + b"\0"
    frame = _part(b"ANMF", place + _vp8l(width, height, has_alpha=True))
    control = _part(b"ANIM", bytes(6))
    return _riff(_canvas(width, height, 0x12) + control + frame * frames)


def webp_metadata(budget: int, kind: bytes, count: int = 1) -> bytes:
    """Return an 8 × 8 WebP with metadata (ICCP, EXIF, XMP) or unknown parts."""
    flags = {b"ICCP": 0x20, b"EXIF": 0x08, b"XMP ": 0x04}.get(kind, 0)
    parts = _part(kind, b"\x5a" * max(0, budget // count - 10)) * count
    picture = _vp8l(8, 8, has_alpha=False)
    ordered = parts + picture if kind == b"ICCP" else picture + parts
    return _riff(_canvas(8, 8, flags) + ordered)


def webp_canvas(canvas: tuple[int, int], picture: tuple[int, int]) -> bytes:
    """Return a WebP whose canvas and picture contradict each other."""
    return _riff(_canvas(*canvas, 0) + _vp8l(*picture, has_alpha=False))


def _vp8l(width: int, height: int, has_alpha: bool) -> bytes:
    bits = _Bits()
    for value, size in ((0x2F, 8), (width - 1, 14), (height - 1, 14), (int(has_alpha), 1), (0, 3)):
        bits.add(value, size)
    bits.add(0, 3)  # no transform, no color cache, one group of codes
    for color in (17, 34, 51, 128):  # green, red, blue, alpha: codes of one symbol take no bit
        bits.add(0b101, 3)
        bits.add(color, 8)
    bits.add(0b0001, 4)  # distance
    return _part(b"VP8L", bits.bytes())


def _canvas(width: int, height: int, flags: int) -> bytes:
    return _part(b"VP8X", bytes((flags, 0, 0, 0)) + _u24(width - 1) + _u24(height - 1))


def _part(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def _riff(parts: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(parts) + 4) + b"WEBP" + parts


def _u24(value: int) -> bytes:
    return struct.pack("<I", value)[:3]


class _Bits:
    """Bits, the lowest of each value first."""

    def __init__(self) -> None:
        self._value = self._count = 0
        self._done = bytearray()

    def add(self, value: int, size: int) -> None:
        self._value |= value << self._count
        self._count += size
        while self._count >= 8:
            self._done.append(self._value & 255)
            self._value >>= 8
            self._count -= 8

    def bytes(self) -> bytes:
        return bytes(self._done) + (bytes((self._value & 255,)) if self._count else b"")
