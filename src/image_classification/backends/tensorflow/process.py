"""What must be set in a process before TensorFlow is loaded.

Less than PyTorch needs. TensorFlow computes convolutions in its own pool of threads, not OpenMP's,
so OMP_NUM_THREADS is without effect and nothing spins: `engine/device` gives the pool the number of
threads of the world. Kept memory does not pay either: a training step of 32 images with
EfficientNet-Lite0 took 63 CPU-ms an image with glibc's defaults and 62 to 70 with what the PyTorch
backend sets (2 shared cores).
"""

from __future__ import annotations

import os

_VARIABLES = {
    "TF_CPP_MIN_LOG_LEVEL": "2",  # else a dozen lines about this machine's processor come first
    "KERAS_BACKEND": "tensorflow",  # whatever a keras.json of this machine says
}


def prepare() -> None:
    """Set them; one that has a value keeps it."""
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
