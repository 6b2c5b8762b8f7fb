"""The developer's scripts: what they install, stop and print."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


@pytest.mark.parametrize("part", ["records", "loader", "serving", "training", "attacks", "fuzz"])
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
    assert any(line.endswith(".html") for line in lines)
    assert "Every error the product raises on purpose" not in ran.stdout


def names_of(module: Path) -> set[str]:
    """The names that a module defines or imports at its top level, and a package's modules."""
    names = {path.stem for path in module.parent.iterdir()} if module.stem == "__init__" else set()
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.ImportFrom):
            names.update(alias.asname or alias.name for alias in node.names)
    return names


def is_python(path: Path) -> bool:
    return path.suffix == ".py" or (
        path.is_file() and path.read_bytes().startswith(b"#!/usr/bin/env python")
    )


# Tests of a framework that is not installed here are read too.
FILES = [
    path
    for folder in ("scripts", "tests")
    for path in sorted((REPOSITORY / folder).rglob("*"))
    if is_python(path)
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_scripts_and_tests_import_only_names_that_the_package_has(path: Path) -> None:
    source = REPOSITORY / "src"
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("image_classif"):
            place = source.joinpath(*(node.module or "").split("."))
            module = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
            assert module.exists(), node.module
            missing = {alias.name for alias in node.names} - names_of(module)
            assert not missing, f"{node.module} has no {missing}"
