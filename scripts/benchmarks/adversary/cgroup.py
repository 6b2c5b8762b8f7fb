"""A cgroup of our own with a memory limit, where root may make one (Linux's cgroup v1 and v2)."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_NAMES = {  # version → limit, use, peak, number of kills
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.max_usage_in_bytes",
        "memory.oom_control"),
    2: ("memory.max", "memory.current", "memory.peak", "memory.events"),
}  # fmt: skip


class MemoryCgroup:
    """A cgroup whose processes may use `limit` bytes together.

    Raises:
        OSError: this user, or this kernel, cannot make one; the message says what failed.
    """

    def __init__(self, limit: int) -> None:
        version, parent = _parent()
        self._limit, self._use, self._peak, self._kills = _NAMES[version]
        self.folder = parent / f"attack-benchmark-{os.getpid()}-{time.monotonic_ns()}"
        self.folder.mkdir()
        try:
            (self.folder / self._limit).write_text(str(limit))
            self._peak_file = (self.folder / self._peak).open("r+")
        except OSError:
            self.folder.rmdir()
            raise
        self.entry = self.folder / "cgroup.procs"

    def used(self) -> int:
        """Return the bytes in use."""
        return int((self.folder / self._use).read_text())

    def forget_peak(self) -> None:
        """Begin a new peak; a v2 kernel before 6.12 cannot, and then it is that of all time."""
        with contextlib.suppress(OSError):
            self._peak_file.seek(0)
            self._peak_file.write("0")
            self._peak_file.flush()

    def peak(self) -> int:
        """Return the most bytes in use since `forget_peak`."""
        self._peak_file.seek(0)
        return int(self._peak_file.read())

    def kills(self) -> int:
        """Return how many processes the kernel killed because of the limit."""
        text = (self.folder / self._kills).read_text()
        found = re.search(r"^oom_kill (\d+)", text, re.MULTILINE)
        return int(found[1]) if found else 0

    def close(self) -> None:
        """Remove it once its processes have ended."""
        self._peak_file.close()
        for _ in range(100):
            try:
                self.folder.rmdir()
                return
            except OSError:
                time.sleep(0.05)


def _parent() -> tuple[int, Path]:
    """Return (version, this process's own cgroup of memory)."""
    if (_ROOT / "cgroup.controllers").exists():
        if "memory" not in (_ROOT / "cgroup.subtree_control").read_text().split():
            (_ROOT / "cgroup.subtree_control").write_text("+memory")
        return 2, _ROOT
    if not (_ROOT / "memory").is_dir():
        raise OSError(f"{_ROOT} has no controller of memory")
    return 1, _ROOT / "memory"
