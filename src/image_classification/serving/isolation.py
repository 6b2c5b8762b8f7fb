"""Child processes with limits, for code that handles hostile bytes; a new one replaces a dead one.

A `Forkserver` is forked while the server still has one thread, and keeps one; it forks the children
that the server's threads ask for. A child runs one function: bytes in, bytes out, over a socket.
The kernel ends a child at its memory and CPU limits, even where C code holds the interpreter lock,
and the forkserver kills it at its deadline. Only the forkserver signals and reaps children, so no
signal reaches another process. Children ignore signals to the process group and run as long as the
server; when the server ends, all of them end.

A child that has read hostile bytes is not trusted: its answer is bytes of limited size or the name
and text of an error of an expected class. Nothing is unpickled. That is one reason not to use
multiprocessing's forkserver. The other is that a fork of the server shares its pages, while
multiprocessing starts a fresh interpreter, which imports the program again, and a process that
tracks resources (measured: 0.8 s to the first child and 20 MB, against 0.1 s and 3 MB).
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from image_classification import errors
from image_classification.serving import forkserver
from image_classification.serving.forkserver import Function

IS_SUPPORTED = sys.platform == "linux" and Path("/proc/self/fd").is_dir()
"""Whether the kernel can limit a child as this module needs it."""

_WAIT_SECONDS = 0.05  # a call that waits no longer does not call `on_wait`
_EXIT_SECONDS = 1.0  # for a child that has closed its socket to end by itself
_END_SECONDS = 10.0  # for the forkserver to end a child and report how: it does nothing else


@dataclass(frozen=True)
class Limits:
    """What one call can take.

    Attributes:
        memory: bytes of private memory, beyond what the child has at the start and the message.
        cpu_seconds: CPU time of all threads of the child.
        wall_seconds: from the start of the call to its answer.
        answer: bytes of the answer.
    """

    memory: int
    cpu_seconds: float
    wall_seconds: float
    answer: int


class Process:
    """A child process that answers messages with one function, one call at a time.

    Attributes:
        memory_kept: bytes of private memory that the child reported after its last answer, beyond
            what it had at its start. The next call can take its limit on top of them, so end a
            child that keeps too much.
    """

    def __init__(self, requests: socket.socket, name: str) -> None:
        try:
            self._channel, channel = socket.socketpair()
        except OSError as error:
            raise _no_process(error) from error
        try:
            # The forkserver writes the child's id and wait status there; its end of file kills it.
            self._lifeline, lifeline = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            self._channel.close()
            channel.close()
            raise _no_process(error) from error
        self._pid: int | None = None
        self._is_ended = False
        self.memory_kept = 0
        try:
            with channel, lifeline:
                fds = [channel.fileno(), lifeline.fileno()]
                socket.send_fds(requests, [name.encode()], fds)
        except OSError as error:
            self.end()
            if error.errno not in (errno.EPIPE, errno.ECONNRESET, errno.EBADF):
                raise _no_process(error) from error
            raise errors.ForkserverError(f"no process can be started: {error}") from error

    @property
    def pid(self) -> int:
        """The child's process id; a ForkserverError or a NoProcessError if there is none."""
        if self._pid is None:
            found = self._read_lifeline()
            if found is None or found < 0:
                self.end()
            if found is None:
                raise errors.ForkserverError("no process can be started: the forkserver has ended")
            if found < 0:
                raise errors.NoProcessError(f"no process can be started: {os.strerror(-found)}")
            self._pid = found
        return self._pid

    @property
    def is_ended(self) -> bool:
        """Whether it accepts no more calls."""
        return self._is_ended

    def was_killed(self) -> bool:
        """Return whether the child has ended between two calls, killed by another process."""
        self._channel.settimeout(0)
        try:
            return not self._channel.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def call(
        self,
        argument: bytes,
        payload: bytes | memoryview,
        limits: Limits,
        expected: type[errors.ImageClassificationError] = errors.UserError,
        on_wait: Callable[[], object] | None = None,
    ) -> bytearray:
        """Return the answer of the child's function to `argument` and `payload`.

        `on_wait` is called once if there is no answer after 50 ms. After any other error than one
        of `expected` the process has ended: start another one.

        Raises:
            expected: what the function raised, a subclass by its name and text.
            MemoryLimitError, CpuLimitError, TimeLimitError: a limit was reached.
            ProcessError: the child died, or its answer is invalid; the message says how.
            NoProcessError: the kernel refuses another process.
            ForkserverError: the forkserver has ended.
        """
        deadline = time.monotonic() + limits.wall_seconds
        try:
            kind, answer = self._exchange(argument, payload, limits, deadline, on_wait)
        except TimeoutError:
            self.end()
            raise errors.TimeLimitError(f"took more than {limits.wall_seconds:g} s") from None
        except (EOFError, ConnectionError):
            raise self._why_ended(limits) from None
        except BaseException:
            self.end()
            raise
        if kind == forkserver.DONE:
            return answer
        text = answer.decode("utf-8", "replace")
        if kind == forkserver.ERROR:
            name, _, reason = text.partition("\n")
            found = getattr(errors, name, None)
            if isinstance(found, type) and issubclass(found, expected):
                raise found(reason)
        self.end()
        if kind == forkserver.NO_MEMORY:
            raise _out_of_memory(limits)
        raise errors.ProcessError(f"failed: {text!r}")

    def end(self) -> None:
        """End the child, if it still runs, and wait until its memory is free."""
        if not self._is_ended:
            self._is_ended = True
            with suppress(OSError):
                self._lifeline.shutdown(socket.SHUT_WR)
                while self._read_lifeline() is not None:
                    pass
            self._lifeline.close()
            self._channel.close()

    def _exchange(
        self,
        argument: bytes,
        payload: bytes | memoryview,
        limits: Limits,
        deadline: float,
        on_wait: Callable[[], object] | None,
    ) -> tuple[bytes, bytearray]:
        payload = memoryview(payload).cast("B")
        sizes = len(argument), len(payload)
        head = forkserver.REQUEST.pack(*sizes, limits.memory, limits.cpu_seconds)
        self._channel.settimeout(_left(deadline))
        forkserver.send_together(self._channel, head + argument, payload)
        if on_wait is not None and not self._has_answer_within(min(_WAIT_SECONDS, _left(deadline))):
            on_wait()
        kind, size, self.memory_kept = forkserver.ANSWER.unpack(
            self._receive(forkserver.ANSWER.size, deadline)
        )
        if size > (limits.answer if kind == forkserver.DONE else forkserver.MOST_TEXT):
            raise errors.ProcessError(
                f"answered with {size} bytes, expected at most {limits.answer}"
            )
        return kind, self._receive(size, deadline)

    def _has_answer_within(self, seconds: float) -> bool:
        """Wait for the answer to begin, or for the end of the child."""
        self._channel.settimeout(seconds)
        try:
            self._channel.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return False
        return True

    def _receive(self, size: int, deadline: float) -> bytearray:
        data = bytearray(size)
        rest = memoryview(data)
        while rest:
            self._channel.settimeout(_left(deadline))
            count = self._channel.recv_into(rest)
            if not count:
                raise EOFError
            rest = rest[count:]
        return data

    def _why_ended(self, limits: Limits) -> errors.ImageClassificationError:
        """Return the error that says how the child ended by itself."""
        try:
            pid = self.pid
        except (errors.ForkserverError, errors.NoProcessError) as error:
            return error
        status, is_killed = self._read_lifeline(_EXIT_SECONDS), False
        if status is None:  # it has closed its socket only
            is_killed = True
            with suppress(OSError):
                self._lifeline.shutdown(socket.SHUT_WR)
            status = self._read_lifeline()
        self.end()
        if status is None:
            return errors.ForkserverError(f"the forkserver has ended, and process {pid} with it")
        code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGPROF:
            return errors.CpuLimitError(f"took more than {limits.cpu_seconds:g} s of CPU time")
        if code == forkserver.CANNOT_START:
            return errors.NoProcessError("no process can be started: it has no files or no memory")
        if code == -signal.SIGKILL and is_killed:
            return errors.ProcessError("hung up without an answer")
        if code == -signal.SIGKILL:  # not by us: the kernel's
            return errors.NoMemoryLeftError("was killed, probably because no memory was left")
        how = f"signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"
        return errors.ProcessError(f"ended with {how}")

    def _read_lifeline(self, seconds: float = _END_SECONDS) -> int | None:
        """Return the number that comes next, or None if the forkserver has ended or said all."""
        self._lifeline.settimeout(seconds)
        try:
            data = self._lifeline.recv(forkserver.STATUS.size)
        except OSError:
            return None
        return int(forkserver.STATUS.unpack(data)[0]) if data else None


