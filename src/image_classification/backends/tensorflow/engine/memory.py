"""TensorFlow's error about memory as Python's MemoryError, which the job reports as what it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf


@contextmanager
def memory_errors() -> Iterator[None]:
    """While the block or function runs, TensorFlow's error about memory becomes a MemoryError.

    Raises:
        MemoryError: the device's memory or the host's does not hold what the block needs.
    """
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        # Without the node it happened in and advice about TensorFlow's own settings.
        reason = str(error.message).splitlines()[0].rpartition("}} ")[2]
        raise MemoryError(reason.partition(" [Op:")[0]) from error
