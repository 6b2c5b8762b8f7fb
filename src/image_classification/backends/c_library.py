"""Settings of the C library in this process: frameworks and OpenMP read them there when loaded.

Python's own copy of the environment is `contract/environment`'s. Where the C library is not
glibc, the memory settings do nothing.
"""

import ctypes
from collections.abc import Mapping

_M_TRIM_THRESHOLD = -1  # <malloc.h>
_M_MMAP_MAX = -4
_NEVER = 2**31 - 1


def prepare_training() -> None:
    """Keep freed memory in the process and make idle OpenMP threads sleep soon.

    Measured with PyTorch and EfficientNet-Lite0 at 224 pixels on 2 shared cores, in milliseconds of
    CPU time per image:

    - Memory: a step frees and allocates hundreds of megabytes. By default glibc returns them to the
      kernel, which clears every 4 KB page again. Keeping them, in large pages, takes a training
      step of 32 images from 102 to 78 and one of the head alone from 45 to 21; resident memory
      grows from 3.1 to 4.0 GB.
    - Waiting: OpenMP's threads wait for each other in a busy loop of some milliseconds, which
      starves the threads that decode images. After 1000 rounds (microseconds) they sleep: a step of
      8 images keeps its 44 on idle cores, and next to a busy process takes 83–145 instead of
      113–1623. Sleeping at once (OMP_WAIT_POLICY=PASSIVE) takes 55–71 on idle cores.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, _NEVER)
    set_variables({"THP_MEM_ALLOC_ENABLE": "1", "GOMP_SPINCOUNT": "1000"})


def set_variables(variables: Mapping[str, str], replaces: bool = False) -> None:
    """Set environment variables; without `replaces` only those that have no value."""
    library = ctypes.CDLL(None)
    for name, value in variables.items():
        library.setenv(name.encode(), value.encode(), int(replaces))
