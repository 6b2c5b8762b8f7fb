"""The server's answers have the class names that were given to the job."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.conftest import HYPERPARAMETERS
from tests.contract.jobs import run_command, run_train, running_server, write_job

pytestmark = pytest.mark.thorough  # with torch, each run shows it


@pytest.fixture(scope="module")
def nameless(
    tmp_path_factory: pytest.TempPathFactory, small_channels: dict[str, Path]
) -> dict[str, Path]:
    """Channels of records without any names: labels.json and the list are taken away."""
    root = tmp_path_factory.mktemp("nameless")
    done = run_command(
        *("preprocess", "--input", small_channels["train"], "--output", root / "channels")
    )
    assert done.returncode == 0, done.stderr
    for split in ("train", "validation"):
        (root / "channels" / split / "labels.json").unlink()
        (root / "channels" / split / f"{split}.lst").unlink()
    return {name: root / "channels" / name for name in ("train", "validation")}


def test_the_server_returns_the_names_given_by_a_hyperparameter(
    tmp_path: Path, nameless: dict[str, Path], small_channels: dict[str, Path]
) -> None:
    names = ["azure", "lime, fresh", "crimson"]
    given = HYPERPARAMETERS | {"epochs": 1, "labels": '["azure", "lime, fresh", "crimson"]'}
    base = write_job(tmp_path / "ml", given, nameless)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    image = next((small_channels["validation"] / "red").iterdir()).read_bytes()
    with running_server(base / "model") as server:
        answer = server.invoke(
            image, Content_Type="image/jpeg", Accept="application/json;verbose"
        ).json()
    assert isinstance(answer, dict)
    assert answer["labels"] == names and answer["predicted_label"] in names


def test_names_that_contradict_those_of_a_channel_fail_the_job(
    tmp_path: Path, nameless: dict[str, Path]
) -> None:
    base = write_job(tmp_path / "ml", HYPERPARAMETERS | {"labels": "a,b,c"}, nameless)
    nested = base / "input" / "data" / "validation" / "from-s3"
    nested.mkdir()
    (nested / "labels.json").write_text('{"labels": ["a", "c", "b"]}')
    done = run_train(base)
    assert done.returncode == 2
    failure = (base / "output" / "failure").read_text()
    assert failure.startswith("ClientError: the class names contradict each other")
    assert "hyperparameter labels" in failure and "from-s3/labels.json" in failure
