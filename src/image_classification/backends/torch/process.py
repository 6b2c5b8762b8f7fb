"""What must be set in a process before PyTorch is loaded, for the sake of speed on CPUs.

Measured on 2 cores with EfficientNet-Lite0 at 224 pixels, in milliseconds an image:

- memory: a step frees and allocates hundreds of megabytes; by default glibc returns them to the
  kernel, which clears every 4 KB page again. Kept, in large pages: a training step of 32 images
  82 → 47, a prediction 31 → 10, for 28 % more resident memory.
- waiting: OpenMP's threads wait in a busy loop for each other and so starve whatever else wants the
  cores, the threads that decode images above all. Asleep instead, beside one busy process: a
  training step of 8 images 804–1231 → 73–285, and 383–485 → 73–84 of CPU time.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1  # <malloc.h>
_M_MMAP_MAX = -4
_NEVER = 2**31 - 1


def prepare() -> None:
    """Set both; does nothing where the C library is not glibc.

    The variables are set in the C library, which is where OpenMP and PyTorch look for them; one
    that has a value keeps it.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return
    library.mallopt(_M_MMAP_MAX, 0)
    library.mallopt(_M_TRIM_THRESHOLD, _NEVER)
    for name, value in ((b"THP_MEM_ALLOC_ENABLE", b"1"), (b"OMP_WAIT_POLICY", b"PASSIVE")):
        library.setenv(name, value, 0)
