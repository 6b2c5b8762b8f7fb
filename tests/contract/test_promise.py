"""The promise: the server gives the probabilities of the validation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.contract.conftest import HYPERPARAMETERS
from tests.contract.jobs import run_command, run_train, running_server, write_job

pytestmark = pytest.mark.thorough  # with torch, each run shows it


def validated(base: Path) -> list[dict[str, object]]:
    lines = (base / "output" / "data" / "validation-predictions.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def served(base: Path, accept: str = "application/json;verbose") -> list[list[float]]:
    answers = []
    with running_server(base / "model") as server:
        for row in validated(base):
            image = base / "input" / "data" / "validation" / str(row["key"])
            answer = server.invoke(image.read_bytes(), Content_Type="image/jpeg", Accept=accept)
            assert answer.status == 200, answer.body
            answers.append(json.loads(answer.body)["probabilities"])
    return answers


def test_the_server_gives_the_probabilities_of_the_validation_pass(trained_job: Path) -> None:
    rows = validated(trained_job)
    assert len(rows) == 15
    expected = [row["probabilities"] for row in rows]
    np.testing.assert_allclose(served(trained_job), expected, rtol=0, atol=1e-4)


def test_the_promise_holds_for_calibrated_probabilities(doubtful_job: Path) -> None:
    manifest = json.loads((doubtful_job / "model" / "manifest.json").read_text())
    calibration = manifest["calibration"]
    assert calibration["temperature"] != 1 and calibration["reason"] == ""
    for change in ("expected_calibration_error", "negative_log_likelihood"):
        assert calibration[change]["after"] < calibration[change]["before"]
    assert "Calibrated with temperature" in (doubtful_job / "log").read_text()
    expected = [row["probabilities"] for row in validated(doubtful_job)]
    np.testing.assert_allclose(served(doubtful_job), expected, rtol=0, atol=1e-4)


def test_evaluate_gives_the_validation_accuracy_of_the_manifest(
    trained_job: Path, small_channels: dict[str, Path]
) -> None:
    options = ("--model", trained_job / "model", "--data", small_channels["validation"], "--json")
    done = run_command("evaluate", *options)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    manifest = json.loads((trained_job / "model" / "manifest.json").read_text())
    expected = manifest["metrics"]["validation"]
    assert measured["samples"] == 15
    assert measured["metrics"]["accuracy"] == expected["accuracy"]
    assert measured["metrics"]["loss"] == pytest.approx(expected["loss"], abs=1e-4)


def test_inference_resize_squash_restores_the_resize_of_the_built_in_with_a_warning(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    given = HYPERPARAMETERS | {"epochs": 1, "inference_resize": "squash"}
    base = write_job(tmp_path / "ml", given, small_channels)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "preprocesses images differently from validation" in done.stdout
    expected = [row["probabilities"] for row in validated(base)]
    assert np.abs(np.asarray(served(base)) - np.asarray(expected)).max() > 1e-3
