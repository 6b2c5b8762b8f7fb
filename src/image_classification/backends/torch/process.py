"""What must be set in a process before PyTorch is loaded, for the sake of speed on CPUs.

Measured on 2 shared cores with EfficientNet-Lite0 at 224 pixels, in milliseconds an image:

- memory: a step frees and allocates hundreds of megabytes; by default glibc returns them to the
  kernel, which clears every 4 KB page again. Kept, in large pages, in CPU time: a training step of
  32 images 102 → 78, one of the head alone 45 → 21; resident memory 3.1 → 4.0 GB.
- waiting: OpenMP's threads wait for each other in a busy loop of some milliseconds and so starve
  whatever else wants the cores, the threads that decode images above all. Some microseconds are
  enough: a training step of 8 images keeps its 44 on idle cores; beside a busy process it takes
  83–145 instead of 113–1623. Asleep at once (OMP_WAIT_POLICY=PASSIVE) is as good there, but takes
  55–71 on idle cores.
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
    for name, value in ((b"THP_MEM_ALLOC_ENABLE", b"1"), (b"GOMP_SPINCOUNT", b"1000")):
        library.setenv(name, value, 0)
