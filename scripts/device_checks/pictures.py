"""Photographs for the checks: the user's own, or generated ones; and class folders of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from setting import photographs

from device_checks.one import Given
from image_classification.errors import ImageError
from image_classification.images.preprocessing import Preprocessing, preprocess
from image_classification.samples import UInt8Array

_PICTURES = 12  # different generated ones on a GPU machine; more of them are crops
_SMALL = Preprocessing(8, 8, resize=8)


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
    spread = np.linspace(0, len(found) - 1, min(count, len(found)), dtype=int).tolist()
    kept, left_out = 0, []
    for index in dict.fromkeys([*spread, *range(len(found))]):
        if kept == count:
            break
        if fault := _fault(found[index]):
            left_out.append(f"{found[index].name}: {fault}")
            continue
        shutil.copy(found[index], folder / f"{index:05d}.jpg")
        kept += 1
    if left_out:
        given.rows.note("photographs left out", f"{len(left_out)}; the first is {left_out[0]}")
    if not kept:
        raise SystemExit(f"{given.photographs}: no photograph can be used; {left_out[0]}")


def _fault(path: Path) -> str:
    """Return why the product cannot use a file as an image, or ""."""
    try:
        preprocess(path.read_bytes(), _SMALL)
    except (OSError, ImageError) as error:
        return str(error)
    return ""


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
