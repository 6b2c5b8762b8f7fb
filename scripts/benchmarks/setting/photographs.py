"""Photographs to measure with: the user's own, or synthetic ones that are as hard to encode.

NumPy and Pillow are imported where they are used, so that `--help` needs neither.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

QUALITY = 92
_EXTENSIONS = (".jpg", ".jpeg")
_SIZE = (500, 375)
_PICTURES = 20  # different synthetic ones; more of them are crops


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--photos` and `--work`."""
    add = parser.add_argument
    add("--photos", type=Path, metavar="DIR", help="photographs (JPEG); default: synthetic ones")
    add(
        "--work",
        type=Path,
        metavar="DIR",
        help="folder to write to (default: the temporary folder)",
    )


def find(folder: Path) -> list[Path]:
    """Return the JPEG files in a folder and its subfolders; exit if there are none."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _EXTENSIONS)
    if not paths:
        raise SystemExit(f"{folder}: expected photographs ({' '.join(_EXTENSIONS)}), found none")
    return paths


def write_synthetic(count: int, folder: Path) -> tuple[list[str], str]:
    """Write `count` synthetic files to `folder`; return their names and a description."""
    pictures = (synthetic(seed) for seed in range(_PICTURES))
    names = write_variants(pictures, _PICTURES, count, folder)
    return names, f"{count} synthetic JPEGs of {_SIZE[0]} × {_SIZE[1]}, quality {QUALITY}"


def synthetic(seed: int) -> Image.Image:
    """Return smooth shapes at several scales plus noise: as hard to encode as a photograph."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(seed)
    pixels = np.zeros((_SIZE[1], _SIZE[0], 3), np.float32)
    for cells, weight in ((4, 60), (16, 40), (64, 25), (200, 12)):
        noise = generator.integers(0, 256, (cells, cells, 3), np.uint8)
        layer = Image.fromarray(noise).resize(_SIZE, Image.Resampling.BICUBIC)
        pixels += weight * (np.asarray(layer, np.float32) / 128 - 1)
    pixels += generator.normal(128, 5, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def write_variants(
    pictures: Iterable[Image.Image], pictures_count: int, count: int, folder: Path
) -> list[str]:
    """Write `count` random crops, 85 to 100% of each picture; return their names."""
    from PIL.Image import Resampling

    generator = random.Random(0)  # noqa: S311 - crops, not a secret
    for first, picture in enumerate(pictures):
        size = _SIZE if picture.width >= picture.height else _SIZE[::-1]
        aspect = size[0] / size[1]
        for number in range(first, count, pictures_count):
            width = min(picture.width, picture.height * aspect) * generator.uniform(0.85, 1)
            height = width / aspect
            left = generator.uniform(0, picture.width - width)
            top = generator.uniform(0, picture.height - height)
            box = (left, top, left + width, top + height)
            crop = picture.resize(size, Resampling.LANCZOS, box)
            crop.save(folder / f"{number:05d}.jpg", quality=QUALITY, subsampling="4:2:0")
    return [f"{number:05d}.jpg" for number in range(count)]
