"""`evaluate` in a terminal: the table of classes, the table of predictions, wrong arguments."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from image_classification.api.results import ClassScore
from image_classification.cli import main
from image_classification.cli.evaluate import table_lines
from tests.unit.api.test_predictions_file import read

GOLDEN = Path(__file__).parent.parent / "golden"
MODEL = str(GOLDEN / "artifacts" / "torch.tar.gz")
PICTURES = str(GOLDEN / "pictures" / "validation")


@pytest.fixture(autouse=True)
def runtime() -> None:
    pytest.importorskip("onnxruntime")


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["evaluate", *words]) == code
    out, error = capsys.readouterr()
    return error if code else out


def test_the_terminal_shows_the_metrics_an_interval_and_the_classes_with_the_worst_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = said(capsys, PICTURES, "--model", MODEL)
    found = json.loads(said(capsys, "--data", PICTURES, "--model", MODEL, "--json"))
    lines = text.splitlines()
    assert lines[0] == f"{found['samples']} images"
    assert lines[1:3] == [f"{name}: {found['metrics'][name]:.4f}" for name in ("loss", "accuracy")]
    low, high = found["accuracy_interval"]
    assert lines[3] == f"95% interval of the accuracy: {low:.4f} to {high:.4f}"
    assert low < found["metrics"]["accuracy"] <= high
    assert lines[4] == f"macro F1: {found['macro_f1']:.4f}" and lines[5] == ""
    assert lines[6].split() == ["class", "images", "recall", "precision", "F1"]
    rows = [line.split() for line in lines[7:]]
    assert sorted(row[0] for row in rows) == sorted(row["label"] for row in found["per_class"])
    assert [row[4] for row in rows] == sorted(row[4] for row in rows)


def test_of_many_classes_the_worst_are_shown_and_a_line_counts_the_others() -> None:
    scores = [ClassScore(f"class {n}", 5, n / 100, n / 100) for n in reversed(range(100))]
    scores.append(ClassScore("x" * 99 + "\x1b[31m\n", 3, 0.0, 0.0))
    lines = list(table_lines(scores))
    assert lines[2].startswith("class 0 ") and lines[3].startswith("x" * 39 + "…  ")
    assert len(lines) == 23 and lines[-1].startswith("… and 81 more classes")
    assert max(map(len, lines)) < 80


def test_the_table_of_predictions_has_every_image_and_the_accuracy_of_the_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "p.csv"
    found = json.loads(said(capsys, PICTURES, "--model", MODEL, "--json", "--csv", str(path)))
    rows = read(path)[1:]
    assert len(rows) == found["samples"]
    assert sum(int(row[4]) for row in rows) / len(rows) == found["metrics"]["accuracy"]
    assert {row[1] for row in rows} == {Path(row[0]).parent.name for row in rows}
    error = said(capsys, PICTURES, "--model", MODEL, "--csv", str(path), code=2)
    assert "ClientError: " in error and "--overwrite" in error
    said(capsys, PICTURES, "--model", MODEL, "--csv", str(path), "--overwrite")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "expected the labeled images to evaluate on, got none"),
        (["a", "--data", "b"], "the data are given twice, as a and as --data b"),
        (["a", "--overwrite"], "--overwrite has no effect without --csv or --report"),
        (["a", "--report", __file__], "expected a folder for the report, got a file"),
        (["a", "--report", f"{__file__}/x"], f"expected a folder to write, but {__file__} is a fi"),
        (["a", "--report", "x", "--csv", "a/../x/p.csv"], "is in the folder of --report"),
        (["a", "--csv", "."], "expected a file to write, got a folder"),
    ],
)
def test_wrong_arguments_are_refused_before_the_model_is_loaded(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = said(capsys, *words, "--model", "missing", code=2)
    assert error.startswith("ClientError: ") and reason in error


def test_skipped_records_are_named_by_their_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = tmp_path / "test"
    assert main(["list", str(prefix), PICTURES]) == 0
    assert main(["pack", f"{prefix}.lst", PICTURES]) == 0
    capsys.readouterr()
    picture = sorted(Path(PICTURES).glob("*/*.png"))[0]
    content, records = picture.read_bytes(), prefix.with_suffix(".rec").read_bytes()
    assert records.count(content) == 1
    damaged = content[:60] + bytes(len(content) - 60)
    prefix.with_suffix(".rec").write_bytes(records.replace(content, damaged))
    words = [f"{prefix}.rec", "--model", MODEL, "--json"]
    assert main(["evaluate", *words]) == 2
    (key,) = json.loads(capsys.readouterr().out)["skipped"]
    assert key.startswith("test.rec#") and key.endswith(f" ({picture.relative_to(PICTURES)})")
    listing = prefix.with_suffix(".lst")
    listing.write_text(listing.read_text().replace(picture.name, "\x1b[31m.png"))
    assert main(["evaluate", *words[:-1]]) == 2
    text = capsys.readouterr().out
    assert "\\x1b[31m.png): " in text and "\x1b" not in text  # a terminal must not obey a name


def test_a_report_of_the_test_images_has_the_sections_of_the_training_report_and_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "reports" / "first"
    found = json.loads(said(capsys, PICTURES, "--model", MODEL, "--json", "--report", str(folder)))
    assert sorted(path.name for path in folder.iterdir()) == ["predictions.csv", "report.html"]
    assert len(read(folder / "predictions.csv")) == found["samples"] + 1
    page = (folder / "report.html").read_text("utf-8")
    for section in ("Classes", "Confusion", "Most confident mistakes", "Borderline images"):
        assert f"<h2>{section}</h2>" in page
    for section in ("Thresholds", "Curves", "Calibration", "Data", "Model"):
        assert f"<h2>{section}</h2>" in page
    assert f'<span class="number">{found["metrics"]["accuracy"]:.1%}</span>' in page
    low, high = found["accuracy_interval"]
    assert f"95% interval {100 * low:.1f}–{100 * high:.1f}%" in page
    assert f"<b>{found['macro_f1']:.1%}</b>macro F1" in page
    assert page.count("<img ") >= 12 and 'alt=""' not in page
    assert "<script" not in page and not re.search(r'(src|href)="(?!data:image/jpeg|#)', page)


def test_a_report_replaces_nothing_but_an_earlier_report_and_only_if_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "report"
    words = [PICTURES, "--model", MODEL, "--report", str(folder)]
    folder.mkdir()
    said(capsys, *words)
    error = said(capsys, *words, code=2)
    assert error.startswith("ClientError: ") and "is not empty" in error and "--overwrite" in error
    before = (folder / "predictions.csv").read_bytes()
    said(capsys, *words, "--overwrite")
    assert (folder / "predictions.csv").read_bytes() == before
    (folder / "notes.txt").write_text("mine")
    error = said(capsys, *words, "--overwrite", code=2)
    assert "'notes.txt', which is not of an earlier report" in error
    (folder / "notes.txt").unlink()
    (folder / "report.html").write_text("<!doctype html>mine")
    error = said(capsys, *words, "--overwrite", code=2)
    assert "'report.html', which is not of an earlier report" in error
    assert (folder / "report.html").read_text() == "<!doctype html>mine"
    (folder / "report.html").unlink()
    (folder / "predictions.csv").write_text("mine")
    error = said(capsys, *words, "--overwrite", code=2)
    assert "predictions.csv exists and is not a table of predictions" in error
    assert (folder / "predictions.csv").read_text() == "mine"
