"""The list of `check --csv`: what it proposes, and that `preprocess` reads it."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from image_classification.cli import main
from image_classification.inventory.folders import take_inventory
from image_classification.inventory.rows import Inventory
from image_classification.inventory.tables import FORMULAS


def picture(path: Path, seed: int, scale: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    size = (12 * scale, 9 * scale)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for number in range(12):
        picture(root / ("cat", "dog")[number % 2] / f"{number}.jpg", number)
    return root


def review(path: Path, *arguments: str | Path) -> dict[str, dict[str, str]]:
    """Path → the other cells of its line."""
    assert main(["check", *map(str, arguments), "--csv", str(path)]) in (0, 1)
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return {row.pop("path"): row for row in csv.DictReader(file)}


def channels(root: Path, listing: Path, out: Path) -> dict[str, Any]:
    shutil.rmtree(out, ignore_errors=True)
    words = ["preprocess", "--input", root, "--list", listing, "--output", out]
    assert main(list(map(str, words))) == 0
    found: dict[str, Any] = json.loads((out / "findings.json").read_text())
    return found


def counts(findings: dict[str, Any]) -> dict[str, int]:
    total: dict[str, int] = {}
    for split in findings["splits"].values():
        for name, count in split["images_per_class"].items():
            total[name] = total.get(name, 0) + count
    return total


def test_preprocess_leaves_out_what_the_list_drops(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(data / "cat/0.jpg", data / "cat/copy.jpg")
    (data / "dog/bad.jpg").write_bytes(b"nothing")
    Image.new("RGB", (64, 64), "red").save(data / "dog/plain.png")
    rows = review(tmp_path / "r.csv", data)
    assert list(rows["cat/0.jpg"]) == ["label", "problem", "action", "was"]
    assert {path: row["action"] for path, row in rows.items() if row["action"]} == {
        "cat/copy.jpg": "drop",
        "dog/bad.jpg": "drop",
        "dog/plain.png": "drop",
    }
    assert rows["cat/copy.jpg"]["problem"] == f"identical to {data}/cat/0.jpg"
    assert rows["cat/2.jpg"] == {"label": "cat", "problem": "", "action": "", "was": ""}
    assert counts(channels(data, tmp_path / "r.csv", tmp_path / "out")) == {"cat": 6, "dog": 6}
    assert "left out 3 images that the list drops" in capsys.readouterr().err


def test_an_image_to_relabel_is_used_once_it_has_another_label(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(data / "cat/0.jpg", data / "dog/same.jpg")
    listing = tmp_path / "r.csv"
    rows = review(listing, data)
    assert rows["cat/0.jpg"]["action"] == "relabel" and rows["cat/0.jpg"]["was"] == "cat"
    assert rows["cat/0.jpg"]["problem"] == f"identical to {data}/dog/same.jpg, which is dog"
    assert rows["dog/same.jpg"]["action"] == "drop"
    assert counts(channels(data, listing, tmp_path / "out")) == {"cat": 5, "dog": 6}
    assert "1 image to relabel without a new label" in capsys.readouterr().err
    text = listing.read_text()
    listing.write_text(text.replace("cat/0.jpg,cat,", "cat/0.jpg,,"))
    assert counts(channels(data, listing, tmp_path / "out")) == {"cat": 5, "dog": 6}
    assert "1 image to relabel without a new label" in capsys.readouterr().err
    listing.write_text(text.replace("cat/0.jpg,cat,", "cat/0.jpg,dog,"))
    assert counts(channels(data, listing, tmp_path / "out")) == {"cat": 5, "dog": 7}
    listing.write_text(text.replace("relabel", ""))
    assert counts(channels(data, listing, tmp_path / "out")) == {"cat": 6, "dog": 6}


def test_a_list_that_drops_everything_or_says_anything_else_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = tmp_path / "r.csv"
    words = ["preprocess", "--input", data, "--list", listing, "--output", tmp_path / "out"]
    for action, expected in (
        ("drop", "each line says drop"),
        ("delete", "line 2: expected drop, relabel or nothing in the column action, got 'delete'"),
    ):
        listing.write_text(f"path,label,problem,action,was\ncat/0.jpg,cat,,{action},\n")
        assert main(list(map(str, words))) == 2
        error = capsys.readouterr().err
        assert "ClientError: " in error and expected in error


def test_images_in_several_splits_are_dropped_from_training_and_keep_their_split(
    tmp_path: Path,
) -> None:
    root = tmp_path / "data"
    for number, split in enumerate(("train", "train", "train", "train", "val", "val")):
        picture(root / split / ("cat", "dog")[number % 2] / f"{number}.jpg", number)
    shutil.copy(root / "val/cat/4.jpg", root / "train/cat/leak.jpg")
    with Image.open(root / "val/dog/5.jpg") as image:
        image.resize((60, 45)).save(root / "train/dog/small.jpg")
    rows = review(tmp_path / "r.csv", root)
    assert {row["split"] for row in rows.values()} == {"train", "validation"}
    dropped = {path for path, row in rows.items() if row["action"] == "drop"}
    assert dropped == {"train/cat/leak.jpg", "train/dog/small.jpg"}
    found = channels(root, tmp_path / "r.csv", tmp_path / "out")
    assert {name: split["images"] for name, split in found["splits"].items()} == {
        "train": 4,
        "validation": 2,
    }


def test_names_with_any_signs_and_bytes_come_back(data: Path, tmp_path: Path) -> None:
    names = (b'"q", <b>|x.jpg', b" blank .jpg", b"back\\slash.jpg", b"caf\xe9.jpg", b"a;b.jpg")
    for number, name in enumerate(names):
        picture(data / "cat/new.jpg", 1000 + number)
        os.replace(data / "cat/new.jpg", os.path.join(os.fsencode(data / "cat"), name))
    for number in range(2):
        picture(data / "a|b; [c]" / f"{number}.jpg", 2000 + number)
    review(tmp_path / "r.csv", data)
    assert counts(channels(data, tmp_path / "r.csv", tmp_path / "out")) == {
        "a|b; [c]": 2,
        "cat": 11,
        "dog": 6,
    }


def test_no_cell_of_a_list_is_a_formula_and_the_names_come_back(data: Path, tmp_path: Path) -> None:
    classes = ("=cmd()", "+1", "-1", "@x", "'=quoted", "'plain")
    for number, name in enumerate(classes):
        for image in range(2):
            picture(data / name / f"{image}.jpg", 3000 + 10 * number + image)
    listing = tmp_path / "r.csv"
    review(listing, data)
    with listing.open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(FORMULAS)]
    found = counts(channels(data, listing, tmp_path / "out"))
    assert found == {"cat": 6, "dog": 6, **dict.fromkeys(classes, 2)}


def test_blanks_at_the_ends_of_a_folder_do_not_make_its_images_ambiguous(tmp_path: Path) -> None:
    for number, folder in enumerate((" lead", "trail ", "plain")):
        picture(tmp_path / "data" / folder / "same.jpg", number)
        picture(tmp_path / "data" / folder / f"{number}.jpg", number + 9)
    listing = tmp_path / "review.csv"
    assert len(review(listing, tmp_path / "data")) == 6
    found = channels(tmp_path / "data", listing, tmp_path / "out")
    assert sum(counts(found).values()) == 6


def test_images_with_several_classes_keep_all_of_them(data: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    lines = ["0.jpg,1,0,0", "2.jpg,1,1,0", "4.jpg,0,0,1", "6.jpg,0,0,0", "8.jpg,0,1,1"]
    table.write_text("file,sun,sea,sand\n" + "".join(f"{line}\n" for line in lines))
    rows = review(tmp_path / "r.csv", data / "cat", "--list", table)
    assert [row["labels"] for row in rows.values()] == [
        '["sun"]', '["sun", "sea"]', '["sand"]', "[]", '["sea", "sand"]'
    ]  # fmt: skip
    first, second = (
        take_inventory(data / "cat", listing) for listing in (table, tmp_path / "r.csv")
    )
    assert first.is_multi_label and second.is_multi_label

    def classes(inventory: Inventory) -> dict[str, list[str]]:
        names = inventory.labels.names
        return {
            entry.path: sorted(n for n, bit in zip(names, entry.labels, strict=True) if bit)
            for entry in inventory.entries
        }

    assert classes(first) == classes(second)


def test_labels_that_are_no_classes_are_to_relabel(data: Path, tmp_path: Path) -> None:
    (data / "all.lst").write_text("0\t0\tcat/0.jpg\n1\t7\tdog/1.jpg\n2\t1\tdog/3.jpg\n")
    (data / "labels.json").write_text('{"labels": ["cat", "dog"]}')
    rows = review(tmp_path / "r.csv", data, "--list", data / "all.lst")
    assert rows["dog/1.jpg"]["action"] == "relabel" and rows["dog/1.jpg"]["label"] == "7"


def test_no_file_but_an_older_list_is_replaced_and_that_only_on_request(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = tmp_path / "r.csv"
    review(listing, data)
    written = listing.read_text()
    edited = written.replace("cat/0.jpg,cat,", "cat/0.jpg,dog,")
    listing.write_text(edited)
    assert main(["check", str(data), "--csv", str(listing)]) == 2
    assert "may have been edited: name another file, or replace it" in capsys.readouterr().err
    assert listing.read_text() == edited != written
    review(listing, data, "--overwrite")
    assert listing.read_text() == written
    assert main(["check", str(data), "--overwrite"]) == 2
    assert "--overwrite has no effect without --csv" in capsys.readouterr().err
    mine = tmp_path / "labels.csv"
    mine.write_text("file,label\ncat/0.jpg,cat\ndog/1.jpg,dog\n")
    for words in (["--csv", mine], ["--list", mine, "--csv", mine], ["--csv", tmp_path]):
        assert main(list(map(str, ["check", data, *words]))) == 2
        assert "Error: " in capsys.readouterr().err
    assert mine.read_text().startswith("file,label")


def test_a_file_that_cannot_be_written_is_refused_before_any_image_is_read(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (
        (data / "cat/0.jpg/r.csv", "0.jpg is a file"),
        (tmp_path / "pipe", "it is a device, pipe or socket"),
        (tmp_path / ("n" * 245), "its name has more than"),
        (tmp_path / ("n" * 300), "File name too long"),
        (tmp_path / "read-only/r.csv", f"{tmp_path} is read-only for this user"),
    ):
        is_writable = "read-only" not in reason  # to root, every folder of a writable disk is
        monkeypatch.setattr(os, "access", lambda *_, answer=is_writable: answer)
        assert main(["check", str(data), "--csv", str(path)]) == 2
        out, err = capsys.readouterr()
        assert not out and err.startswith("ClientError: ") and reason in err
    both = ["--csv", tmp_path / "x", "--html", tmp_path / "a/../x"]
    assert main(list(map(str, ["check", data, *both]))) == 2
    assert "are both" in capsys.readouterr().err


def test_blurred_images_are_a_note_only_among_sharp_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 256, (80, 80, 3)).astype(np.uint8)
        (root / str(number % 2)).mkdir(parents=True, exist_ok=True)
        sharp = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1))
        sharp.save(root / str(number % 2) / f"{number}.png")
    soft = Image.open(root / "1/5.png").filter(ImageFilter.GaussianBlur(3))
    stretched = np.asarray(soft, np.float32)
    stretched = (stretched - stretched.mean()) * 6 + 128  # smooth, but not plain
    Image.fromarray(stretched.clip(0, 255).astype(np.uint8)).save(root / "1/soft.png")
    assert main(["check", str(root), "--json"]) == 0
    problems = json.loads(capsys.readouterr().out)["problems"]
    found = [(p["kind"], p["severity"], p["images"]) for p in problems]
    assert ("blurred", "note", [f"{root}/1/soft.png"]) in found
