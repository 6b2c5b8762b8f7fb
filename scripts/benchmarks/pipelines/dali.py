"""NVIDIA DALI on the CPU: decodes the crop only; "dali-antialias" resizes with antialiasing."""

from __future__ import annotations

import numpy as np
import nvidia.dali as dali
from nvidia.dali import fn, pipeline_def, types
from worker import AREA, ASPECT, BATCH, SIZE, Crop, Job, serve


@pipeline_def
def random_crops(files: list[str], is_antialiased: bool) -> object:
    content, _ = fn.readers.file(files=files, random_shuffle=True, name="reader")
    image = fn.decoders.image_random_crop(
        content, random_area=AREA, random_aspect_ratio=ASPECT, num_attempts=10
    )
    image = fn.resize(
        image, size=(SIZE, SIZE), interp_type=types.INTERP_LINEAR, antialias=is_antialiased
    )
    return fn.flip(image, horizontal=fn.random.coin_flip())


@pipeline_def
def one_crop(crop: Crop, is_antialiased: bool) -> object:
    path, top, left, height, width = crop
    content, _ = fn.readers.file(files=[path])
    image = fn.decoders.image_slice(
        content, start=(top, left), shape=(height, width), axis_names="HW",
    )  # fmt: skip
    return fn.resize(
        image, size=(SIZE, SIZE), interp_type=types.INTERP_LINEAR, antialias=is_antialiased
    )


def run_pass(job: Job, variant: str, threads: int) -> int:
    """Run an epoch of a new pipeline."""
    pipeline = random_crops(
        job.files,
        variant.endswith("antialias"),
        batch_size=BATCH,
        num_threads=threads,
        device_id=None,
    )
    pipeline.build()
    images = 0
    while images < len(job.files):
        (batch,) = pipeline.run()
        batch.as_array()
        images += BATCH
    return images


def cut(variant: str, crop: Crop) -> np.ndarray:
    pipeline = one_crop(
        crop, variant.endswith("antialias"), batch_size=1, num_threads=1, device_id=None
    )
    pipeline.build()
    return pipeline.run()[0].as_array()[0]


if __name__ == "__main__":
    serve(dali.__version__, run_pass, cut)
