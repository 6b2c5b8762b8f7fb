"""What must be set in a process before TensorFlow is loaded.

Less than PyTorch needs. TensorFlow computes convolutions in its own pool of threads, not OpenMP's,
so OpenMP's settings are without effect on it and nothing spins: `engine/device` gives the pool the
number of threads of the world, for which the core has read OMP_NUM_THREADS. Kept memory does not
pay either: a training step of 32 images with EfficientNet-Lite0 took 63 CPU-ms an image with
glibc's defaults and 62 to 70 with what the PyTorch backend sets (2 shared cores).
"""

from __future__ import annotations

import ctypes


def prepare() -> None:
    """Keep a dozen lines about this machine's processor out of the log, unless they are asked for.

    The variable is set in the C library, which is where TensorFlow looks for it.
    """
    library = ctypes.CDLL(None)
    library.setenv(b"TF_CPP_MIN_LOG_LEVEL", b"2", 0)
