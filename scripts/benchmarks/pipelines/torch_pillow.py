"""torch.utils.data.DataLoader with Pillow: what most training scripts do.

"torch-pillow-float" adds the conversion to normalized float32 on the CPU, "torch-pillow" hands over
uint8. The crop and the resize are those of torchvision's RandomResizedCrop on a Pillow image.
"""

from __future__ import annotations

import math
import random

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from worker import AREA, ASPECT, BATCH, SIZE, Crop, Job, serve

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
torch.set_num_threads(1)


class Photographs(Dataset):
    """Random crops of the files."""

    def __init__(self, files: list[str], is_float: bool) -> None:
        self.files, self.is_float = files, is_float

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.files[index]) as file:
            image = file.convert("RGB")
        left, top, width, height = random_box(image.width, image.height)
        image = resized(image, left, top, width, height)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        if not self.is_float:
            return pixels
        return (pixels.contiguous().float().div(255) - MEAN) / STD


def random_box(width: int, height: int) -> tuple[int, int, int, int]:
    """Return (left, top, width, height) as torchvision draws it."""
    for _ in range(10):
        area = width * height * random.uniform(*AREA)
        ratio = math.exp(random.uniform(*map(math.log, ASPECT)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, width - w), random.randint(0, height - h), w, h
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side, side


def resized(image: Image.Image, left: int, top: int, width: int, height: int) -> Image.Image:
    """Crop, then resize with Pillow's antialiased triangle filter."""
    part = image.crop((left, top, left + width, top + height))
    return part.resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def run_pass(job: Job, variant: str, threads: int) -> int:
    """Run an epoch with `threads` worker processes."""
    data = Photographs(job.files, variant.endswith("float"))
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=threads)
    return sum(len(batch) for batch in loader)


def cut(variant: str, crop: Crop) -> np.ndarray:
    path, top, left, height, width = crop
    with Image.open(path) as image:
        return np.array(resized(image.convert("RGB"), left, top, width, height))


if __name__ == "__main__":
    serve(torch.__version__, run_pass, cut)
