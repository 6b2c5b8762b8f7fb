"""How much memory this process may use and how much it does: Linux, by the kernel's own files."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_LIMIT_FILES = ("memory.max", "memory/memory.limit_in_bytes")  # cgroup v2, v1
_PAGE = os.sysconf("SC_PAGE_SIZE")


def limit() -> int:
    """Bytes this process may use: the least of the cgroup's limit and the machine's memory."""
    least = _PAGE * os.sysconf("SC_PHYS_PAGES")
    for name in _LIMIT_FILES:
        try:
            text = (_CGROUP / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():  # v2 says "max" for none
            least = min(least, int(text))
    return least


def used() -> int:
    """Resident bytes of this process; 0 where the kernel does not say (not Linux)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0
