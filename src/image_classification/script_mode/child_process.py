"""The user's script as a child process: SIGTERM goes to it, and its last words are kept."""

import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO

_KEPT_LINES = 200  # torchrun writes about 60 lines after the error of a script
_SECONDS_TO_READ = 2.0
_SHELLS = frozenset({"sh", "dash", "bash"})


class StoppedError(BaseException):
    """SIGTERM came before the script started; BaseException, so that no library catches it."""


class Child:
    """Runs pip, then the script; while it is entered, SIGTERM goes to the process that runs.

    As a context manager, it replaces the handler of SIGTERM. PID 1 of a container has no other.
    """

    def __init__(self) -> None:
        self.is_stopped = False
        self._is_starting = self._is_script = False
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Child":
        self._previous = signal.signal(signal.SIGTERM, self._stop)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGTERM, self._previous)

    def _stop(self, _: int, __: FrameType | None) -> None:
        self.is_stopped = True
        if self._is_starting:
            return
        if self._process is not None and self._process.poll() is None:
            _terminate(self._process.pid)
        elif not self._is_script:
            raise StoppedError

    def run(self, command: Sequence[str], folder: Path, is_script: bool) -> tuple[int, list[str]]:
        """Return the exit code and the last lines of standard error, which is also relayed.

        Raises:
            StoppedError: SIGTERM came before.
        """
        if self.is_stopped:
            raise StoppedError
        self._is_starting = True
        self._process = subprocess.Popen(  # noqa: S603 - it runs the user's own program
            command, cwd=folder, stderr=subprocess.PIPE, text=True, errors="backslashreplace"
        )
        self._is_script, self._is_starting = is_script, False
        if self.is_stopped:  # while it was starting
            _terminate(self._process.pid)
        assert self._process.stderr is not None
        lines: deque[str] = deque(maxlen=_KEPT_LINES)
        relay = threading.Thread(target=_relay, args=(self._process.stderr, lines), daemon=True)
        relay.start()
        code = self._process.wait()
        relay.join(_SECONDS_TO_READ)  # a process that the script leaves running holds the pipe
        return (code if code >= 0 else 128 - code), list(lines)


def _terminate(process: int) -> None:
    """Send SIGTERM to the script. A shell does not pass signals on, so its child gets it too.

    A shell that does not catch the signal is left to end by itself, after its child.
    """
    import psutil  # sagemaker-training needs it

    reached = [process]
    while reached:
        try:
            found = psutil.Process(reached.pop())
            children = found.children() if found.name() in _SHELLS else []
            if not children or _catches_sigterm(found.pid):
                found.send_signal(signal.SIGTERM)
        except psutil.NoSuchProcess:
            continue
        reached += [child.pid for child in children]


def _catches_sigterm(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:  # it has ended, or this is not Linux
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def _relay(stream: IO[str], lines: deque[str]) -> None:
    for line in stream:
        sys.stderr.write(line)
        sys.stderr.flush()
        if line.strip():
            lines.append(line.rstrip())
