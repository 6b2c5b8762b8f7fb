"""`predict` and `evaluate` on files and folders: order, both formats, unusable images."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.contract.jobs import run_command


@pytest.fixture
def photos(small_channels: dict[str, Path], tmp_path: Path) -> Path:
    """A folder with a subfolder: nine images, one of them broken, and a file that is no image."""
    root = tmp_path / "photos"
    for name in ("blue", "green", "red"):
        (root / name).mkdir(parents=True)
        for number in range(3):
            source = small_channels["validation"] / name / f"{name}{number:03d}.jpg"
            (root / name / source.name).write_bytes(source.read_bytes())
    (root / "green" / "green001.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    (root / "notes.txt").write_text("not an image")
    (root / ".hidden.jpg").write_bytes(b"")
    return root


ORDER = [
    f"{name}/{name}{number:03d}.jpg" for name in ("blue", "green", "red") for number in range(3)
]


def test_a_folder_is_predicted_in_order_and_a_bad_image_has_a_line_of_its_own(
    trained_job: Path, photos: Path
) -> None:
    done = run_command("predict", "--model", trained_job / "model", photos)
    assert done.returncode == 2
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["image"] for line in lines] == [str(photos / name) for name in ORDER]
    assert [Path(line["image"]).name for line in lines if "error" in line] == ["green001.jpg"]
    for line in lines:
        if "error" not in line:
            assert line["predicted_label"] == line["labels"][0] == Path(line["image"]).parent.name
            assert line["probabilities"] == sorted(line["probabilities"], reverse=True)
    assert "predict: 9/9 images" in done.stderr
    assert "1 of 9 images could not be used" in done.stderr and "notes.txt" in done.stderr


def test_the_table_has_a_column_for_each_class_or_pairs_of_the_selected(
    trained_job: Path, photos: Path
) -> None:
    words = ("predict", "--model", trained_job / "model", "--format", "csv")
    rows = list(csv.DictReader(run_command(*words, photos).stdout.splitlines()))
    assert list(rows[0]) == ["image", "predicted_label", "error", "blue", "green", "red"]
    assert [row["image"] for row in rows] == [str(photos / name) for name in ORDER]
    for row in rows:
        if row["error"]:
            assert row["image"].endswith("green001.jpg") and not row["predicted_label"]
        else:
            cells = [row[name] for name in ("blue", "green", "red")]
            assert cells == [repr(float(f"{float(cell):.9g}")) for cell in cells]
            p = [float(cell) for cell in cells]
            assert sum(p) == pytest.approx(1, abs=1e-5)
            assert ("blue", "green", "red")[int(np.argmax(p))] == row["predicted_label"]
    done = run_command(*words, "--top-k", "2", "--threshold", "0.5", photos)
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert list(rows[0])[3:] == ["label_1", "probability_1", "label_2", "probability_2"]
    assert {row["label_2"] for row in rows} == {""}
    assert {row["label_1"] for row in rows} <= {"", "blue", "green", "red"}
    for row in rows:
        if row["label_1"]:
            assert row["label_1"] == row["predicted_label"] and float(row["probability_1"]) >= 0.5


def test_the_output_file_appears_whole_with_the_printed_content(
    trained_job: Path, photos: Path, tmp_path: Path
) -> None:
    words = ("predict", "--model", trained_job / "model", photos)
    output = tmp_path / "new" / "answers.jsonl"
    done = run_command(*words, "--output", output)
    assert done.returncode == 2 and done.stdout == ""
    assert output.read_text() == run_command(*words).stdout
    assert [path.name for path in output.parent.iterdir()] == ["answers.jsonl"]


def test_the_contact_sheet_shows_each_image_above_its_class(
    trained_job: Path, photos: Path, tmp_path: Path
) -> None:
    sheet = tmp_path / "sheet.png"
    words = ("predict", "--model", trained_job / "model", "--contact-sheet", sheet)
    assert run_command(*words, photos).returncode == 2
    with Image.open(sheet) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    cells = [
        pixels[8 + row * 168 :, 8 + column * 152 :][:144, :144]
        for row in range(3)
        for column in range(3)
    ]
    for number, cell in enumerate(cells):
        middle = cell[60:84, 60:84].mean((0, 1))
        if number == 4:
            assert (middle == 255).all() and tuple(cell[0, 0]) == (190, 30, 30)
        else:  # blue, green, red; see write_class_folders for its colors
            assert int(middle.argmax()) == (number // 3 + 2) % 3
    captions = [pixels[8 + 146 + row * 168 :][:14] for row in range(3)]
    assert all((caption < 128).any() for caption in captions)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--top-k", "0"], "--top-k 0"),
        (["--threshold", "1.5"], "--threshold 1.5"),
        (["--output", "{photos}/blue/blue000.jpg"], "is also the file to read"),
        (["--contact-sheet", "{photos}/red/red000.jpg"], "is also the file to read"),
        (["--contact-sheet", "{photos}/notes.txt"], "is not a PNG"),
        (["{empty}"], "expected images in this folder"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_written(
    trained_job: Path, photos: Path, tmp_path: Path, options: list[str], part: str
) -> None:
    (tmp_path / "empty").mkdir()
    before = {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()}
    words = [word.format(photos=photos, empty=tmp_path / "empty") for word in options]
    done = run_command("predict", "--model", trained_job / "model", photos, *words)
    assert done.returncode == 2 and done.stdout == ""
    assert "ClientError: " in done.stderr and part in done.stderr
    assert {path: path.read_bytes() for path in before} == before


def test_names_and_files_of_every_kind_are_predicted(
    trained_job: Path, small_channels: dict[str, Path], tmp_path: Path
) -> None:
    content = (small_channels["validation"] / "red" / "red000.jpg").read_bytes()
    strange = os.fsencode(tmp_path) + b'/ros\xe9, "red".jpg'
    Path(os.fsdecode(strange)).write_bytes(content)
    words = ("predict", "--model", trained_job / "model", "--format", "csv", "--top-k", "1")
    done = run_command(*words, tmp_path, tmp_path / "missing.jpg")
    assert done.returncode == 2
    head, first, second = csv.reader(done.stdout.splitlines())
    assert first[0].endswith('ros\\udce9, "red".jpg') and first[1] == "red"
    assert "cannot be read: No such file" in second[head.index("error")]


def test_evaluate_shows_its_progress_and_counts_the_same_images(
    trained_job: Path, photos: Path
) -> None:
    done = run_command("evaluate", "--model", trained_job / "model", "--data", photos, "--json")
    assert done.returncode == 2
    said = json.loads(done.stdout)
    assert said["samples"] == 8 and list(said["skipped"]) == ["green/green001.jpg"]
    assert "evaluate: 9/9 images" in done.stderr
