"""Which format an image file has, told by its first bytes and never by its name.

In: the bytes of a file. Out: the format's name, or an error that names what came instead.
"""

from __future__ import annotations

from image_classification.errors import ImageFormatError

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# What else people send, so that a refusal can name it. Offset, bytes, name.
_FOREIGN = (
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (4, b"ftypheic", "HEIC"),
    (4, b"ftypheix", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyp", "an MP4 or QuickTime file"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"%PDF", "PDF"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"PK\x03\x04", "ZIP"),
    (257, b"ustar", "tar"),
    (0, b"version https://git-lfs", "a Git LFS pointer (text), not the file itself"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "XML"),
    (0, b"<!DOCTYPE", "HTML"),
    (0, b"<html", "HTML"),
    (0, b"P1\n", "PNM"),
    (0, b"P2\n", "PNM"),
    (0, b"P3\n", "PNM"),
    (0, b"P4\n", "PNM"),
    (0, b"P5\n", "PNM"),
    (0, b"P6\n", "PNM"),
)


def sniff(data: bytes) -> str:
    """The format of `data`, one of `FORMATS`; an ImageFormatError if it is another or none."""
    if data.startswith(b"\xff\xd8"):
        return "JPEG"
    if data.startswith(PNG_SIGNATURE):
        return "PNG"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(b"BM"):
        return "BMP"
    names = (name for offset, mark, name in _FOREIGN if data.startswith(mark, offset))
    came = next(names, f"unknown bytes that begin with {data[:16]!r}") if data else "0 bytes"
    raise ImageFormatError(f"expected an image ({', '.join(FORMATS)}), got {came}")
