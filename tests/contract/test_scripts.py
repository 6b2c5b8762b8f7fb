"""The developer's scripts: what they install, stop and print."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


@pytest.mark.parametrize("part", ["records", "loader", "serving", "training"])
def test_benchmark_help_needs_no_package_and_installs_nothing(tmp_path: Path, part: str) -> None:
    # The copy has no scripts/install, so that an attempt to install fails.
    shutil.copytree(REPOSITORY / "scripts" / "benchmarks", tmp_path / "scripts" / "benchmarks")
    shutil.copy(REPOSITORY / "scripts" / "benchmark", tmp_path / "scripts")
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E "$@"\n')  # -S: no installed package
    python.chmod(0o755)
    ran = subprocess.run(
        [tmp_path / "scripts" / "benchmark", part, "--help"],
        env={"PATH": f"{python.parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"usage: scripts/benchmark {part}")
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(
    ("starter", "stopper", "stops"),
    [("anyone", [], True), ("run-7", ["run-7"], True), ("run-7", ["run-8"], False)],
)
def test_any_shell_stops_the_engine_that_its_owner_started(
    tmp_path: Path, starter: str, stopper: list[str], stops: bool
) -> None:
    if not Path("/proc/self/comm").exists():
        pytest.skip("needs /proc")
    daemon = tmp_path / "dockerd"
    shutil.copy("/bin/sleep", daemon)
    engine = subprocess.Popen([daemon, "60"])
    try:
        mark = tmp_path / "engine" / "started"
        mark.parent.mkdir()
        mark.write_text(f"{starter} {engine.pid}\n")
        command = [REPOSITORY / ".ci" / "engine", "stop", *stopper]
        subprocess.run(command, env={"PATH": "/usr/bin:/bin", "CI_CACHE": tmp_path}, check=True)
        if stops:
            engine.wait(timeout=10)
            assert not mark.exists()
        else:
            assert engine.poll() is None and mark.exists()
    finally:
        engine.kill()
        engine.wait()


def test_stop_never_kills_a_process_other_than_the_docker_engine(tmp_path: Path) -> None:
    process = subprocess.Popen(["/bin/sleep", "60"])
    try:
        (tmp_path / "engine").mkdir()
        (tmp_path / "engine" / "started").write_text(f"anyone {process.pid}\n")
        command = [REPOSITORY / ".ci" / "engine", "stop"]
        subprocess.run(command, env={"PATH": "/usr/bin:/bin", "CI_CACHE": tmp_path}, check=True)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_messages_lists_what_users_read_and_no_docstring(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, REPOSITORY / "scripts" / "messages"], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    for kind in ("error", "log", "help", "declaration", "page", "text"):
        assert any(line[7:].startswith(kind) for line in lines), kind
    assert "src/image_classification/serving/page/index.html" in lines
    assert "Every error the product raises on purpose" not in ran.stdout
