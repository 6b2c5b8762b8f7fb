"""tf.data with `decode_and_crop_jpeg`: decodes only the crop; fast IDCT; antialiasing or not.

"tf-data" is the fastest form: no antialiasing, repeated chroma. "tf-data-antialias" resizes like
the other antialiased contenders.
"""

from __future__ import annotations

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf
from worker import AREA, ASPECT, BATCH, SIZE, Crop, Job, serve

tf.config.threading.set_intra_op_parallelism_threads(1)


def load(path: tf.Tensor, is_antialiased: bool) -> tf.Tensor:
    """Return a random crop of a file: uint8 (224, 224, 3)."""
    content = tf.io.read_file(path)
    begin, size, _ = tf.image.sample_distorted_bounding_box(
        tf.image.extract_jpeg_shape(content),
        tf.zeros([1, 0, 4]),
        min_object_covered=0.0,
        aspect_ratio_range=ASPECT,
        area_range=AREA,
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    window = tf.stack([begin[0], begin[1], size[0], size[1]])
    return tf.image.random_flip_left_right(resized(content, window, is_antialiased))


def resized(content: tf.Tensor, window: tf.Tensor, is_antialiased: bool) -> tf.Tensor:
    image = tf.image.decode_and_crop_jpeg(
        content,
        window,
        channels=3,
        fancy_upscaling=False,
        dct_method="INTEGER_FAST",
    )
    image = tf.image.resize(image, [SIZE, SIZE], antialias=is_antialiased)
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)


def run_pass(job: Job, variant: str, threads: int) -> int:
    """Run an epoch with a private pool of threads."""
    is_antialiased = variant.endswith("antialias")
    data = tf.data.Dataset.from_tensor_slices(job.files).shuffle(len(job.files))
    data = data.map(lambda path: load(path, is_antialiased), num_parallel_calls=threads)
    data = data.batch(BATCH).prefetch(2)
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    return sum(int(batch.shape[0]) for batch in data.with_options(options))


def cut(variant: str, crop: Crop) -> np.ndarray:
    path, *window = crop
    content = tf.io.read_file(path)
    return resized(content, tf.constant(window), variant.endswith("antialias")).numpy()


if __name__ == "__main__":
    serve(tf.__version__, run_pass, cut)
