"""The page of `check --html`: it shows what was found, escaped and bounded, and loads nothing."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from image_classification.cli import main
from image_classification.inventory.folders import take_inventory
from image_classification.pages.charts import histogram
from image_classification.prepare.channels import ChannelPlan, write_channels


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    Image.fromarray(coarse).resize((96, 72), Image.Resampling.BICUBIC).save(path)
    return path


def page(tmp_path: Path, *arguments: str | Path, code: int = 0) -> str:
    path = tmp_path / "page.html"
    assert main(["check", *map(str, arguments), "--html", str(path)]) == code
    text = path.read_text("utf-8")
    assert text.startswith("<!doctype html>") and text.rstrip().endswith("</html>")
    assert not re.search(r"<script|<link|https?://|src=\"(?!data:image/jpeg;base64,)", text)
    return text


def pictures(text: str) -> int:
    return text.count('<img src="data:image/jpeg;base64,')


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number in range(16):
        picture(tmp_path / "data" / ("cat", "dog")[number % 2] / f"{number}.jpg", number)
    return tmp_path / "data"


def test_the_page_shows_samples_histograms_problems_and_duplicates(
    data: Path, tmp_path: Path
) -> None:
    whole = (data / "cat/0.jpg").read_bytes()
    (data / "cat/cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (data / "dog/same.jpg").write_bytes(whole)
    with Image.open(data / "cat/2.jpg") as image:
        ImageOps.mirror(image).save(data / "cat/mirrored.png")
    text = page(tmp_path, data, code=1)
    assert "<h3>cat <small>10 images</small></h3>" in text
    for title in ("Shorter side, pixels", "Width to height", "Brightness, 0 to 255", "Sharpness"):
        assert f"<b>{title}</b>" in text
    assert "<h3>Images cannot be used <small>1</small></h3>" in text
    assert "this JPEG of 96 × 72 pixels" in text
    assert "<h3>Identical images of different classes <small>1 group</small></h3>" in text
    assert "<b>cat</b> · mirrored<br>data/cat/mirrored.png" in text
    assert "no preview" not in text  # the damaged JPEG is shown as far as it goes


def test_names_cannot_become_markup_on_the_page(data: Path, tmp_path: Path) -> None:
    evil = '<img src=x onerror="alert(1)">&'
    for number in range(2):
        picture(data / evil / f"{number}'\">.jpg", 100 + number)
    os.replace(picture(data / "cat/new.jpg", 200), os.fsencode(data / "cat") + b"/caf\xe9<b>.jpg")
    (data / "cat" / "<i>.jpg").write_bytes(b"<script>alert(2)</script>")
    text = page(tmp_path, data, code=1)
    assert "<img src=x" not in text and "<i>" not in text and "alert(1)&#34;" in text
    assert "&lt;img src=x onerror=&#34;alert(1)&#34;&gt;&amp;" in text
    assert "caf\\xe9&lt;b&gt;.jpg" in text


def test_of_many_classes_and_images_a_bounded_number_is_shown(tmp_path: Path) -> None:
    content = picture(tmp_path / "one.png", 0).read_bytes()
    for number in range(300):
        folder = tmp_path / "data" / f"class {number:03}"
        folder.mkdir(parents=True)
        for copy in range(1 + 8 * (number == 7)):
            (folder / f"{copy}.png").write_bytes(
                content + bytes([number % 256, number // 256, copy, 1])
            )
    text = page(tmp_path, tmp_path / "data")
    assert "Samples of 40 of 300 classes: those with the most images and those with the" in text
    assert "<h3>class 007 <small>9 images</small></h3>" in text
    assert "the 30 largest and smallest of 300 classes" in text
    assert "<p>and 304 more</p>" in text  # in the group of similar images
    assert pictures(text) < 100 and len(text) < 1_000_000


def test_one_class_records_and_several_labels_have_a_page(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "cat", tmp_path / "one" / "cat")
    text = page(tmp_path, tmp_path / "one", code=1)
    assert "images in 1\nclass." in text and "one-class" in text
    write_channels(take_inventory(data), tmp_path / "out", ChannelPlan(), lambda *_: None)
    text = page(tmp_path, tmp_path / "out")
    assert "train.rec#" in text and "<h3>dog <small>8 images</small></h3>" in text
    table = tmp_path / "labels.csv"
    lines = ["0.jpg,1,0", "2.jpg,1,1", "4.jpg,0,1", "6.jpg,0,0"]
    table.write_text("file,sun,sea\n" + "".join(f"{line}\n" for line in lines))
    text = page(tmp_path, data / "cat", "--list", table)
    assert "<h3>sun <small>2 images</small></h3>" in text and "<b>sun, sea</b>" in text


def test_without_an_image_the_page_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.rec").write_bytes(b"these are no records")
    text = page(tmp_path, tmp_path / "bad.rec", code=1)
    assert "damaged at byte 0" in text and not pictures(text)
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "x.jpg").write_bytes(b"nothing")
    assert "2 cannot be used" in page(tmp_path, tmp_path / "data", code=1)
    (tmp_path / "empty").mkdir()
    older = (tmp_path / "page.html").read_text()
    words = ["check", str(tmp_path / "empty"), "--html", str(tmp_path / "page.html")]
    assert main(words) == 2
    assert "ClientError: " in capsys.readouterr().err
    assert (tmp_path / "page.html").read_text() == older


def test_no_other_file_is_replaced_by_the_page(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "notes.txt"
    mine.write_text("mine")
    for words in (["--html", mine], ["--html", data], ["--html", "x", "--csv", "x"]):
        assert main(["check", str(data), *map(str, words)]) == 2
        assert "ClientError: " in capsys.readouterr().err
    assert mine.read_text() == "mine"


def test_a_histogram_has_a_bar_for_each_count_and_escapes_its_texts() -> None:
    figure = histogram("a<b", [0, 3, 1], ["0", "<", "", "9"])
    assert figure.count("<rect") == 3 and "a&lt;b" in figure and ">&lt;</text>" in figure
    assert 'height="206.0"' in figure and 'height="0.0"' in figure


def test_the_verdict_comes_first_and_a_problem_does_not_repeat_the_path(
    data: Path, tmp_path: Path
) -> None:
    (data / "cat" / "cut.jpg").write_bytes(b"cut")
    text = page(tmp_path, data, code=1)
    assert f"<title>Data set check: {data}</title>" in text
    assert text.index("Not ready for training: 1 error.") < text.index("<h2>Problems</h2>")
    problems = text[text.index("<h2>Problems</h2>") : text.index("<h2>Subsets</h2>")]
    assert ">Images cannot be used<" in problems and str(data) not in problems
    (data / "cat" / "cut.jpg").unlink()
    assert "Ready for training: no problems." in page(tmp_path, data)


def test_several_subsets_are_called_by_the_part_of_their_path_that_differs(
    data: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    for name in ("train", "val"):
        shutil.copytree(data, root / name)
    (root / "val" / "dog" / "cut.jpg").write_bytes(b"cut")
    text = page(tmp_path, root, code=1)
    problems = text[text.index("<h2>Problems</h2>") : text.index("<h2>Classes</h2>")]
    assert ">val: images cannot be used<" in problems and str(root) not in problems


def test_on_a_narrow_screen_the_cells_of_a_problem_are_below_each_other(
    data: Path, tmp_path: Path
) -> None:
    (data / "cat" / "cut.jpg").write_bytes(b"cut")
    text = page(tmp_path, data, code=1)
    assert '<table class="stacked">' in text and '<td class="" data-name="Images">1</td>' in text
    narrow = text[text.index("@media screen and (max-width: 44rem)") :]
    assert ".stacked td { display: block }" in narrow
