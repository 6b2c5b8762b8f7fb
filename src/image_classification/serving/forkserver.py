"""The code of the forkserver and of the children that it forks; `isolation` is the server's side.

The forkserver has one thread, so a fork of it is whole. It forks a child for each message on its
socket, kills the child when its lifeline is shut down or closed, and writes the wait status there.
A child answers frames: a head with sizes and the limits of this call, then argument and payload. It
arms its limits before it runs the function, and the kernel ends it there, whatever code it is in.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import selectors
import signal
import socket
import struct
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NoReturn

from image_classification import errors
from image_classification.serving.log_output import use_standard_error

Function = Callable[[bytes, bytes], "bytes | memoryview"]
"""What a child runs: an argument and a payload, which may be large → the answer."""

REQUEST = struct.Struct("!QQQd")
"""Head of a message: bytes of argument, of payload, of memory; seconds of CPU time."""
ANSWER = struct.Struct("!cQQ")
"""Head of an answer: kind, its bytes, bytes of private memory that the child keeps."""
STATUS = struct.Struct("!i")
"""On a lifeline: the child's id, or a negative errno; then its wait status."""
DONE, ERROR, FAILED, NO_MEMORY = b"A", b"E", b"F", b"M"
MOST_TEXT = 4096  # bytes of an error
CANNOT_START = 71
"""Exit code of a child that the system did not let start (EX_OSERR)."""

