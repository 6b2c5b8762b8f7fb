"""A child process with limits ends alone, says how, and leaves nothing behind."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from image_classification import errors
from image_classification.serving import isolation
from image_classification.serving.isolation import Forkserver, Limits, Process

pytestmark = pytest.mark.skipif(not isolation.IS_SUPPORTED, reason="needs Linux")

ENOUGH = Limits(memory=64 << 20, cpu_seconds=20, wall_seconds=60, answer=32 << 20)
SHORT = Limits(memory=64 << 20, cpu_seconds=0.2, wall_seconds=60, answer=1 << 10)


def echo(argument: bytes, payload: bytes) -> bytes:
    return argument + payload


def view(argument: bytes, payload: bytes) -> memoryview:
    return memoryview(bytearray(payload)).cast("H")


def spin_in_c(argument: bytes, payload: bytes) -> bytes:
    """Spin in C with the interpreter lock held: no Python code of the child runs meanwhile."""
    return str(pow(3, 10**9, 2**4_000_000)).encode()


def spin_in_threads(argument: bytes, payload: bytes) -> bytes:
    """Spin in C without the lock, in four threads."""
    threads = [
        threading.Thread(target=hashlib.pbkdf2_hmac, args=("sha256", b"", b"", 10**9))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return b""


def hog(argument: bytes, payload: bytes) -> bytes:
    return b"".join(bytes(1 << 20) for _ in range(1 << 12))


def take(argument: bytes, payload: bytes) -> bytes:
    return str(len(bytearray(int(argument)))).encode()


kept: list[mmap.mmap] = []


def keep(argument: bytes, payload: bytes) -> bytes:
    # New memory: the heap, a copy of this process's, may have that much room.
    kept.append(mmap.mmap(-1, int(argument), mmap.MAP_PRIVATE))
    return b""


def sleep(argument: bytes, payload: bytes) -> bytes:
    time.sleep(1000)
    return b""


def crash(argument: bytes, payload: bytes) -> bytes:
    os.kill(os.getpid(), signal.SIGSEGV)
    return b""


def leave(argument: bytes, payload: bytes) -> bytes:
    sys.exit(3)


def be_killed(argument: bytes, payload: bytes) -> bytes:
    os.kill(os.getpid(), signal.SIGKILL)
    return b""


def hang_up(argument: bytes, payload: bytes) -> bytes:
    os.closerange(3, 1000)
    time.sleep(1000)
    return b""


def refuse(argument: bytes, payload: bytes) -> bytes:
    raise getattr(errors, argument.decode())("it is broken: \udcff é")


def fail(argument: bytes, payload: bytes) -> bytes:
    raise LookupError("no such thing")


def lie(argument: bytes, payload: bytes) -> bytes:
    """Write to every socket what is no answer, as bytes that took over the child could."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            os.write(fd, argument)
        except OSError:
            pass
    return b""


def describe(argument: bytes, payload: bytes) -> bytes:
    """Return the child's open sockets and pipes, its limit of core files and its OOM score."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            pass
    opened = [link for link in links if link.startswith(("socket", "pipe", "anon_inode"))]
    cores = resource.getrlimit(resource.RLIMIT_CORE)[0]
    score = Path("/proc/self/oom_score_adj").read_text().strip()
    outputs = [os.readlink("/proc/self/fd/2")] if len(opened) > 1 else []
    return f"{len(set(opened) - set(outputs))} {cores} {score}".encode()


ANSWERING = (echo, view, take, keep, refuse, fail, lie, describe)
ENDING = (spin_in_c, spin_in_threads, hog, sleep, crash, leave, be_killed, hang_up)
FUNCTIONS = {function.__name__: function for function in (*ANSWERING, *ENDING)}


@pytest.fixture(scope="module")
def forkserver() -> Iterator[Forkserver]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pytest-xdist has threads of its own
        made = Forkserver(FUNCTIONS)
    yield made
    made.close()


@pytest.fixture
def start(forkserver: Forkserver) -> Iterator[Callable[[str], Process]]:
    """Return a function that starts a child; the test's children end with it."""
    started: list[Process] = []

    def start(name: str) -> Process:
        started.append(forkserver.start(name))
        return started[-1]

    yield start
    for process in started:
        process.end()


