"""The processes of one host: they run together, end together, and their codes come out."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from image_classification.backends.processes import launch


def run(script: str, *numbers: int) -> int:
    beginning = "import os, sys, time\nn = int(os.environ['NUMBER'])\n"
    return launch(["-c", beginning + script], [{"NUMBER": str(number)} for number in numbers])


def test_each_has_its_own_environment_and_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOLDER", str(tmp_path))
    assert run("open(os.path.join(os.environ['FOLDER'], str(n)), 'w').close()", 0, 1, 2) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]


def test_when_one_fails_the_others_are_stopped_and_its_code_comes_out() -> None:
    assert run("sys.exit(2) if n else time.sleep(1e9)", 0, 1) == 2


def test_the_code_is_one_where_all_were_killed() -> None:
    assert run("os.kill(os.getpid(), 9)", 0, 1) == 1


def test_sigterm_is_passed_on_and_they_may_end_in_their_own_way() -> None:
    """In a process of its own: the signal must not reach this one."""
    child = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        "print('ready', flush=True)\n"
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
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
