"""`rank`: which unlabeled images to label next; JSON, a list for `preprocess`, a contact sheet."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.contract.jobs import run_command


@pytest.fixture
def unlabeled(small_channels: dict[str, Path], tmp_path: Path) -> Path:
    """Thirty images of known colors, three of colors between two classes, one broken."""
    root = tmp_path / "photos"
    root.mkdir()
    for name in ("blue", "green", "red"):
        for path in sorted((small_channels["validation"] / name).iterdir())[:10]:
            shutil.copy(path, root)
    generator = np.random.default_rng(3)
    for number, bright in enumerate(([0, 1], [1, 2], [0, 2])):
        pixels = generator.integers(0, 90, (40, 48, 3))
        pixels[..., bright] += 120
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"between{number}.jpg", quality=95)
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    return root


def test_uncertain_images_come_first_and_unusable_ones_are_named(
    trained_job: Path, unlabeled: Path
) -> None:
    words = ("rank", unlabeled, "--model", trained_job / "model", "--count", "6", "--json")
    done = run_command(*words)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    ranking = found["ranking"]
    images = len(list(unlabeled.iterdir()))
    assert found["images"] == images and len(ranking) == 6
    names = [Path(row["file"]).name for row in ranking]
    assert names[0].startswith("between")
    assert sum(name.startswith("between") for name in names) >= 2
    assert ranking[0]["uncertainty"] == max(row["uncertainty"] for row in ranking)
    assert all(0 <= row["uncertainty"] <= 1 and Path(row["file"]).is_file() for row in ranking)
    assert [Path(row["file"]).name for row in found["unusable"]] == ["broken.jpg"]
    assert f"rank: {images}/{images} images" in done.stderr and "broken.jpg" in done.stderr


def test_the_list_is_for_preprocess_once_a_person_has_filled_in_the_labels(
    trained_job: Path, unlabeled: Path, tmp_path: Path
) -> None:
    listing, sheet = tmp_path / "next.csv", tmp_path / "next.png"
    words = ("rank", unlabeled, "--model", trained_job / "model", "--count", "12")
    done = run_command(*words, "--csv", listing, "--contact-sheet", sheet)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"12 of {len(list(unlabeled.iterdir()))} images to label next")
    with listing.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and {row["label"] for row in rows} == {""}
    with Image.open(sheet) as picture:
        assert picture.format == "PNG" and picture.width > 4 * 144
    for number, row in enumerate(rows):
        row["label"] = ("cold", "warm")[number % 2]
    with listing.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    out = tmp_path / "out"
    done = run_command("preprocess", "--input", unlabeled, "--list", listing, "--output", out)
    assert done.returncode == 0, done.stderr
    filled = listing.read_bytes()
    done = run_command(*words, "--csv", listing)
    assert done.returncode == 2 and "so that no label is lost" in done.stderr
    assert listing.read_bytes() == filled
    splits = json.loads((out / "findings.json").read_text())["splits"]
    assert sum(split["images"] for split in splits.values()) == 12
    assert set(splits["train"]["images_per_class"]) == {"cold", "warm"}


def test_without_features_the_probabilities_tell_images_apart(
    trained_job: Path, unlabeled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_classification.cli import main
    from image_classification.serving import runtime

    class WithoutOutputs(runtime.Runtime):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.outputs = frozenset()

    monkeypatch.setattr(runtime, "Runtime", WithoutOutputs)
    words = ["rank", str(unlabeled), "--model", str(trained_job / "model"), "--count", "3"]
    assert main(words) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--count", "0"), "--count 0: expected 1 to 5000"),
        (("--csv", "{folder}/between0.jpg"), "is also the file to read"),
        (("--contact-sheet", "{folder}/between0.jpg"), "is also the file to read"),
        (("--csv", "{folder}/notes.txt"), "is not a ranking"),
    ],
)
def test_nothing_of_the_user_is_replaced_and_mistakes_are_named(
    trained_job: Path, unlabeled: Path, words: tuple[str, ...], message: str
) -> None:
    (unlabeled / "notes.txt").write_text("mine\n")
    before = {path.name: path.read_bytes() for path in unlabeled.iterdir()}
    given = [word.format(folder=unlabeled) for word in words]
    done = run_command("rank", unlabeled, "--model", trained_job / "model", *given)
    assert done.returncode == 2 and message in done.stderr
    assert done.stderr.count("ClientError: ") == 1 and done.stdout == ""
    assert {path.name: path.read_bytes() for path in unlabeled.iterdir()} == before


def test_a_folder_without_a_usable_image_is_refused(trained_job: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    model = ("--model", trained_job / "model")
    done = run_command("rank", tmp_path / "photos", *model)
    assert done.returncode == 2 and "expected images in this folder, found none" in done.stderr
    (tmp_path / "photos/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    done = run_command("rank", tmp_path / "photos", *model)
    assert done.returncode == 2 and "expected a usable image, found none" in done.stderr
