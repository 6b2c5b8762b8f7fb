"""What a server of the Python interface writes: nobody reads it but for the reason of a failure."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from image_classification.api import model as api
from image_classification.errors import UserError


def test_the_log_of_a_server_takes_64_kib_however_long_it_runs() -> None:
    read, write = os.pipe()
    kept = bytearray()
    reader = threading.Thread(target=api._keep_last, args=(os.fdopen(read, "rb"), kept))
    reader.start()
    sizes = []
    with os.fdopen(write, "wb") as stream:
        for number in range(20_000):
            stream.write(b"%079d\n" % number)
            sizes.append(len(kept))
    reader.join(30)
    assert len(kept) == 1 << 16 and max(sizes) <= 2 << 16
    assert kept.endswith(b"%079d\n" % 19_999)


def test_a_server_that_says_much_and_cannot_start_gives_its_last_line_as_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program"
    program.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "sys.stderr.write('noise\\n' * 100_000 + 'the disk is full\\n')\nsys.exit(1)\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    model: Any = SimpleNamespace(_artifact=SimpleNamespace(directory=tmp_path))
    with pytest.raises(UserError, match="the server cannot start: the disk is full"):
        api.Server(model, "127.0.0.1", port)
