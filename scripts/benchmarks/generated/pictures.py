"""Small images of every accepted format, each different, and files that are none.

NumPy and Pillow are imported where they are used, so that `--help` needs neither.
"""

from __future__ import annotations

import io
import random
from functools import cache

_KINDS = ("JPEG", "PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "JPEG")
EXTENSIONS = {
    "JPEG": "jpg",
    "PNG": "png",
    "GIF": "gif",
    "BMP": "bmp",
    "WEBP": "webp",
    "TIFF": "tif",
}
_COUNT = 64
_SIZE = (34, 40)  # above the sides that `check` calls tiny

NOT_IMAGES = (
    b"",
    b"\0" * 200,
    b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    b"PK\x03\x04" + b"\x14\0" * 20,
    b"\x1f\x8b\x08\0" + b"\x03" * 40,
    b"%PDF-1.7\n" + b"x" * 60,
    b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + b"\0" * 60,
    b"\xff\xd8\xff\xe0\0\x10JFIF\0",
    b"\x89PNG\r\n\x1a\n",
    b"a note\n",
    b'{"a": 1}',
    b"\x93NUMPY\x01\0" + b" " * 60,
    b"ID\xe9\xff\xfe" * 9,
)


@cache
def sound() -> tuple[tuple[str, bytes], ...]:
    """Return (extension, content) of different images that can be decoded."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    made = []
    for number in range(_COUNT):
        kind = _KINDS[number % len(_KINDS)]
        coarse = Image.fromarray(generator.integers(0, 256, (6, 6, 3), np.uint8))
        picture = coarse.resize(_SIZE)
        content = io.BytesIO()
        if kind == "GIF":
            picture = picture.quantize(32)
        elif number % 11 == 3 and kind in ("JPEG", "PNG"):
            picture = picture.convert("L")
        picture.save(content, kind)
        made.append((EXTENSIONS[kind], content.getvalue()))
    return tuple(made)


def draw(chance: random.Random, count: int) -> list[tuple[str, bytes]]:
    """Return (extension, content) of `count` different images, at most 64."""
    return chance.sample(sound(), count)
