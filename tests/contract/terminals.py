"""Commands whose output is a terminal, and what a person sees there."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_COLORS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Terminal:
    """A process on a terminal, and all that it wrote."""

    process: subprocess.Popen[bytes]
    master: int
    raw: str = ""

    def read_to(self, text: str = "") -> str:
        """Read until a text was written, or by default to the end."""
        while not text or text not in self.raw:
            assert select.select([self.master], [], [], 60)[0], f"60 s of silence:\n{self.raw}"
            try:
                part = os.read(self.master, 65536)
            except OSError:  # the process has ended
                part = b""
            if not part:
                assert not text, f"the process ended without {text!r}:\n{self.raw}"
                break
            self.raw += part.decode("utf-8", "backslashreplace")
        return self.raw

    def end(self) -> int:
        """Read to the end of the process; return its exit code."""
        self.read_to()
        return self.process.wait(60)

    @property
    def lines(self) -> list[str]:
        """What stands on the terminal, without colors: of a row that moves, its last state."""
        text = _COLORS.sub("", self.raw).replace("\r\n", "\n")
        return [re.split(r"\r|\x1b\[2K|\x1b\[1A", line)[-1] for line in text.split("\n")]

    @property
    def drawn(self) -> list[str]:
        """Every state of the rows that move, without colors."""
        return re.split(r"\r\n|\r|\x1b\[2K|\x1b\[1A", _COLORS.sub("", self.raw))


@contextmanager
def on_terminal(
    *arguments: str | Path, folder: Path, columns: int = 80, **environment: str
) -> Iterator[Terminal]:
    """Run `image-classification` on a terminal of some columns and 40 rows."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "image_classification", *map(str, arguments)],
        cwd=folder,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=os.environ
        | {"IMAGE_CLASSIFICATION_CPU_COUNT": "1", "TERM": "xterm", "LC_ALL": "C.UTF-8"}
        | environment,
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(master)
