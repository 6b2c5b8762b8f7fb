"""The difference between a contender's crops and the reference.

Reference: the whole file decoded with interpolated chroma, the crop cut out and reduced with a
triangle filter of full width in floating point. Mean absolute difference in gray levels, 0 to 255.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.contenders import Process
from pipelines.worker import AREA, ASPECT, SIZE, Crop

COUNT = 120


def differences(processes: list[Process], paths: list[Path], folder: Path) -> dict[str, float]:
    """Return variant → mean difference over the same crops."""
    crops = random_crops(paths)
    expected = np.stack([reference(crop) for crop in crops])
    found = {}
    for process in processes:
        if not process.pipeline.has_crops:
            continue
        for variant in process.pipeline.variants:
            output = folder / "crops.npy"
            order = {"do": "crops", "variant": variant, "crops": crops, "output": str(output)}
            process.ask(order)
            found[variant] = float(np.abs(np.load(output) - expected).mean())
    return found


def random_crops(paths: list[Path]) -> list[Crop]:
    """Return crops drawn like those of the pipelines, from files spread over all."""
    generator = random.Random(0)
    crops: list[Crop] = []
    while len(crops) < COUNT:
        path = paths[len(crops) * len(paths) // COUNT]
        with Image.open(path) as image:
            width, height = image.size
            is_color = image.mode == "RGB"
        area = width * height * generator.uniform(*AREA)
        ratio = np.exp(generator.uniform(*np.log(ASPECT)))
        part = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
        if not is_color:
            paths = [x for x in paths if x != path]
        elif part[0] <= height and part[1] <= width:
            top, left = (
                generator.randint(0, height - part[0]),
                generator.randint(0, width - part[1]),
            )
            crops.append((str(path), top, left, *part))
    return crops


def reference(crop: Crop) -> np.ndarray:
    """Return the reference for a crop: float32 (224, 224, 3)."""
    path, top, left, height, width = crop
    with Image.open(path) as image:
        part = np.asarray(image, np.float32)[top : top + height, left : left + width]
    planes = [Image.fromarray(np.ascontiguousarray(part[:, :, c])) for c in range(3)]
    small = [plane.resize((SIZE, SIZE), Image.Resampling.BILINEAR) for plane in planes]
    return np.stack([np.asarray(plane) for plane in small], axis=2)