def has_ended(pid: int) -> bool:
    """Whether a process has ended; one that nobody has reaped yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_child_answers_messages_of_any_size_one_after_the_other(
    start: Callable[[str], Process],
) -> None:
    process = start("echo")
    for size in (0, 1, 100_000, 16 << 20, 5):
        payload = os.urandom(size)
        assert process.call(b"argument", payload, ENOUGH) == b"argument" + payload
        assert process.call(payload[:9], memoryview(payload)[9:], ENOUGH) == payload
    assert start("view").call(b"", b"abcd", ENOUGH) == b"abcd"


@pytest.mark.parametrize("name", ["spin_in_c", "spin_in_threads"])
def test_a_child_that_computes_for_ever_in_c_ends_at_its_limit(
    start: Callable[[str], Process], name: str
) -> None:
    with pytest.raises(errors.CpuLimitError, match=r"^took more than 0\.2 s of CPU time$"):
        start(name).call(b"", b"", SHORT)


def test_the_limit_of_cpu_time_counts_one_call_and_no_waiting(
    start: Callable[[str], Process],
) -> None:
    process = start("take")
    for _ in range(40):  # together they take more
        process.call(b"20000000", b"", SHORT)
    time.sleep(0.3)
    assert process.call(b"1", b"", SHORT) == b"1"


def test_a_child_that_takes_more_memory_than_its_limit_is_named(
    start: Callable[[str], Process],
) -> None:
    with pytest.raises(errors.MemoryLimitError, match=r"^took more than 67 MB of memory$"):
        start("hog").call(b"", b"", ENOUGH)


def test_the_limit_of_memory_is_beyond_what_the_child_has_and_the_message(
    start: Callable[[str], Process],
) -> None:
    process = start("echo")
    little = Limits(memory=40 << 20, cpu_seconds=20, wall_seconds=60, answer=64 << 20)
    assert len(process.call(b"", bytes(60 << 20), little)) == 60 << 20
    assert start("take").call(b"39000000", b"", little) == b"39000000"
    with pytest.raises(errors.MemoryLimitError):  # more than a heap keeps free
        start("take").call(b"8000000000", b"", little)


def test_what_a_child_keeps_is_known_and_does_not_count_against_its_next_call(
    start: Callable[[str], Process],
) -> None:
    process = start("keep")
    process.call(b"1", b"", ENOUGH)
    assert process.memory_kept < 4 << 20
    for number in (1, 2, 3):
        process.call(str(40 << 20).encode(), b"", ENOUGH)
        assert number * 40 << 20 <= process.memory_kept < number * 42 << 20


def test_a_child_that_sleeps_is_killed_at_its_deadline(start: Callable[[str], Process]) -> None:
    process = start("sleep")
    pid = process.pid
    limits = Limits(memory=1 << 20, cpu_seconds=20, wall_seconds=0.3, answer=1)
    with pytest.raises(errors.TimeLimitError, match=r"^took more than 0\.3 s$"):
        process.call(b"", b"", limits)
    assert has_ended(pid)


def test_a_child_that_reads_nothing_is_killed_at_its_deadline(
    start: Callable[[str], Process],
) -> None:
    process = start("echo")
    pid = process.pid
    os.kill(pid, signal.SIGSTOP)
    limits = Limits(memory=1 << 20, cpu_seconds=20, wall_seconds=0.3, answer=1)
    with pytest.raises(errors.TimeLimitError):
        process.call(b"", bytes(16 << 20), limits)
    assert has_ended(pid)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("crash", errors.ProcessError, r"^ended with signal 11 \(Segmentation fault\)$"),
        ("leave", errors.ProcessError, "^ended with exit code 1$"),
        ("be_killed", errors.NoMemoryLeftError, "probably because no memory was left"),
        ("hang_up", errors.ProcessError, "hung up without an answer"),
        ("fail", errors.ProcessError, "^failed: 'LookupError: no such thing'$"),
    ],
)
def test_a_child_that_dies_or_fails_is_named_and_another_one_answers(
    start: Callable[[str], Process],
    name: str,
    kind: type[errors.ProcessError],
    message: str,
) -> None:
    with pytest.raises(kind, match=message):
        start(name).call(b"", b"", ENOUGH)
    assert start("echo").call(b"next", b"", ENOUGH) == b"next"


def test_a_child_that_was_killed_between_two_calls_has_ended(
    start: Callable[[str], Process],
) -> None:
    process = start("echo")
    assert not process.was_killed()
    process.call(b"", b"", ENOUGH)
    assert not process.was_killed()
    os.kill(process.pid, signal.SIGKILL)
    wait_until(process.was_killed)


def test_an_expected_error_arrives_with_its_class_and_text_and_the_child_goes_on(
    start: Callable[[str], Process],
) -> None:
    process = start("refuse")
    for name in ("ImageDamagedError", "ImageTooLargeError"):
        with pytest.raises(getattr(errors, name), match=r"^it is broken: \? é$"):
            process.call(name.encode(), b"", ENOUGH, errors.ImageError)


@pytest.mark.parametrize("name", ["DeviceError", "ForkserverError", "UserError"])
def test_a_child_cannot_raise_an_error_that_its_caller_does_not_expect(
    start: Callable[[str], Process], name: str
) -> None:
    with pytest.raises(errors.ProcessError, match=f"^failed: '{name}"):
        start("refuse").call(name.encode(), b"", ENOUGH, errors.ImageError)


@pytest.mark.parametrize(
    "written",
    [
        b"\0" * 17,
        b"A" + b"\xff" * 16,
        b"A" + (1 << 40).to_bytes(8, "big") + bytes(8),
        b"E" + (5000).to_bytes(8, "big") + bytes(8),
        b"E" + (6).to_bytes(8, "big") + bytes(8) + b"exit\nx",
        b"E" + (10).to_bytes(8, "big") + bytes(8) + b"__name__\nx",
        b"garbage",
    ],
    ids=repr,
)
def test_an_answer_that_is_none_ends_the_child_and_takes_no_memory(
    start: Callable[[str], Process], written: bytes
) -> None:
    process = start("lie")
    pid = process.pid
    limits = Limits(memory=64 << 20, cpu_seconds=20, wall_seconds=60, answer=1 << 20)
    with pytest.raises(errors.ProcessError):
        process.call(written, b"", limits)
    assert has_ended(pid)


def test_a_child_has_one_socket_no_core_file_and_is_the_first_that_the_kernel_kills(
    forkserver: Forkserver, start: Callable[[str], Process]
) -> None:
    others = [start("echo") for _ in range(3)]
    assert [other.call(b"", b"", ENOUGH) for other in others] == [b""] * 3
    assert start("describe").call(b"", b"", ENOUGH) == b"1 0 1000"
    assert Path(f"/proc/{forkserver.pid}/oom_score_adj").read_text().strip() != "1000"


def test_many_starts_leave_neither_descriptors_nor_processes_behind(
    forkserver: Forkserver,
) -> None:
    def count() -> tuple[int, int, int]:
        children = Path(f"/proc/{forkserver.pid}/task/{forkserver.pid}/children").read_text()
        ours = len(os.listdir("/proc/self/fd"))
        return ours, len(os.listdir(f"/proc/{forkserver.pid}/fd")), len(children.split())

    before = count()
    for number in range(60):
        process = forkserver.start(("echo", "crash", "sleep")[number % 3])
        if number % 3 < 2:
            try:
                process.call(b"", b"", ENOUGH)
            except errors.ProcessError:
                pass
        process.end()
        process.end()
    assert count() == before


def test_threads_start_and_use_children_at_the_same_time(forkserver: Forkserver) -> None:
    answers: list[bytes] = []

    def work(number: int) -> None:
        for _ in range(5):
            process = forkserver.start("echo")
            answers.append(bytes(process.call(b"%d" % number, b"", ENOUGH)))
            process.end()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == sorted(b"%d" % number for number in range(8) for _ in range(5))


def test_a_function_without_a_name_is_refused(forkserver: Forkserver) -> None:
    with pytest.raises(KeyError, match="got 'eval'"):
        forkserver.start("eval")


PROGRAM = """
import os, signal, sys, time
from image_classification.serving.isolation import Forkserver, Limits
signal.signal(signal.SIGTERM, lambda *_: None)
forkserver = Forkserver({"echo": lambda line, _: line, "hang": lambda *_: time.sleep(1000)})
limits = Limits(1 << 20, 60, 60, 100)
echo, hang = forkserver.start("echo"), forkserver.start("hang")
hang._channel.sendall(bytes(32))
print(os.getpid(), forkserver.pid, echo.pid, hang.pid, flush=True)
for line in sys.stdin:
    print(bytes(echo.call(line.encode(), b'', limits)).decode(), end="", flush=True)
