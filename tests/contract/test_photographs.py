"""The documented figures on real photographs, with the commands that a user types."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.contract.jobs import run_command, running_server

pytestmark = [pytest.mark.shared, pytest.mark.slow, pytest.mark.timeout(1200)]

FLOWERS_JOB = {"preset": "transfer"}


@pytest.fixture(scope="module")
def flowers(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ and validation/ class folders by the data set's own split.csv."""
    source, root = shared / "data" / "flowers", tmp_path_factory.mktemp("flowers")
    with (source / "split.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            split = "train" if row["split"] == "train" else "validation"
            target = root / split / row["file"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source / row["file"])
    return root


@pytest.fixture(scope="module")
def flowers_model(flowers: Path) -> Path:
    """An artifact trained on the flowers, from class folders."""
    channels = [f"--channel={name}={flowers / name}" for name in ("train", "validation")]
    options = [f"--set={name}={value}" for name, value in FLOWERS_JOB.items()]
    done = run_command("train", *channels, *options, "--output", flowers / "model")
    assert done.returncode == 0, done.stdout + done.stderr
    return flowers / "model"


def test_flowers_reach_93_percent_and_evaluate_agrees(flowers: Path, flowers_model: Path) -> None:
    manifest = json.loads((flowers_model / "manifest.json").read_text())
    validation = manifest["metrics"]["validation"]
    assert manifest["metrics"]["validation_samples"] == 150
    assert validation["accuracy"] >= 0.93
    options = ("--model", flowers_model, "--data", flowers / "validation", "--json")
    done = run_command("evaluate", *options)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)["metrics"]
    assert measured["accuracy"] == validation["accuracy"]
    assert measured["loss"] == pytest.approx(validation["loss"], abs=1e-4)


def test_the_server_gives_the_probabilities_of_the_validation_pass_on_real_photographs(
    flowers: Path, flowers_model: Path
) -> None:
    rows = (flowers_model / "validation-predictions.jsonl").read_text().splitlines()
    with running_server(flowers_model) as server:
        for row in map(json.loads, rows):
            image = (flowers / "validation" / row["key"]).read_bytes()
            answer = server.invoke(
                image, Content_Type="image/jpeg", Accept="application/json;verbose"
            ).json()
            assert isinstance(answer, dict)
            np.testing.assert_allclose(
                answer["probabilities"], row["probabilities"], rtol=0, atol=1e-4, err_msg=row["key"]
            )


def test_the_pretrained_backbone_is_correct_on_85_percent_of_imagenet_photographs(
    shared: Path, tmp_path: Path
) -> None:
    photos = shared / "data" / "photos"
    lines = []
    with (photos / "labels.csv").open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            lines.append(f"{number}\t{row['class_index']}\t{row['file']}\n")
    (tmp_path / "photos.lst").write_text("".join(lines))
    packed = run_command("pack", tmp_path / "photos.lst", photos, "--pass-through")
    assert packed.returncode == 0, packed.stderr
    model = tmp_path / "model"
    exported = run_command("export", "--backbone", "efficientnet_lite0", "--output", model)
    assert exported.returncode == 0, exported.stderr
    assert json.loads((model / "labels.json").read_text())["labels"][0] == "tench"
    options = ("--model", model, "--data", tmp_path / "photos.rec", "--top-k", "5", "--json")
    done = run_command("evaluate", *options)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["samples"] == 250
    assert measured["metrics"]["accuracy"] >= 0.85
    assert measured["metrics"]["top_k_accuracy_5"] >= 0.95


def test_every_hard_image_is_answered_or_refused_over_http_as_its_manifest_says(
    shared: Path, flowers_model: Path
) -> None:
    hard = shared / "data" / "hard"
    files = json.loads((hard / "manifest.json").read_text())["files"]
    assert len(files) == 85
    with running_server(flowers_model) as server:
        for entry in files:
            body = (hard / entry["file"]).read_bytes()
            answer = server.invoke(body, Content_Type="application/x-image")
            allowed = {"decode": {200}, "refuse": {400}, "either": {200, 400}}[entry["expect"]]
            assert answer.status in allowed, (entry["file"], answer.status, answer.body)
            if answer.status == 400:
                assert json.loads(answer.body)["error"], entry["file"]
        assert server.get("/ping").status == 200
