"""The processes of one host start and end together, and wait for those of other hosts."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from image_classification.backends.processes import await_listeners, launch


def run(script: str, *numbers: int) -> int:
    beginning = "import os, sys, time\nn = int(os.environ['NUMBER'])\n"
    return launch(["-c", beginning + script], [{"NUMBER": str(number)} for number in numbers])


def test_each_process_gets_its_own_variables_and_this_processs_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOLDER", str(tmp_path))
    assert run("open(os.path.join(os.environ['FOLDER'], str(n)), 'w').close()", 0, 1, 2) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]


def test_when_one_process_fails_the_others_are_stopped_and_its_exit_code_is_returned() -> None:
    assert run("sys.exit(2) if n else time.sleep(1e9)", 0, 1) == 2


def test_the_exit_code_is_1_if_all_processes_were_killed() -> None:
    assert run("os.kill(os.getpid(), 9)", 0, 1) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_passed_on_and_the_processes_may_end_with_code_0(number: int) -> None:
    """In a process of its own: the signal must not reach this one."""
    child = (
        "import os, signal, sys, time\n"
        f"signal.signal({number:d}, lambda *_: sys.exit(0))\n"
        "os.write(1, b'ready\\n')\n"
        "time.sleep(1e9)\n"
    )
    script = (
        "import sys\n"
        "from image_classification.backends.processes import launch\n"
        f"sys.exit(launch(['-c', {child!r}], [{{}}, {{}}]))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 0


# ---- waiting for other hosts

_WAIT = (
    "import signal, sys\n"
    "from image_classification.backends.processes import await_listeners\n"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
    "print('waiting', flush=True)\n"
    "await_listeners(sys.argv[1:])\n"
)


def address_of(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


def test_the_wait_ends_when_the_last_process_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.socket() as second:
        second.bind(("127.0.0.1", 0))  # and does not listen yet
        addresses = [address_of(first), address_of(second)]
        waiting = threading.Thread(target=await_listeners, args=(addresses,), daemon=True)
        waiting.start()
        time.sleep(0.6)
        assert waiting.is_alive()
        second.listen()
        waiting.join(timeout=60)
        assert not waiting.is_alive()


def test_a_signal_ends_the_wait_for_a_name_that_does_not_resolve() -> None:
    command = [sys.executable, "-c", _WAIT, "no-such-host.invalid:1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 7