"""


@pytest.fixture
def parent() -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process with a forkserver and two children, in a process group of its own; their ids."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    with process.stdin, process.stdout:
        yield process, list(map(int, process.stdout.readline().split()))
        process.kill()
        process.wait()


def test_a_signal_to_the_process_group_ends_no_child(
    parent: tuple[subprocess.Popen[str], list[int]],
) -> None:
    process, (_, *pids) = parent
    assert process.stdin is not None and process.stdout is not None
    for pid in pids:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            os.kill(pid, number)
    os.killpg(process.pid, signal.SIGTERM)
    process.stdin.write("still here\n")
    process.stdin.flush()
    assert process.stdout.readline() == "still here\n"
    assert not any(map(has_ended, pids))


@pytest.mark.parametrize("victim", [0, 1], ids=["server", "forkserver"])
def test_no_child_outlives_the_server_or_the_forkserver(
    parent: tuple[subprocess.Popen[str], list[int]], victim: int
) -> None:
    _, pids = parent
    os.kill(pids[victim], signal.SIGKILL)
    wait_until(lambda: all(map(has_ended, pids[1:])))


def test_the_end_of_the_forkserver_is_an_error_of_its_own() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        forkserver = Forkserver(FUNCTIONS)
    process = forkserver.start("sleep")
    assert process.pid
    threading.Timer(0.2, os.kill, (forkserver.pid, signal.SIGKILL)).start()
    with pytest.raises(errors.ForkserverError, match="has ended"):
        process.call(b"", b"", ENOUGH)
    with pytest.raises(errors.ForkserverError, match="no process can be started"):
        forkserver.start("echo").call(b"", b"", ENOUGH)
    forkserver.close()


def test_a_child_that_the_kernel_refuses_is_named() -> None:
    """In a process of its own, which gives up the right to any further one."""
    program = (
        "import os, resource\n"
        "from image_classification.serving.isolation import Forkserver, Limits\n"
        "def preload():\n"
        "    if not os.getuid(): os.setuid(65534)\n"
        "    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))\n"
        "forkserver = Forkserver({'echo': max}, preload)\n"
        "try: forkserver.start('echo').call(b'', b'', Limits(1, 1, 60, 1))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "NoProcessError no process can be started: Resource temporarily" in done.stdout


def test_without_descriptors_no_process_starts_and_the_reason_says_so(
    forkserver: Forkserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(socket, "socketpair", refuse)
    with pytest.raises(errors.NoProcessError, match="Too many open files"):
        forkserver.start("echo")
