"""Log lines to standard output and error, which never wait for their reader.

A pipe that nobody reads is full after 64 KiB. A write would then block its thread forever and,
because it holds the log's lock, all others. So lines that do not fit wait here, up to a limit;
further ones are counted, and a later line gives their number. Each line is written at once if there
is room, so that a crash loses none.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import socket
import stat
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TextIO

_MOST_LINES = 4000  # that wait
_LONGEST = 2**18  # characters of a line: CloudWatch takes no longer ones
_END_SECONDS = 1.0  # for the reader to take the rest when the process ends
_LOOK_SECONDS = 0.01
_ROOM = 4 * select.PIPE_BUF  # of a pipe: others may write at the same moment
_OWN_FILE = "/proc/self/fd/{}"
_FIONREAD, _F_GETPIPE_SZ = 0x541B, 1032  # Linux

_outputs: weakref.WeakSet[LogOutput] = weakref.WeakSet()


class LogOutput:
    """Where the lines of a log go; from any thread.

    Args:
        stream: standard output or error; one without a descriptor is written to directly.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._backlog: deque[bytes] = deque()
        self._lost, self._end = 0, float("inf")
        self._lock = threading.RLock()
        self._write = _writer_of(stream)
        _outputs.add(self)

    def write(self, line: str) -> None:
        """Write a line without its end, or let it wait, or count it as lost."""
        data = line[:_LONGEST].encode("utf-8", "backslashreplace") + b"\n"
        with self._lock:
            self.send_waiting()
            if len(self._backlog) >= _MOST_LINES:
                self._lost += 1
                return
            self._backlog.append(data)
            self.send_waiting()

    def send_waiting(self) -> None:
        """Write the lines that wait, as far as there is room."""
        with self._lock:
            while self._backlog:
                try:
                    sent = self._write(self._backlog[0])
                except BlockingIOError:
                    return
                except (OSError, ValueError):  # nobody can read it any more, or the disk is full
                    self._lost += 1
                    self._backlog.popleft()
                    continue
                if sent < len(self._backlog[0]):
                    self._backlog[0] = self._backlog[0][sent:]
                    continue
                self._backlog.popleft()
                if self._lost and len(self._backlog) < _MOST_LINES:
                    text = f"{self._lost} log lines were lost, because nobody read the log in time"
                    self._backlog.append(f"{text}\n".encode())
                    self._lost = 0

    def drain(self) -> None:
        """Wait until all lines are written, for a second at most in all calls together."""
        self._end = min(self._end, time.monotonic() + _END_SECONDS)
        self.send_waiting()
        while self._backlog and time.monotonic() < self._end:
            time.sleep(_LOOK_SECONDS)
            self.send_waiting()

    def to_standard_error(self) -> None:
        """Write to the descriptor 2 from now on."""
        self._write = partial(os.write, 2)

    def forget(self) -> None:
        """Leave the lines that wait to the parent, in a process that has just been forked."""
        self._lock = threading.RLock()  # a thread that does not exist here may hold it
        self._backlog.clear()
        self._lost = 0


class LogHandler(logging.Handler):
    """Writes records to a `LogOutput`; an answer never fails because its log line does."""

    def __init__(self, output: LogOutput, formatter: logging.Formatter | None = None) -> None:
        super().__init__()
        self._output = output
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            self._output.write(self.format(record))
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # logging's name
        """Write the message of a record that cannot be formatted."""
        with suppress(Exception):  # no memory
            self._output.write(f"a log line cannot be formatted: {record.msg!r:.500}")

    def flush(self) -> None:
        """Write all lines at the end of the process."""
        self._output.drain()


def send_waiting_lines() -> None:
    """Write the lines that wait in all outputs of this process; now and then."""
    for output in list(_outputs):
        output.send_waiting()


def _forget_waiting_lines() -> None:
    for output in list(_outputs):
        output.forget()


os.register_at_fork(after_in_child=_forget_waiting_lines)


def use_standard_error() -> None:
    """Write further lines to standard error, in a process whose other files have been closed."""
    for output in list(_outputs):
        output.forget()
        output.to_standard_error()


class _Descriptor:
    """A file to which a write never waits, as far as the system can tell."""

    _fd = -1
    _socket: socket.socket | None = None

    def __init__(self, stream: TextIO) -> None:
        # A descriptor of our own, because the user's code may close the other one.
        self._fd = os.dup(stream.fileno())
        mode = os.fstat(self._fd).st_mode
        self._may_wait = False
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=self._fd)
        elif not stat.S_ISREG(mode):
            try:
                # The flag is of the opened file, which other processes share: so open it again.
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY
                own = os.open(_OWN_FILE.format(self._fd), flags)
            except OSError:  # it belongs to another user, or this is not Linux
                self._may_wait = True
            else:
                os.close(self._fd)
                self._fd = own

    def __call__(self, data: bytes) -> int:
        """Write as much as there is room for; return how many bytes; BlockingIOError if none."""
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        if self._may_wait:
            data = data[: select.PIPE_BUF]
            if not self._has_room():
                raise BlockingIOError
        return os.write(self._fd, data)

    def __del__(self) -> None:
        if self._socket is not None:
            self._socket.close()
        elif self._fd >= 0:
            os.close(self._fd)

    def _has_room(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if not poll.poll(0):
            return False
        try:
            size = fcntl.fcntl(self._fd, _F_GETPIPE_SZ)
            held = fcntl.ioctl(self._fd, _FIONREAD, bytes(4))
        except OSError:  # no pipe
            return True
        return size - int.from_bytes(held, sys.byteorder) >= _ROOM


def _writer_of(stream: TextIO | None) -> Callable[[bytes], int]:
    """Return what writes some bytes and returns how many, without waiting."""
    try:
        if stream is not None:
            return _Descriptor(stream)
    except (OSError, ValueError):  # in memory, or closed
        pass
    return partial(_write_text, stream)


def _write_text(stream: TextIO | None, data: bytes) -> int:
    if stream is not None:
        stream.write(data.decode())
        stream.flush()
    return len(data)
