"""The PyTorch backend. Only `catalog` can be imported without PyTorch."""

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


prepare()  # here, because every module of this folder runs it before it imports PyTorch
