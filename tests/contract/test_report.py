"""The output of a job for people: report.html, model-card.md, and the names of the weights."""

from __future__ import annotations

import csv
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from image_classification.artifact import read_artifact
from tests.conftest import ClassFolders
from tests.contract.jobs import run_train, write_job

pytestmark = pytest.mark.thorough  # with torch, each run shows it

_VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects what a page refers to and its text, and checks that every element is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.references: list[str] = []
        self.text = ""
        self.feed(path.read_text("utf-8"))
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.references += [value or "" for name, value in attrs if name in {"src", "href"}]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(doubtful_job: Path) -> Page:
    return Page(doubtful_job / "model" / "report.html")


def test_the_report_is_one_file_without_network_or_script(page: Page, doubtful_job: Path) -> None:
    assert not page.tags & {"script", "link", "iframe", "object"}
    pictures = [r for r in page.references if not r.startswith("#")]
    assert pictures and all(r.startswith("data:image/jpeg;base64,") for r in pictures)
    assert "@import" not in (doubtful_job / "model" / "report.html").read_text()
    assert (doubtful_job / "model" / "report.html").stat().st_size < 400_000


def test_the_report_has_every_documented_section(page: Page) -> None:
    for section in ("Confusion", "Top confusions", "Classes", "Most confident mistakes"):
        assert section in page.text
    for section in ("Training", "Calibration", "Data", "Unusable images", "Hyperparameters"):
        assert section in page.text
    for section in ("Borderline images", "Thresholds", "Curves", "What the network sees"):
        assert section in page.text
    for chart in ("Learning rate", "Accuracy by coverage", "Precision and recall", "ROC"):
        assert chart in page.text


def test_the_most_confident_mistakes_are_the_wrong_labels_each_with_a_picture(page: Page) -> None:
    for number in range(8):
        assert f"red/blue{number:03d}.jpg" in page.text
    assert re.search(r"blue \d+\.\d%labeled red: ", page.text)


def test_the_report_names_what_was_skipped_and_what_was_given(page: Page) -> None:
    assert "green/green000.jpg" in page.text
    assert "mini_batch_size8" in page.text  # name, value
    assert re.search(r"weight_decay0\.0001", page.text)  # a default is shown as well


def test_the_model_card_has_the_usual_sections(doubtful_job: Path) -> None:
    card = (doubtful_job / "model" / "model-card.md").read_text()
    for part in ("Intended use", "Training data", "Evaluation", "Limitations"):
        assert f"## {part}" in card
    assert "started from random weights" in card
    assert "36 training and 59 validation images; 1 could not be read" in card
    assert "| blue | 12 |" in card


def test_best_and_last_weights_are_named(doubtful_job: Path, trained_job: Path) -> None:
    artifact = read_artifact(doubtful_job / "model")
    named = artifact.manifest["weights"]
    best = artifact.manifest["metrics"]["best_epoch"]
    assert named["weights.safetensors"] == {"epoch": best, "is": "best"}
    assert named["model.onnx"] == {"epoch": best, "is": "best"}
    assert named["weights-last.safetensors"] == {"epoch": 8, "is": "last"}
    weights = [load_file(artifact.directory / name) for name in sorted(named) if "weights" in name]
    same = all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert same is (best == 8)
    assert not (trained_job / "model" / "weights-last.safetensors").exists()


def test_values_of_a_preset_are_marked_as_such(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    given = {"preset": "scratch", "num_layers": 20, "image_shape": "3,32,32", "resize": 36}
    given |= {"epochs": 1, "mini_batch_size": 18}
    base = write_job(tmp_path / "ml", given, small_channels)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    page = Page(base / "model" / "report.html")
    assert "momentum (preset scratch)0.9" in page.text
    assert "epochs1" in page.text  # the job's own value wins
    assert "beta_10.9" in page.text  # in the list of defaults
    assert "momentum=0.9" in (base / "model" / "model-card.md").read_text()


def listed(path: Path) -> dict[str, dict[str, str]]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def test_the_validation_labels_that_the_model_contradicts_are_listed_for_preprocess(
    page: Page, doubtful_job: Path
) -> None:
    assert "Labels to review" in page.text
    assert "judge the labels of the 59 validation images" in page.text
    rows = listed(doubtful_job / "output/data/label-review-validation.csv")
    assert len(rows) == 60
    found = {path for path, row in rows.items() if row["problem"]}
    assert {path for path in found if "blue" in path} == {f"red/blue{n:03d}.jpg" for n in range(8)}
    for number in range(8):
        row = rows[f"red/blue{number:03d}.jpg"]
        assert row["problem"].startswith("perhaps blue (")
        assert (row["action"], row["was"]) in {("relabel", "red"), ("", "")}
        assert row["label"] == ("blue" if row["action"] else "red")


LATIN_1 = os.fsdecode(b"caf\xe9.jpg")


@pytest.fixture(scope="module")
def head_job(tmp_path_factory: pytest.TempPathFactory, write_class_folders: ClassFolders) -> Path:
    """A job that trains only the head, with a wrong label and an odd name in both channels."""
    root = tmp_path_factory.mktemp("head")
    channels = {
        "train": write_class_folders(root / "train", per_class=40),
        "validation": write_class_folders(root / "validation", per_class=20, seed=2),
    }
    for folder in channels.values():
        (folder / "blue/blue003.jpg").rename(folder / "red/wrong.jpg")
        (folder / "red/red004.jpg").rename(folder / "red" / LATIN_1)
    given = {"backbone": "resnet20", "image_shape": "3,32,32", "resize": 36, "epochs": 1}
    given |= {"train_only_top_layer": 1, "mini_batch_size": 20, "learning_rate": 0.1}
    base = write_job(root / "ml", given, channels)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    return base


def test_kept_features_judge_both_splits_and_tell_the_accuracy_to_expect(head_job: Path) -> None:
    page = Page(head_job / "model" / "report.html")
    text = " ".join(page.text.split())
    found = re.search(
        r"predicts (\d+\.\d)% of 180 images that it was not fitted on \(5-fold accuracy over train "
        r"and validation; 95% interval (\d+\.\d)% to (\d+\.\d)%\)",
        text,
    )
    assert found, text
    accuracy, low, high = map(float, found.groups())
    assert 90 < low < accuracy < high
    for split in ("train", "validation"):
        rows = listed(head_job / f"output/data/label-review-{split}.csv")
        suspects = {path for path, row in rows.items() if "perhaps" in row["problem"]}
        assert f"red/{LATIN_1}" in rows  # as the file is called, so that preprocess finds it
        assert "red/wrong.jpg" in suspects and len(suspects) <= 0.05 * len(rows)
        assert f"{split}: red/wrong.jpg" in text
        assert list(rows["red/wrong.jpg"]) == ["path", "label", "problem", "action", "was"]
