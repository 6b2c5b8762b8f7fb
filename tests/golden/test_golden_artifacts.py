"""Artifacts of 0.1.0 are evaluated and served with the same results; this needs no framework."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.contract.jobs import run_command
from tests.golden.cases import (
    ARTIFACTS,
    GOLDEN,
    described,
    evaluated,
    parted,
    predicted,
    scraped,
    served,
    unpacked,
)

BACKENDS_AND_FORMS = sorted(ARTIFACTS)


def archive_of(name: str) -> Path:
    return GOLDEN / "artifacts" / f"{name}.tar.gz"


def golden(name: str) -> dict[str, Any]:
    return dict(json.loads((GOLDEN / "artifacts" / f"{name}.json").read_text()))


def assert_same(text: str, expected: str) -> None:
    """Compare texts exactly, and their numbers up to the last digits."""
    (form, numbers), (expected_form, expected_numbers) = parted(text), parted(expected)
    assert form == expected_form
    assert numbers == pytest.approx(expected_numbers, rel=0, abs=1e-5)


@pytest.mark.parametrize("name", BACKENDS_AND_FORMS)
def test_evaluate_gives_the_same_numbers_for_a_golden_artifact(name: str, tmp_path: Path) -> None:
    found, expected = evaluated(ARTIFACTS[name], archive_of(name), tmp_path), golden(name)
    of_0_1_0 = {name: found[name] for name in expected["evaluate"]}  # others have been added
    assert_same(json.dumps(of_0_1_0), json.dumps(expected["evaluate"]))
    with tarfile.open(archive_of(name)) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
    validated = manifest["metrics"]["validation"]["accuracy"]
    assert found["metrics"]["accuracy"] == pytest.approx(validated)


@pytest.mark.parametrize("name", ["mxnet-several-labels", "tensorflow", "torch-two-classes"])
def test_predict_gives_the_same_classes_for_a_golden_artifact(name: str) -> None:
    assert_same(predicted(archive_of(name)), golden(name)["predict"])


@pytest.mark.parametrize("name", BACKENDS_AND_FORMS)
def test_the_server_gives_the_same_answers_for_a_golden_artifact(name: str, tmp_path: Path) -> None:
    answers, expected = served(unpacked(archive_of(name), tmp_path)), golden(name)["serve"]
    assert list(answers) == list(expected)
    for request, answer in answers.items():
        wanted = expected[request]
        assert answer["status"] == wanted["status"], request
        assert answer["content_type"] == wanted["content_type"], request
        if answer["status"] == 200:
            assert_same(answer["body"], wanted["body"])
        else:
            assert list(json.loads(answer["body"])) == ["error"], request


@pytest.mark.parametrize("interface", ["mxnet", "tensorflow"])
def test_the_published_regexes_find_the_same_numbers_in_the_golden_lines(
    interface: str,
) -> None:
    stored = json.loads((GOLDEN / "interfaces" / f"{interface}.json").read_text())
    now = described(interface)["TrainingSpecification"]["MetricDefinitions"]
    assert [one for one in stored if one not in now] == []
    names = [name for name, job in ARTIFACTS.items() if job.interface == interface]
    assert names
    for expected in map(golden, names):
        assert scraped(expected["lines"], stored) == expected["metrics"]
        assert sum(map(bool, expected["metrics"].values())) >= 2


@pytest.mark.parametrize("file", ["model.onnx", "labels.json"])
def test_a_golden_artifact_with_one_changed_byte_is_rejected(file: str, tmp_path: Path) -> None:
    model = unpacked(archive_of("torch"), tmp_path)
    content = bytearray((model / file).read_bytes())
    content[len(content) // 2] ^= 1
    (model / file).write_bytes(content)
    done = run_command("evaluate", "--model", model, "--data", GOLDEN / "pictures" / "validation")
    assert done.returncode == 2
    assert file in done.stderr and "changed since it was written" in done.stderr
