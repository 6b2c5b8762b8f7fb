"""MXNet's ImageRecordIter over a record file with an index; uint8, no antialiasing.

It decodes with at most half of the processors, so with two it has one thread, whatever is asked.
"""

from __future__ import annotations

import mxnet as mx
import numpy as np
from worker import AREA, ASPECT, BATCH, SIZE, Crop, Job, serve


def run_pass(job: Job, variant: str, threads: int) -> int:
    """An epoch; the iterator is made anew, as its first epoch is like any other."""
    batches = mx.io.ImageRecordIter(
        path_imgrec=str(job.records),
        path_imgidx=str(job.records.with_suffix(".idx")),
        data_shape=(3, SIZE, SIZE),
        batch_size=BATCH,
        shuffle=True,
        random_resized_crop=True,
        min_random_area=AREA[0],
        max_random_area=AREA[1],
        min_aspect_ratio=ASPECT[0],
        max_aspect_ratio=ASPECT[1],
        rand_mirror=True,
        preprocess_threads=threads,
        dtype="uint8",
        round_batch=False,
        verbose=False,
    )
    for batch in batches:
        batch.data[0].asnumpy()
    return len(job.files)  # `pad` of the last batch is not to be relied on


def cut(variant: str, crop: Crop) -> np.ndarray:
    """One crop with the operators that the iterator uses (OpenCV, linear)."""
    path, top, left, height, width = crop
    with open(path, "rb") as file:
        image = mx.image.imdecode(file.read())
    part = mx.image.fixed_crop(image, left, top, width, height)
    return mx.image.imresize(part, SIZE, SIZE, interp=1).asnumpy()


if __name__ == "__main__":
    serve(mx.__version__, run_pass, cut)
