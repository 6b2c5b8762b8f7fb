"""MXNet's errors about memory as Python's MemoryError, which the job reports as what it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mxnet as mx

# An MXNetError has no type of its own for it: of the host (cpu_device_storage.h), of a GPU
# (pooled_storage_manager.h), and of the C++ library.
_SAID = ("Failed to allocate CPU Memory", "out of memory", "bad_alloc")


@contextmanager
def memory_errors() -> Iterator[None]:
    """While the block or function runs, MXNet's errors about memory become a MemoryError.

    MXNet works in the background: what fails in a step may be said where its numbers are fetched.

    Raises:
        MemoryError: the device's memory or the host's does not hold what the block needs.
    """
    try:
        yield
    except mx.base.MXNetError as error:
        lines = str(error).strip().splitlines() or [""]
        if not any(text in str(error) for text in _SAID):
            raise
        raise MemoryError(lines[-1].removeprefix("MXNetError: ")) from error
