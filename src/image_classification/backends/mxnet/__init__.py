"""The MXNet backend. Only `catalog` and `pretrained_state` can be used without MXNet."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD = -1  # <malloc.h>
_M_MMAP_MAX = -4
_NEVER = 2**31 - 1


def prepare(threads: int) -> None:
    """Set all for a process of so many threads; does nothing where the C library is not glibc.

    The variables are set in the C library, which is where OpenMP and MXNet look for them; but for
    the number of threads one that has a value keeps it.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return
    library.mallopt(_M_MMAP_MAX, 0)
    library.mallopt(_M_TRIM_THRESHOLD, _NEVER)
    variables = {
        "THP_MEM_ALLOC_ENABLE": "1",
        "GOMP_SPINCOUNT": "1000",
        "MXNET_CPU_WORKER_NTHREADS": "1",
    }
    for name, value in variables.items():
        library.setenv(name.encode(), value.encode(), 0)
    library.setenv(b"OMP_NUM_THREADS", str(threads).encode(), 1)
