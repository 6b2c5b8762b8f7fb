"""docs/operations.md is correct: its code parses, its metrics are ours, its commands exist."""

from __future__ import annotations

import ast
import json
import re

import pytest

from image_classification.contract.interface import INTERFACES
from image_classification.contract.metrics import MXNET_METRICS
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "operations.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def calls() -> dict[str, dict[str, ast.expr]]:
    """Name of a called function → its keyword arguments, over all blocks of Python."""
    found: dict[str, dict[str, ast.expr]] = {}
    for node in ast.walk(ast.parse("\n".join(blocks("python")))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            found[name] = {keyword.arg or "": keyword.value for keyword in node.keywords}
    return found


def test_its_metric_definitions_are_those_of_the_contract() -> None:
    (text,) = re.findall(r"^metrics = (\[.*?\])\n", "\n".join(blocks("python")), re.S | re.M)
    definitions = {entry["Name"]: entry["Regex"] for entry in ast.literal_eval(text)}
    expected = {metric.name: metric.regex for metric in MXNET_METRICS}
    assert definitions
    assert definitions.items() <= expected.items()


def test_its_job_and_its_tuned_names_are_accepted(calls: dict[str, dict[str, ast.expr]]) -> None:
    job = ast.literal_eval(calls["Estimator"]["hyperparameters"])
    ranges = calls["HyperparameterTuner"]["hyperparameter_ranges"]
    assert isinstance(ranges, ast.Dict)
    tuned = dict.fromkeys((ast.literal_eval(key) for key in ranges.keys if key), "")
    INTERFACES["mxnet"].parse({name: str(value) for name, value in job.items()})
    INTERFACES["mxnet"].parse(tuned)  # an empty value is unset: names alone are checked


def test_its_policy_is_json_and_every_target_and_script_it_names_is_there() -> None:
    for text in blocks("json"):
        assert json.loads(text)["Statement"]
    makefile = (REPOSITORY / "Makefile").read_text("utf-8")
    commands = re.findall(r"\bmake ((?:[a-z][a-z-]+ ?)+)", "\n".join(blocks("bash")))
    commands += re.findall(r"`make ([a-z -]+)`", PAGE)
    targets = {target for command in commands for target in command.split()}
    assert {"build", "push", "demo-docker"} <= targets
    assert [target for target in sorted(targets) if f"\n{target}: ##" not in makefile] == []
    for script in re.findall(r"\bscripts/[a-z-]+", PAGE):
        assert (REPOSITORY / script).is_file(), script
