"""This project's loader, and its decoding and resizing without the loader."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
from worker import AREA, ASPECT, BATCH, SIZE, Crop, Job, serve

import image_classification
from image_classification.images.augment import Augmentation, augment, draw_numbers
from image_classification.images.decode import decode_region
from image_classification.images.preprocessing import Preprocessing
from image_classification.images.resize import HIDING_RATIO, resize_into
from image_classification.loading.loader import Loader
from image_classification.loading.records import RecordSource
from image_classification.loading.sources import ListedSource

AUGMENTATION = Augmentation(crop="random_resized", area=AREA, aspect=ASPECT, horizontal_flip=0.5)
PREPROCESSING = Preprocessing(SIZE, SIZE)
_epochs = iter(range(1_000_000))


def run_pass(job: Job, variant: str, threads: int) -> int:
    """Run an epoch of the loader; "ours-bare" has neither loader nor source."""
    if variant == "ours-bare":
        return _run_bare(job)
    source = _open(job, variant)
    options = {"augmentation": AUGMENTATION, "shuffle": True, "threads": threads}
    with closing(source), Loader(source, PREPROCESSING, BATCH, **options) as loader:
        return sum(len(batch) for batch in loader.epoch(next(_epochs)))


def _open(job: Job, variant: str) -> RecordSource | ListedSource:
    if variant == "ours-folders":
        classes = np.zeros(len(job.files), np.int64)
        return ListedSource("photographs", Path("/"), job.files, classes)
    return RecordSource([job.records if variant == "ours-records" else job.segmented])


def _run_bare(job: Job) -> int:
    """Decode, crop and resize images from memory in sequence."""
    contents = _contents(job)
    numbers = draw_numbers(AUGMENTATION, np.random.default_rng(next(_epochs)), len(contents))
    out = np.empty((SIZE, SIZE, 3), np.uint8)
    for content, row in zip(contents, numbers, strict=True):
        augment(content, PREPROCESSING, AUGMENTATION, row, out)
    return len(contents)


def _contents(job: Job) -> list[bytes]:
    source = RecordSource([job.records])
    contents = [source.read(index).data for index in range(len(source))]
    source.close()
    return contents


def cut(variant: str, crop: Crop) -> np.ndarray:
    """Make the same two calls as `augment`."""
    path, *part = crop
    out = np.empty((SIZE, SIZE, 3), np.uint8)
    ratio = min(part[2], part[3]) / SIZE
    pixels = decode_region(
        Path(path).read_bytes(),
        tuple(part),
        min_size=(SIZE, SIZE),
        smooth_chroma=ratio < HIDING_RATIO,
    )
    resize_into(pixels, out)
    return out


if __name__ == "__main__":
    serve(image_classification.__version__, run_pass, cut)
