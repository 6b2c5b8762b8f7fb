"""PyTorch's errors about memory as Python's MemoryError, which the job reports as what it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_CPU_ALLOCATOR = ("DefaultCPUAllocator", "not enough memory")  # a RuntimeError without a type


@contextmanager
def memory_errors(device: torch.device) -> Iterator[None]:
    """While the block runs, PyTorch's errors about memory become a MemoryError.

    Raises:
        MemoryError: the device's memory or the host's does not hold what the block needs.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(f"on {device}: {_first_sentences(error)}") from error
    except RuntimeError as error:
        if not any(text in str(error) for text in _CPU_ALLOCATOR):
            raise
        raise MemoryError(f"on {device}: {_first_sentences(error)}") from error


def _first_sentences(error: Exception) -> str:
    """What was asked for and what was there, without advice about PyTorch's own settings."""
    return ". ".join(str(error).splitlines()[0].split(". ")[:3])
