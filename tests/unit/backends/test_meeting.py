"""Processes that train together wait for those that begin later, and hear signals meanwhile."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time

from image_classification.backends.processes import await_listeners

_WAIT = (
    "import signal, sys\n"
    "from image_classification.backends.processes import await_listeners\n"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
    "print('waiting', flush=True)\n"
    "await_listeners(sys.argv[1:])\n"
)


def address_of(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


def test_the_wait_ends_when_the_last_one_listens() -> None:
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


def test_a_wait_for_a_name_that_does_not_resolve_hears_a_signal() -> None:
    command = [sys.executable, "-c", _WAIT, "no-such-host.invalid:1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 7
