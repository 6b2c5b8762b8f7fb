"""PNG files that cost far more than their size (PNG specification, third edition)."""

from __future__ import annotations

import struct
import zlib

GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6
_CHANNELS = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGBA: 4}
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PASSES = ((8, 8), (8, 8), (4, 8), (4, 4), (2, 4), (2, 2), (1, 2))  # Adam7: steps across, down


def zeros(count: int) -> bytes:
    """Return `count` zero bytes as a zlib stream, without compressing them all."""
    block = 1 << 20
    one = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = one.compress(bytes(block)) + one.flush(zlib.Z_FULL_FLUSH)  # repeatable as it is
    rest = zlib.compressobj(9, zlib.DEFLATED, -15)
    end = rest.compress(bytes(count % block)) + rest.flush()
    checksum = (count % 65521) << 16 | 1  # Adler-32 of zeros
    return b"\x78\xda" + packed * (count // block) + end + struct.pack(">I", checksum)


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk with its checksum."""
    checksum = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def picture(
    width: int,
    height: int,
    color: int = RGB,
    depth: int = 8,
    *,
    before: bytes = b"",
    data: bytes | None = None,
    is_interlaced: bool = False,
) -> bytes:
    """Return a PNG, black unless `data` is its compressed rows; `before` are chunks before them."""
    bits = _CHANNELS[color] * depth
    if data is None:
        rows = [(width, height)]
        if is_interlaced:
            rows = [(-(-width // across), -(-height // down)) for across, down in _PASSES]
        data = zeros(sum(tall * (1 + (wide * bits + 7) // 8) for wide, tall in rows))
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(is_interlaced))
    body = before + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return _SIGNATURE + chunk(b"IHDR", head) + body


def palette(entries: int = 256, transparent: int = 0) -> bytes:
    """Return a palette and, for its first colors, how transparent they are."""
    colors = chunk(b"PLTE", bytes(range(256))[:entries] * 3)
    return colors + (chunk(b"tRNS", bytes(transparent)) if transparent else b"")


def profile_text(budget: int) -> bytes:
    """Return an 8 × 8 picture with one text in ImageMagick's form of a profile, of line ends."""
    text = b"Raw profile type exif\0\nexif\n 1\n" + b"\n" * (budget - 200)
    return picture(8, 8, before=chunk(b"tEXt", text))


def packed_texts(budget: int, kind: bytes = b"zTXt") -> bytes:
    """Return an 8 × 8 picture with as many compressed profiles of a megabyte as fit."""
    value = zlib.compress(b"\nexif\n 1\n" + b"\n" * 1_048_000, 9)
    middle = b"\0\0" if kind == b"zTXt" else b"\0\1\0\0\0"  # iTXt: compressed, no language
    one = chunk(kind, b"Raw profile type exif" + middle + value)
    return picture(8, 8, before=one * max(1, (budget - 200) // len(one)))


def packed_profile(budget: int) -> bytes:
    """Return an 8 × 8 picture with a color profile that expands a thousandfold."""
    value = zeros(min(budget * 1000, 8 << 30))[: budget - 200]
    return picture(8, 8, before=chunk(b"iCCP", b"profile\0\0" + value))


def many_chunks(budget: int, kind: bytes = b"prVt", body: bytes = b"") -> bytes:
    """Return an 8 × 8 picture after as many small chunks as fit."""
    one = chunk(kind, body)
    return picture(8, 8, before=one * ((budget - 200) // len(one)))


def split_data(budget: int) -> bytes:
    """Return a picture whose rows come in chunks of one byte each."""
    data = zeros(3000 * 9001)
    parts = b"".join(chunk(b"IDAT", data[at : at + 1]) for at in range(len(data)))
    empty = chunk(b"IDAT", b"") * max(0, (budget - len(parts) - 200) // 12)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 3000, 3000, 8, RGB, 0, 0, 0))
    return _SIGNATURE + head + empty + parts + chunk(b"IEND", b"")


def animation(budget: int) -> bytes:
    """Return an animated picture of many frames (acTL, fcTL, fdAT)."""
    control = struct.pack(">IIIIIHHBB", 0, 256, 256, 0, 0, 1, 100, 0, 0)
    frame = chunk(b"fcTL", control) + chunk(b"fdAT", b"\0\0\0\1" + zeros(256 * 769))
    count = (budget - 2000) // len(frame)
    whole = picture(256, 256, before=chunk(b"acTL", struct.pack(">II", count, 0)))
    return whole[:-12] + frame * count + whole[-12:]


def filtered(side: int = 8000) -> bytes:
    """Return 64 megapixels whose every row has the costliest filter, Paeth's."""
    row = b"\4" + b"\1" * (3 * side)
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    return picture(side, side, data=data)
