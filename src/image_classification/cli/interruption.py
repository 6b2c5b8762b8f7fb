"""End a command at SIGINT or SIGTERM with one line and an exit code.

This module imports little: `main` uses it before its slow imports.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

_CLEANUP_SECONDS = 5.0
"""How long further signals are ignored; later ones interrupt a cleanup that hangs."""


class _Interrupted(KeyboardInterrupt):
    """A signal asks the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Handler:
    """Raises an exception at the first of several signals in a row."""

    def __init__(self) -> None:
        self._last: float | None = None

    def receive(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self._last is None or now - self._last > _CLEANUP_SECONDS:
            self._last = now
            raise _Interrupted(number)


def exit_code_of(run: Callable[[], int]) -> int:
    """Run a command and return its exit code: 130 after SIGINT, 143 after SIGTERM.

    A signal raises an exception in the main thread, so that the command can remove what is half
    written. More signals within 5 seconds are ignored. After an interruption, both signals stay
    ignored until the process ends: Python restores their default action before it has ended.
    """
    if threading.current_thread() is not threading.main_thread():
        return run()
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as it is for a job in the background
        numbers.append(signal.SIGINT)
    handler = _Handler()
    restored: dict[int, Any] = {n: signal.signal(n, handler.receive) for n in numbers}
    try:
        return run()
    except KeyboardInterrupt as stop:
        restored = dict.fromkeys(numbers, signal.SIG_IGN)
        number = stop.number if isinstance(stop, _Interrupted) else signal.SIGINT
        sys.stderr.write("terminated\n" if number == signal.SIGTERM else "interrupted\n")
        return 128 + number
    finally:
        for number, action in restored.items():
            signal.signal(number, action)


def exit_code_of_server(run: Callable[[], int]) -> int:
    """Run a server and return its exit code: 0 after a signal, even before it handles signals.

    SIGHUP, SIGUSR1 and SIGUSR2 are ignored. Once the server ignores SIGTERM, it has ended, and all
    signals stay ignored, as after an interruption.
    """
    if threading.current_thread() is not threading.main_thread():
        return run()
    actions: dict[int, Any] = dict.fromkeys((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT), _end)
    actions |= dict.fromkeys((signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2), signal.SIG_IGN)
    restored = {number: signal.signal(number, action) for number, action in actions.items()}
    try:
        return run()
    finally:
        if signal.getsignal(signal.SIGTERM) != signal.SIG_IGN:
            for number, action in restored.items():
                signal.signal(number, action)


def _end(*_: object) -> None:
    # Nothing is raised: Python drops an exception that reaches the callback of an import.
    os._exit(0)
