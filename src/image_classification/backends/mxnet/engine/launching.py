"""One process for each device of this host: MXNet's launcher is not in its package, ours is."""

from __future__ import annotations

import mxnet as mx

from image_classification.backends.local_processes import launch

__all__ = ["device_count", "launch"]


def device_count() -> int:
    """The GPUs of this machine that MXNet may use: none with its builds from PyPI."""
    return int(mx.context.num_gpus())
