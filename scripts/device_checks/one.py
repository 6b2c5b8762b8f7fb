"""Run one check in this process: `python -m device_checks.one PROGRAM` and the options below.

It ends with everything that it has started if its parent dies, and tells where it hangs shortly
before its time is up.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from device_checks import processes
from device_checks.rows import Rows

_SECONDS_TO_TELL = 2.0  # where it hangs, before its time is up

Size = TypeVar("Size")


@dataclass(frozen=True)
class Given:
    """What a check can use.

    Attributes:
        cpu: whether it runs on the CPU, with tiny sizes.
        work: an empty folder of its own.
        shared: a folder of all checks.
        photographs: the user's, or None.
        rows: where it writes what it finds.
    """

    cpu: bool
    work: Path
    shared: Path
    photographs: Path | None
    rows: Rows

    def size(self, on_gpu: Size, on_cpu: Size) -> Size:
        """Return a size for a GPU, or the tiny one."""
        return on_cpu if self.cpu else on_gpu


def main() -> int:
    parser = argparse.ArgumentParser(prog="device_checks.one", description=__doc__)
    parser.add_argument("program", help="a module with a function `run`")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--rows", type=Path, required=True, help="file to append to")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--seconds", type=float, required=True, help="until it is killed")
    options = parser.parse_args()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    told = max(options.seconds - _SECONDS_TO_TELL, options.seconds / 2)
    faulthandler.dump_traceback_later(told)
    rows = Rows(options.rows, judges_speed=not options.cpu)
    options.work.mkdir(parents=True)
    program = importlib.import_module(options.program)
    program.run(Given(options.cpu, options.work, options.shared, options.photos, rows))
    return 0


def _end_with_parent() -> None:
    """Wait for the end of standard input, which the parent holds open while it lives."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    processes.end_descendants(os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
