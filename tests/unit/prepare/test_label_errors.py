"""`check --label-errors`: wrong labels in JSON, in the list for `preprocess`, on the page."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from image_classification import backends
from image_classification.backends import base
from image_classification.backends.backbones import BACKBONES
from image_classification.cli import main
from tests.conftest import ClassFolders

BACKBONE = "resnet20"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights of a small network: random ones, which tell colors apart."""
    folder = tmp_path_factory.mktemp("weights")
    row = BACKBONES[BACKBONE]
    spec = base.ModelSpec(BACKBONE, 2, (3, 32, 32), *row.normalization(3))
    engine = backends.load("reference").build(spec, base.OptimizerSpec(), base.World())
    state = engine.state()
    named = {n.removeprefix("weight/"): v for n, v in state.items() if n.startswith("weight/")}
    save_file(named, folder / f"{BACKBONE}.safetensors")
    return folder


@pytest.fixture
def data(
    tmp_path: Path,
    weights: Path,
    write_class_folders: ClassFolders,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Three colors, of which two blue images are in the folder of another one."""
    monkeypatch.setenv("IMAGE_CLASSIFICATION_WEIGHTS_DIR", str(weights))
    root = write_class_folders(tmp_path / "data", per_class=40)
    shutil.move(root / "blue/blue003.jpg", root / "red/wrong1.jpg")
    shutil.move(root / "blue/blue007.jpg", root / "green/wrong2.jpg")
    return root


def check(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    words = ["check", *map(str, arguments), "--label-errors", "--backbone", BACKBONE, "--json"]
    assert main(words) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_wrong_labels_are_listed_with_their_right_class_the_most_suspicious_first(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = check(capsys, data)
    issues, review = found["label_issues"], found["label_review"]
    assert [set(issue) for issue in issues] == [{"file", "given", "suggested", "score"}] * 2
    assert {(i["file"], i["given"], i["suggested"]) for i in issues} == {
        (f"{data}/red/wrong1.jpg", "red", "blue"),
        (f"{data}/green/wrong2.jpg", "green", "blue"),
    }
    scores = [issue["score"] for issue in issues]
    assert scores == sorted(scores, reverse=True)
    assert 1 >= scores[0] and scores[-1] >= review["threshold"] > 0
    assert review["images"] == 120 and review["backbone"] == BACKBONE
    low, high = review["kfold_accuracy_interval"]
    assert low < review["kfold_accuracy"] < high
    kinds = {problem["kind"]: problem for problem in found["problems"]}
    assert len(kinds["label-issues"]["images"]) == 2
    assert found["ok"], "a person decides"


def test_preprocess_takes_the_corrected_labels(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = tmp_path / "review.csv"
    check(capsys, data, "--csv", listing)
    with listing.open(newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    wrong = rows["red/wrong1.jpg"]
    assert (wrong["label"], wrong["action"], wrong["was"]) == ("blue", "relabel", "red")
    assert wrong["problem"].startswith("perhaps blue (0.")
    assert rows["red/red000.jpg"]["action"] == ""
    out = tmp_path / "out"
    words = ["preprocess", "--input", data, "--list", listing, "--output", out]
    assert main(list(map(str, words))) == 0
    splits = json.loads((out / "findings.json").read_text())["splits"].values()
    totals = {
        name: sum(split["images_per_class"][name] for split in splits)
        for name in ("blue", "green", "red")
    }
    assert totals == {"blue": 40, "green": 40, "red": 40}


def test_the_page_shows_the_pictures_of_wrong_labels(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(capsys, data, "--html", tmp_path / "check.html")
    page = (tmp_path / "check.html").read_text()
    assert "Labels are perhaps wrong <small>2</small>" in page
    assert "wrong1.jpg" in page and "perhaps blue" in page


def test_images_that_cannot_be_used_and_classes_of_few_images_are_not_judged(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(data / "red", data / "rare")
    for path in sorted((data / "rare").iterdir())[4:]:
        path.unlink()
    (data / "red/red001.jpg").write_bytes(b"no image")
    words = ["check", str(data), "--label-errors", "--backbone", BACKBONE, "--json"]
    assert main(words) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["label_review"]["images"] == 119
    assert found["label_review"]["classes_left_out"] == ["rare"]


def test_without_the_flag_nothing_is_judged(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(data), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"ok", "parts", "problems"}
    assert main(["check", str(data), "--backbone", BACKBONE]) == 2
    assert "--label-errors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backbone", "resnet18"], "there are none for resnet18"),
        (["--backbone", "resnet_20"], "did you mean 'resnet20'"),
    ],
)
def test_a_network_without_weights_is_refused_before_any_image_is_read(
    data: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["check", str(data), "--label-errors", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("ClientError: ") and message in captured.err
    assert captured.out == ""


def test_labels_of_several_classes_and_a_single_class_are_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--label-errors", "--backbone", BACKBONE]
    for name in ("blue", "green"):
        shutil.rmtree(data / name)
    assert main(["check", str(data), *words]) == 2
    assert "at least two classes with 5 usable images" in capsys.readouterr().err
    listing = tmp_path / "list.csv"
    names = sorted(path.name for path in (data / "red").iterdir())
    listing.write_text("file,a,b\n" + "".join(f"{name},1,1\n" for name in names))
    assert main(["check", str(data / "red"), "--list", str(listing), *words]) == 2
    assert "one class for each image" in capsys.readouterr().err


def test_damage_that_leaves_nothing_to_judge_is_what_the_check_reports(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "red").rename(data / "red\twine")
    assert main(["check", str(data), "--label-errors", "--backbone", BACKBONE, "--json"]) == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["kind"] == "damaged" and "TAB" in problem["message"]


def test_the_features_are_those_of_the_engine(data: Path, weights: Path) -> None:
    from image_classification.cli.label_errors import backbone_features
    from image_classification.images.preprocessing import Preprocessing, preprocess

    content = (data / "red/red000.jpg").read_bytes()
    found = backbone_features(BACKBONE)(content)
    row = BACKBONES[BACKBONE]
    mean, std = row.normalization(3)
    spec = base.ModelSpec(BACKBONE, 2, (3, 32, 32), mean, std)
    reference = backends.load("reference")
    engine = reference.build(spec, base.OptimizerSpec(), base.World())
    state = reference.pretrained_state(row, weights)
    assert state is not None
    engine.load_state(state)
    images = Preprocessing(
        height=32, width=32, resize=row.resize, interpolation=row.interpolation, mean=mean, std=std
    )
    expected = engine.features_step(preprocess(content, images)[None])[0]
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