def _no_process(error: OSError) -> errors.NoProcessError:
    return errors.NoProcessError(f"no process can be started: {error.strerror or error}")


def _out_of_memory(limits: Limits) -> errors.MemoryLimitError:
    return errors.MemoryLimitError(f"took more than {limits.memory / 1e6:.0f} MB of memory")


def _left(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


class Forkserver:
    """The process that forks the children. Create it in a process that has a single thread.

    Args:
        functions: what children can run, by name. Each child has its own copy of everything that
            they refer to, as it was when the forkserver was made or `preload` left it.
        preload: called in the forkserver before its first fork, for imports that children share.
    """

    def __init__(
        self, functions: Mapping[str, Function], preload: Callable[[], object] | None = None
    ) -> None:
        self._names = frozenset(functions)
        self._requests, requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        self.pid = os.fork()
        if not self.pid:
            forkserver.run(requests, functions, parent, preload)
        requests.close()

    def start(self, name: str) -> Process:
        """Return a new child that runs the function of this name; from any thread.

        It does not wait for the child, which takes the first message when it is there.

        Raises:
            ForkserverError: the forkserver has ended.
        """
        if name not in self._names:
            raise KeyError(f"expected one of {sorted(self._names)}, got {name!r}")
        return Process(self._requests, name)

    @property
    def has_ended(self) -> bool:
        """Whether it can start no further child; looks without waiting."""
        try:
            return not self._requests.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        """End the forkserver and its children, and wait for that."""
        self._requests.close()
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
