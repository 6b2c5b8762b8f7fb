"""The notebooks that need neither Docker nor AWS, executed cell by cell as they are."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.hosts import free_ports

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"

RUNNER = """
import ast, json, subprocess, sys

def _shell(command):
    subprocess.run(command, shell=True, check=True)

results, names = {}, {"__name__": "__main__", "_shell": _shell}
for tag, source in json.load(open(sys.argv[1])):
    *body, last = ast.parse(source).body
    value = None
    if isinstance(last, ast.Expr):
        exec(compile(ast.Module(body, []), tag or "cell", "exec"), names)
        value = eval(compile(ast.Expression(last.value), tag or "cell", "eval"), names)
    else:
        exec(compile(ast.Module([*body, last], []), tag or "cell", "exec"), names)
    getattr(value, "_repr_html_", lambda: None)()
    if tag:
        results[tag] = repr(value)
json.dump(results, open(sys.argv[2], "w"))
"""
"""Executes cells as Jupyter does; keeps the value of the last line of those with a tag."""


def executed(notebook: str, folder: Path) -> dict[str, object]:
    """Run the notebook in an empty folder; return tag → the value that its cell shows."""
    cells = json.loads((NOTEBOOKS / notebook).read_text("utf-8"))["cells"]
    code = [
        (
            next(iter(cell["metadata"].get("tags", [])), ""),
            re.sub(
                r"^!(.*)$", lambda line: f"_shell({line[1]!r})", "".join(cell["source"]), flags=re.M
            ),
        )
        for cell in cells
        if cell["cell_type"] == "code"
    ]
    (folder / "cells.json").write_text(json.dumps(code))
    (folder / "runner.py").write_text(RUNNER)
    environment = {name: value for name, value in os.environ.items() if name != "DATA"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment["PORT"] = free_ports(1)
    done = subprocess.run(
        [sys.executable, "runner.py", "cells.json", "results.json"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    shown = json.loads((folder / "results.json").read_text())
    return {tag: ast.literal_eval(value) for tag, value in shown.items()}


@pytest.mark.slow
def test_the_quickstart_trains_predicts_evaluates_and_serves(tmp_path: Path) -> None:
    shown = executed("quickstart.ipynb", tmp_path)
    assert shown["prediction"] == shown["answer"] == "checks"
    assert shown["accuracy"] >= 0.9  # type: ignore[operator]


@pytest.mark.slow
def test_the_moved_job_writes_the_metrics_and_answers_of_the_built_in(tmp_path: Path) -> None:
    shown = executed("move-a-built-in-job.ipynb", tmp_path)
    assert 0.5 <= shown["accuracy"] <= 1  # type: ignore[operator]
    probabilities = shown["probabilities"]
    assert isinstance(probabilities, list) and sum(probabilities) == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_the_wrong_labels_that_a_notebook_makes_are_found_and_corrected(tmp_path: Path) -> None:
    shown = executed("find-wrong-labels.ipynb", tmp_path)
    assert isinstance(shown["wrong"], dict) and len(shown["wrong"]) == 6
    assert isinstance(shown["doubtful"], dict)
    right = {name for name, label in shown["doubtful"].items() if shown["wrong"].get(name) == label}
    assert len(right) >= 5 and len(shown["doubtful"]) <= 9
