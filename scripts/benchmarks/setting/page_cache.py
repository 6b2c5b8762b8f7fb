"""Drop files from memory, so that a pass reads them from the disk."""

from __future__ import annotations

import os
from pathlib import Path


def forget(folder: Path) -> None:
    """Make the kernel drop all files in a folder from its page cache.

    It keeps what a process has mapped, so nobody may have them open. Only this machine forgets: the
    disk, and the host of a virtual one, may have a cache of their own.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.fdatasync(file)  # pages that are not written yet would stay
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)
