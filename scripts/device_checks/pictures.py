"""Photographs for the checks: the user's own, or generated ones; and class folders of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from setting import photographs

from device_checks.one import Given
from image_classification.images.preprocessing import Preprocessing, preprocess
from image_classification.samples import UInt8Array

_PICTURES = 12  # different generated ones on a GPU machine; more of them are crops


def files(given: Given, count: int) -> list[Path]:
    """Return `count` JPEG files, fewer if the user has fewer; the same in every check."""
    folder = given.shared / f"photographs-{count}"
    if not folder.exists():
        partial = given.work / "photographs"
        partial.mkdir()
        _fill(given, count, partial)
        partial.rename(folder)
    return sorted(folder.iterdir())


def _fill(given: Given, count: int, folder: Path) -> None:
    if given.photographs is None:
        pictures = min(count, given.size(_PICTURES, 3))
        seeds = (photographs.synthetic(seed) for seed in range(pictures))
        photographs.write_variants(seeds, pictures, count, folder)
        return
    found = photographs.find(given.photographs)
    for index in np.linspace(0, len(found) - 1, min(count, len(found)), dtype=int):
        shutil.copy(found[index], folder / f"{index:05d}.jpg")


def class_folders(root: Path, pictures: Sequence[Path], images: int, classes: int = 2) -> Path:
    """Write class folders with `images` files in all; pictures repeat as links, without copies."""
    for number in range(classes):
        (root / f"class{number}").mkdir(parents=True)
    for index in range(images):
        path = root / f"class{index % classes}" / f"{index:06d}.jpg"
        os.link(pictures[index % len(pictures)], path)
    return root


def inputs(pictures: Sequence[Path], preprocessing: Preprocessing) -> UInt8Array:
    """Return the pictures as the input of a network, uint8 (N, H, W, C)."""
    return np.stack([preprocess(path.read_bytes(), preprocessing) for path in pictures])