_MOST_TOGETHER = 64 << 10  # bytes
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_FIRST_TO_KILL = b"1000"  # oom_score_adj: the kernel kills such a process before any other
_IGNORED = ("SIGINT", "SIGTERM", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGALRM")


def run(
    requests: socket.socket,
    functions: Mapping[str, Function],
    parent: int,
    preload: Callable[[], object] | None,
) -> NoReturn:
    """Run the forkserver of the process `parent` until that ends; called right after the fork."""
    _run_to_the_end(lambda: _Forkserver(requests, functions).run(parent, preload))


def _run_to_the_end(work: Callable[[], object]) -> NoReturn:
    """Run what a forked process does, and end it without the parent's cleaning up."""
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        # Not sys.exit: exit handlers and frames are the parent's, and ONNX Runtime's abort here.
        os._exit(code)


class _Forkserver:
    def __init__(self, requests: socket.socket, functions: Mapping[str, Function]) -> None:
        self._requests, self._functions = requests, functions
        self._lifelines: dict[int, socket.socket] = {}  # of each child that is not reaped
        self._prctl = ctypes.CDLL(None).prctl

    def run(self, parent: int, preload: Callable[[], object] | None) -> None:
        self._become("forkserver", parent, {self._requests.fileno()})
        if preload is not None:
            preload()
        gc.collect()
        gc.disable()
        gc.freeze()  # the collector would write to pages that are shared with the server
        awake, self._wake = socket.socketpair()
        for end in (awake, self._wake):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(awake, selectors.EVENT_READ)
        self._selector.register(self._requests, selectors.EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._requests:
                    if not self._fork_one():
                        return
                elif key.fileobj is awake:
                    awake.recv(4096)
                elif key.data in self._lifelines:  # the caller asks for it, or has ended
                    self._selector.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)  # ours, because it is not reaped
            self._reap()

    def _fork_one(self) -> bool:
        """Fork the child that a message asks for; return False once the server has ended."""
        name, fds, _, _ = socket.recv_fds(self._requests, 100, 2)
        sockets = [socket.socket(fileno=fd) for fd in fds]
        if len(sockets) < 2:  # without a name the server has ended, with one descriptors are short
            for given in sockets:
                given.close()
            return bool(name)
        channel, lifeline = sockets
        function, parent = self._functions[name.decode()], os.getpid()
        with channel:
            try:
                pid = os.fork()
            except OSError as error:
                pid = -(error.errno or 1)
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                with _what_a_start_needs():
                    self._become(name.decode(), parent, {channel.fileno()})
                _run_to_the_end(lambda: _answer_all(channel, function))
        with suppress(OSError):
            lifeline.send(STATUS.pack(pid))
        if pid < 0:
            lifeline.close()
        else:
            self._lifelines[pid] = lifeline
            self._selector.register(lifeline, selectors.EVENT_READ, pid)
        return True

    def _reap(self) -> None:
        while self._lifelines:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            lifeline = self._lifelines.pop(pid, None)
            if lifeline is None:  # a process of `preload`
                continue
            with suppress(KeyError):
                self._selector.unregister(lifeline)
            with suppress(OSError):
                lifeline.send(STATUS.pack(status))
            lifeline.close()

    def _become(self, name: str, parent: int, kept: set[int]) -> None:
        """Make a fork independent of its parent, except that it ends with it."""
        for ignored in _IGNORED:
            signal.signal(getattr(signal, ignored), signal.SIG_IGN)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        signal.set_wakeup_fd(-1)
        self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        self._prctl(_PR_SET_NAME, name.encode()[:15])
        if os.getppid() != parent:
            os._exit(0)  # the parent ended before the kernel was told
        null = os.open(os.devnull, os.O_RDWR)
        # The numbers stay in use, because Python's objects will close them later.
        for fd in map(int, os.listdir("/proc/self/fd")):
            if fd not in (1, 2, null) and fd not in kept:
                with suppress(OSError):
                    os.fstat(fd)  # not the one that listed them
                    os.dup2(null, fd, inheritable=False)
        os.dup2(2, 1)
        os.close(null)
        use_standard_error()


@contextmanager
def _what_a_start_needs() -> Iterator[None]:
    """End a child that lacks files or memory, and let the caller know: its input is sound."""
    try:
        yield
    except (OSError, MemoryError):
        os._exit(CANNOT_START)


def _answer_all(channel: socket.socket, function: Function) -> None:
    """Answer messages until the caller ends; what runs in a child."""
    gc.enable()
    with suppress(OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError), open("/proc/self/oom_score_adj", "wb", buffering=0) as score:
        score.write(_FIRST_TO_KILL)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    with _what_a_start_needs():
        statm = os.open("/proc/self/statm", os.O_RDONLY)
    base = _private_memory(statm)
    while head := channel.recv(REQUEST.size, socket.MSG_WAITALL):
        argument, payload, memory, cpu_seconds = REQUEST.unpack(head)
        # What counts as data of this process: private writable memory (Linux 4.7).
        limit = _private_memory(statm) + memory + argument + payload
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        kind, answer = _answer(channel, argument, payload, function)
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
        kept = max(0, _private_memory(statm) - base)
        send_together(channel, ANSWER.pack(kind, len(answer), kept), answer)
        del answer


def send_together(channel: socket.socket, head: bytes, content: bytes | memoryview) -> None:
    """Send `content` after `head`: what is small in one call, which wakes the reader once."""
    if len(content) <= _MOST_TOGETHER:
        channel.sendall(head + content)
    else:
        channel.sendall(head)
        channel.sendall(content)


def _answer(
    channel: socket.socket, argument: int, payload: int, function: Function
) -> tuple[bytes, bytes | memoryview]:
    """Return kind and content of the answer to the message that comes next, of these sizes."""
    try:
        answer = function(*(_receive(channel, size) for size in (argument, payload)))
        return DONE, answer.cast("B") if isinstance(answer, memoryview) else answer
    except MemoryError:
        return NO_MEMORY, b""
    except errors.ImageClassificationError as error:
        kind, text = ERROR, f"{type(error).__name__}\n{error}"
    except Exception as error:
        traceback.print_exc()
        kind, text = FAILED, f"{type(error).__name__}: {error}"
    return kind, text.encode("utf-8", "replace")[:MOST_TEXT]


def _receive(channel: socket.socket, size: int) -> bytes:
    return channel.recv(size, socket.MSG_WAITALL) if size else b""


def _private_memory(statm: int) -> int:
    """Return what RLIMIT_DATA counts, in bytes, and the stack."""
    return int(os.pread(statm, 200, 0).split()[5]) * _PAGE
