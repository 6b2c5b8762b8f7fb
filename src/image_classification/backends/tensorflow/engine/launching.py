"""One process for each device of this host: TensorFlow has no launcher, so ours starts them."""

from __future__ import annotations

import tensorflow as tf

from image_classification.backends.local_processes import launch

__all__ = ["device_count", "launch"]


def device_count() -> int:
    """The GPUs of this machine that this process may use; nothing is computed on them yet."""
    return len(tf.config.list_physical_devices("GPU"))
