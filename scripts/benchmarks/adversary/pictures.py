"""Every hostile picture by name: what a caller can send in 16 MiB to cost CPU time or memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from adversary import jpeg_bombs as jpeg
from adversary import other_bombs as other
from adversary import png_bombs as png

MOST_BYTES = (16 << 20) - 1024  # below the default MAX_CONTENT_LENGTH
Picture = Callable[[], bytes]


def hostile_pictures(budget: int) -> dict[str, Picture]:
    """Return name → a function that makes the picture, of at most about `budget` bytes.

    Sizes in pixels do not follow the budget: a flat picture of 64 megapixels takes 40 bytes.
    """
    made = _jpegs(budget) | _pngs(budget) | _gifs(budget) | _bmps(budget) | _webps(budget)
    return made | {
        f"{name}, cut off": partial(_half, made[name])
        for name in ("JPEG progressive 64 MP", "PNG RGB 64 MP", "GIF 64 MP", "WebP 64 MP")
    }


def _half(make: Picture) -> bytes:
    data = make()
    return data[: len(data) // 2]


def _jpegs(budget: int) -> dict[str, Picture]:
    frames = {
        "sequential": jpeg.BASELINE,
        "extended": jpeg.EXTENDED,
        "progressive": jpeg.PROGRESSIVE,
        "arithmetic": jpeg.ARITHMETIC,
        "arithmetic progressive": jpeg.ARITHMETIC_PROGRESSIVE,
    }
    small = jpeg.one_scan(64, 64)
    made: dict[str, Picture] = {}
    for name, frame in frames.items():
        made[f"JPEG {name} scans, 2 KB"] = partial(jpeg.repeated_scans, 2000, frame)
        made[f"JPEG {name} scans"] = partial(jpeg.repeated_scans, budget, frame)
        made[f"JPEG {name} 64 MP"] = partial(jpeg.one_scan, jpeg.SIDE, jpeg.SIDE, frame)
    return made | {
        "JPEG small frame, scans": partial(jpeg.repeated_scans, budget, jpeg.BASELINE, 64),
        "JPEG four components, scans": partial(jpeg.repeated_scans, 20_000, jpeg.BASELINE, 5000, 4),
        "JPEG refining scans": partial(jpeg.scans_with_data, budget),
        "JPEG full scan 64 MP": partial(jpeg.noise_scan, budget),
        "JPEG arithmetic full scan 64 MP": partial(jpeg.noise_scan, budget, jpeg.ARITHMETIC),
        "JPEG CMYK 64 MP": partial(jpeg.one_scan, jpeg.SIDE, jpeg.SIDE, components=4),
        "JPEG CMYK progressive 64 MP": partial(
            jpeg.one_scan, jpeg.SIDE, jpeg.SIDE, jpeg.PROGRESSIVE, 4
        ),
        "JPEG lossless 64 MP": partial(jpeg.one_scan, jpeg.SIDE, jpeg.SIDE, jpeg.LOSSLESS),
        "JPEG 65,500 × 1": partial(jpeg.one_scan, 65_500, 1),
        "JPEG 1 × 65,500": partial(jpeg.one_scan, 1, 65_500),
        "JPEG 65,500 × 1,000 progressive": partial(jpeg.one_scan, 65_500, 1000, jpeg.PROGRESSIVE),
        "JPEG 65,500 × 65,500": partial(jpeg.one_scan, 65_500, 65_500),
        "JPEG empty comments": partial(jpeg.segments, budget, 0xFE, b"", small),
        "JPEG long comments": partial(jpeg.segments, budget, 0xFE, b"A" * 65_000, small),
        "JPEG fill bytes": partial(jpeg.fill_bytes, budget, small),
        "JPEG tables": partial(jpeg.many_tables, budget),
        "JPEG restart markers": partial(jpeg.restarts, budget),
        "JPEG color profile": partial(jpeg.profile, budget, small),
        "JPEG EXIF directories": partial(jpeg.exif_directories, budget, small),
    }


def _pngs(budget: int) -> dict[str, Picture]:
    side = 8190
    return {
        "PNG RGB 64 MP": partial(png.picture, side, side),
        "PNG RGBA 64 MP": partial(png.picture, side, side, png.RGBA),
        "PNG gray 64 MP": partial(png.picture, side, side, png.GRAY),
        "PNG black and white 64 MP": partial(png.picture, side, side, png.GRAY, 1),
        "PNG 16-bit RGBA 64 MP": partial(png.picture, side, side, png.RGBA, 16),
        "PNG 16-bit gray 64 MP": partial(png.picture, side, side, png.GRAY, 16),
        "PNG gray with alpha 64 MP": partial(png.picture, side, side, png.GRAY_ALPHA),
        "PNG interlaced RGB 64 MP": partial(png.picture, side, side, is_interlaced=True),
        "PNG interlaced 16-bit RGBA 64 MP": partial(
            png.picture, side, side, png.RGBA, 16, is_interlaced=True
        ),
        "PNG palette 64 MP": partial(png.picture, side, side, png.PALETTE, before=png.palette()),
        "PNG palette with transparency 64 MP": partial(
            png.picture, side, side, png.PALETTE, before=png.palette(256, 256)
        ),
        "PNG RGB with a transparent color 64 MP": partial(
            png.picture, side, side, before=png.chunk(b"tRNS", bytes(6))
        ),
        "PNG Paeth's filter 64 MP": png.filtered,
        "PNG 1,000,000 × 64": partial(png.picture, 1_000_000, 64),
        "PNG 1 × 10,000,000": partial(png.picture, 1, 10_000_000),
        "PNG 2,147,483,647 wide": partial(png.picture, 2**31 - 1, 1, data=png.zeros(10_000)),
        "PNG profile in text": partial(png.profile_text, budget),
        "PNG profiles in compressed text, 18 KB": partial(png.packed_texts, 18_000),
        "PNG profiles in compressed text": partial(png.packed_texts, budget),
        "PNG profiles in international text": partial(png.packed_texts, budget, b"iTXt"),
        "PNG color profile": partial(png.packed_profile, budget),
        "PNG unknown chunks": partial(png.many_chunks, budget),
        "PNG text chunks": partial(png.many_chunks, budget, b"tEXt", b"k\0v"),
        "PNG suggested palettes": partial(
            png.many_chunks, budget, b"sPLT", b"p\0\x08" + bytes(60_000)
        ),
        "PNG EXIF": partial(
            png.many_chunks, budget, b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + bytes(60_000)
        ),
        "PNG data in bytes": partial(png.split_data, budget),
        "PNG animation": partial(png.animation, budget),
    }


def _gifs(budget: int) -> dict[str, Picture]:
    side = 8190
    whole = partial(other.gif, side, side, data=other.growing_codes(side * side))
    return {
        "GIF 64 MP": whole,
        "GIF interlaced 64 MP": partial(whole, is_interlaced=True),
        "GIF 64 MP without data": partial(other.gif, side, side),
        "GIF huge screen": partial(
            other.gif, 65_535, 65_535, frame=(1, 1), data=other.growing_codes(1)
        ),
        "GIF 64 MP screen, small frame": partial(
            other.gif, side, side, frame=(8, 8), data=other.growing_codes(64)
        ),
        "GIF frames": partial(
            other.gif, 64, 64, data=other.growing_codes(4096), frames=max(1, budget // 180)
        ),
        "GIF clear codes": partial(other.gif, side, side, data=other.clear_codes(budget - 70_000)),
        "GIF comment": partial(other.gif_comment, budget),
        "GIF comments": partial(other.gif_extensions, budget, 0xFE, 240),
        "GIF applications": partial(other.gif_extensions, budget, 0xFF, 1),
    }


def _bmps(budget: int) -> dict[str, Picture]:
    side, rows = 8190, b"\x11" * (budget - 2000)
    thin = (budget - 2000) // 4
    return {
        "BMP RLE line ends 64 MP": lambda: other.bmp(
            side, side, 8, other.run_lengths(side, "line ends"), 1
        ),
        "BMP RLE moves": lambda: other.bmp(4000, 4000, 8, other.run_lengths(4000, "moves"), 1),
        "BMP RLE runs 64 MP": lambda: other.bmp(side, side, 8, other.run_lengths(side, "runs"), 1),
        "BMP RLE runs of one": lambda: other.bmp(
            1000, 1000, 8, other.run_lengths(1000, "runs of one")[: budget - 2000], 1
        ),
        "BMP RLE of four bits 64 MP": lambda: other.bmp(
            side, side, 4, other.run_lengths(side, "runs"), 2
        ),
        "BMP black and white 64 MP": lambda: other.bmp(side, side, 1, rows),
        "BMP from the top 64 MP": lambda: other.bmp(side, -side, 8, rows),
        "BMP four bytes a pixel": lambda: other.bmp(2000, thin // 2000, 32, rows),
        "BMP 1 pixel wide": lambda: other.bmp(1, thin, 24, rows),
        "BMP 1 pixel high": lambda: other.bmp(thin, 1, 24, rows),
    }


def _webps(budget: int) -> dict[str, Picture]:
    side = 8191
    return {
        "WebP 64 MP": partial(other.webp, side, side),
        "WebP with alpha 64 MP": partial(other.webp, side, side, has_alpha=True),
        "WebP 16,383 × 4,096": partial(other.webp, 16_383, 4096),
        "WebP 16,383 × 1": partial(other.webp, 16_383, 1),
        "WebP animation 64 MP": partial(other.webp_animation, side, side, 20),
        "WebP frames": partial(other.webp_animation, 512, 512, max(1, budget // 60)),
        "WebP canvas beyond the picture": partial(other.webp_canvas, (16_383, 16_383), (8, 8)),
        "WebP picture beyond the canvas": partial(other.webp_canvas, (8, 8), (side, side)),
        "WebP color profile": partial(other.webp_metadata, budget, b"ICCP"),
        "WebP EXIF": partial(other.webp_metadata, budget, b"EXIF"),
        "WebP XMP": partial(other.webp_metadata, budget, b"XMP "),
        "WebP unknown parts": partial(other.webp_metadata, budget, b"ABCD", budget // 12),
    }
