"""The device of a process and what TensorFlow must know before it first computes."""

from __future__ import annotations

import logging

import tensorflow as tf

from image_classification.backends.base import World

_logger = logging.getLogger(__name__)


def prepare_device(world: World) -> str:
    """TensorFlow's name of this rank's device: a GPU where there is one, else the CPU.

    On the CPU operations become deterministic: a resumed job ends with the same weights, bit for
    bit. On a GPU memory is taken as it is needed, and float32 is float32: predictions promise 1e-4.
    """
    _set_threads(world.threads)
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        tf.config.experimental.enable_op_determinism()
        return "/CPU:0"
    for gpu in gpus:
        _configure(tf.config.experimental.set_memory_growth, gpu, True)
    if world.size > 1:  # of the GPUs that it sees TensorFlow would make a worker each
        _configure(tf.config.set_visible_devices, gpus[world.rank % len(gpus)], "GPU")
        gpus = gpus[:1]
    tf.config.experimental.enable_tensor_float_32_execution(False)
    return f"/GPU:{world.rank % len(gpus)}"


def _set_threads(threads: int) -> None:
    """As many threads within an operation; operations run one after another.

    Several at a time would contend for the same cores, beside the threads that decode images.
    """
    _configure(tf.config.threading.set_intra_op_parallelism_threads, threads)
    _configure(tf.config.threading.set_inter_op_parallelism_threads, 1)


def _configure(setter: object, *values: object) -> None:
    """TensorFlow takes such a value only before its first operation in a process."""
    try:
        setter(*values)  # type: ignore[operator]
    except RuntimeError as error:
        _logger.warning("TensorFlow keeps the setting it began with: %s", error)
