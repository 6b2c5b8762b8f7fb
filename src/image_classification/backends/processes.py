"""Start the processes that train together on a host, and wait for those of other hosts."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

_SECONDS_TO_STOP = 115.0  # after SIGTERM, to write the artifact; the platform kills after 120
_SECONDS_TO_FAIL = 30.0  # for the other processes to write the reason when one has failed
_PAUSE_SECONDS = 0.2


def launch(arguments: Sequence[str], environments: Sequence[Mapping[str, str]]) -> int:
    """See `base.Launcher`."""
    with _stop_signals() as received:
        processes = [_start(arguments, added) for added in environments]
        try:
            while _are_running(processes) and not received:
                if any(process.poll() for process in processes):  # one has failed
                    break
                time.sleep(_PAUSE_SECONDS)
            if received:
                _end(processes, received[0], _SECONDS_TO_STOP)
            else:
                _end(processes, signal.SIGTERM, _SECONDS_TO_FAIL)
        finally:
            for process in processes:
                process.kill()
                process.wait()
    codes = [process.returncode for process in processes]
    return max(codes) if max(codes) > 0 else int(any(codes))


def _start(arguments: Sequence[str], added: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a process in its own session: a terminal then interrupts only this process.

    `env` adds the variables, because only `contract/environment` reads this process's environment.
    """
    settings = [f"{name}={value}" for name, value in added.items()]
    return subprocess.Popen(  # noqa: S603 - our own program
        ["/usr/bin/env", *settings, sys.executable, *arguments], start_new_session=True
    )


def _are_running(processes: Sequence[subprocess.Popen[bytes]]) -> bool:
    return any(process.poll() is None for process in processes)


def _end(processes: Sequence[subprocess.Popen[bytes]], number: int, seconds: float) -> None:
    """Send a signal to all and wait for their end, at most `seconds`."""
    for process in processes:
        process.send_signal(number)
    deadline = time.monotonic() + seconds
    while _are_running(processes) and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Yield a list that receives the numbers of signals that ask this process to end."""
    received: list[int] = []

    def receive(number: int, _: FrameType | None) -> None:
        received.append(number)

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    previous = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


_ATTEMPT_SECONDS = 5.0


def await_listeners(addresses: Sequence[str]) -> None:
    """Wait without a limit until something listens at each `host:port`.

    A host may be slow to fetch its data; `training/lifeline` detects lost ones. The frameworks' own
    waits ignore SIGTERM, and their timeouts end a job whose other host is alive.
    """
    for address in addresses:
        host, _, port = address.rpartition(":")
        while not _is_listening(host, int(port)):
            time.sleep(_PAUSE_SECONDS)


def _is_listening(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=_ATTEMPT_SECONDS).close()
    except OSError:  # also a name that does not resolve yet
        return False
    return True
