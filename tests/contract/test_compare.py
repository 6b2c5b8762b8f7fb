"""`compare` on two tiny runs: figures, settings, curves, the same images, and the page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import image_classification as ic
from image_classification.api import recorded_run
from image_classification.cli import main
from image_classification.cli.compare import page
from tests.conftest import ClassFolders
from tests.contract.conftest import EVIL
from tests.golden.cases import unpacked

ARTIFACTS = Path(__file__).parent.parent / "golden" / "artifacts"


def said(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> str:
    assert main(["compare", *map(str, words)]) == code
    out, error = capsys.readouterr()
    return error if code else out


def answers(run: Path) -> dict[str, tuple[str, str]]:
    """Return key → (class, answer) of the validation images."""
    names = json.loads((run / "labels.json").read_text())["labels"]
    found = {}
    for text in (run / "validation-predictions.jsonl").read_text().splitlines():
        line = json.loads(text)
        best = line["probabilities"].index(max(line["probabilities"]))
        found[line["key"]] = line["label"], names[best]
    return found


def test_the_figures_the_settings_and_the_answers_of_the_runs_are_compared(
    two_runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(said(capsys, *two_runs, "--json"))
    first, other = map(answers, two_runs)
    assert [run["name"] for run in found["runs"]] == ["a", "b"] and found["images"] == len(first)
    right = [sum(label == answer for label, answer in one.values()) for one in (first, other)]
    assert [run["correct"] for run in found["runs"]] == right
    changed = {key for key in first if first[key][1] != other[key][1]}
    assert changed and {one["file"] for one in found["changed"]} == changed
    for one in found["changed"]:
        key = one["file"]
        assert one["label"] == first[key][0]
        assert one["answers"] == {"a": first[key][1], "b": other[key][1]}
    assert set(found["given"]) == {"epochs", "learning_rate"}
    assert found["given"]["epochs"] == {"a": "3", "b": "1"}
    assert found["effective"]["schedule.learning_rate"] == {"a": 0.01, "b": 1e-05}
    assert not any("seed" in name for name in found["effective"])
    (duel,) = found["differences"]
    assert duel["only_other_correct"] - duel["only_first_correct"] == right[1] - right[0]
    low, high = duel["interval"]
    assert low <= duel["accuracy_difference"] == (right[1] - right[0]) / len(first) <= high


def test_the_terminal_shows_a_table_and_whether_the_difference_is_more_than_chance(
    two_runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, *two_runs)
    assert re.search(r"^ +a +b$", text, re.MULTILINE)
    assert re.search(r"^epochs +3 +1$", text, re.MULTILINE)
    assert re.search(r"^given settings that differ +a +b$", text, re.MULTILINE)
    duel = json.loads(said(capsys, *two_runs, "--json"))["differences"][0]
    verdict = "a is better" if duel["p_value"] < 0.05 else "do not show which is better"
    assert "b against a: -" in text and "(McNemar): " in text and verdict in text
    assert "--output FILE.html shows them" in text


def test_labeled_images_are_predicted_now_and_give_the_answers_of_the_model(
    two_runs: tuple[Path, Path], run_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(said(capsys, *two_runs, "--data", run_data, "--json"))
    for run, path in zip(found["runs"], two_runs, strict=True):
        assert run["correct"] / found["images"] == ic.load(path).evaluate(run_data).accuracy
    assert found["images"] == 36 and found["basis"] == str(run_data)


def test_the_page_shows_curves_settings_and_pictures_and_loads_nothing(
    two_runs: tuple[Path, Path], run_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "compare.html"
    said(capsys, *two_runs, "--data", run_data, "--output", path)
    text = path.read_text("utf-8")
    assert not re.search(r"<script|<link|https?://|@import|src=\"(?!data:image/jpeg;base64,)", text)
    for part in ("Validation accuracy", "Validation loss", "Learning rate", "learning_rate"):
        assert part in text
    changed = json.loads(said(capsys, *two_runs, "--data", run_data, "--json"))["changed"]
    assert text.count('<img src="data:image/jpeg;base64,') == len(changed) > 0
    assert EVIL not in text and "&lt;b&gt;&amp;blue" in text
    error = said(capsys, *two_runs, "--output", path, code=2)
    assert error.startswith("ClientError: ") and "--overwrite" in error
    said(capsys, *two_runs, "--output", path, "--overwrite")
    assert "<img" not in path.read_text("utf-8")  # the files of validation images are not known


def test_the_page_does_without_a_picture_whose_file_is_gone(
    two_runs: tuple[Path, Path], run_data: Path, tmp_path: Path
) -> None:
    data = copy(run_data, tmp_path / "data")
    found = ic.compare(two_runs, data=data)
    shutil.rmtree(data)
    text = page(found)
    assert "<img" not in text and text.count("no preview") == len(found.changed()) > 0


def test_records_are_the_same_images_whether_a_run_knows_their_names_or_not(
    two_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [copy(run, tmp_path / run.name) for run in two_runs]
    for path, suffix in zip(paths, (" (a (b)/1.jpg)", ""), strict=True):
        file = path / "validation-predictions.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        keys = [f"val.rec#{number}{suffix}" for number in range(len(lines))]
        texts = (json.dumps(one | {"key": key}) for one, key in zip(lines, keys, strict=True))
        file.write_text("\n".join(texts))
    found = json.loads(said(capsys, *paths, "--json"))
    assert found["images"] == len(lines) and len(found["changed"]) > 0
    assert all(one["file"].endswith(" (a (b)/1.jpg)") for one in found["changed"])


def copy(run: Path, target: Path) -> Path:
    shutil.copytree(run, target)
    return target


def test_files_of_another_run_are_left_out_with_a_reason(
    two_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = copy(two_runs[0], tmp_path / "mixed")
    for name in ("history.json", "validation-predictions.jsonl"):
        shutil.copy(two_runs[1] / name, mixed / name)
    found = json.loads(said(capsys, two_runs[0], mixed, "--json"))
    remarks = " ".join(found["remarks"])
    assert "its best epoch is not that of the model" in remarks
    assert "not the predictions that the model was measured with" in remarks
    assert found["images"] == 0 and "--data" in remarks and found["differences"] == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'{"epochs": [], "best_epoch": 1}', b"[" * 9999, b"\xff"]
)
def test_damaged_files_next_to_a_model_are_left_out_with_a_reason(
    two_runs: tuple[Path, Path], tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = copy(two_runs[0], tmp_path / "damaged")
    for name in ("history.json", "validation-predictions.jsonl"):
        (damaged / name).write_bytes(content)
    found = json.loads(said(capsys, two_runs[1], damaged, "--json"))
    assert sum("damaged: " in one and "is left out" in one for one in found["remarks"]) == 2


def test_a_history_that_the_disk_does_not_give_is_left_out_with_a_reason(
    two_runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreadable(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(recorded_run, "_add_history", unreadable)
    found = json.loads(said(capsys, *two_runs, "--json"))
    assert sum("Permission denied" in one for one in found["remarks"]) == 2


def test_a_manifest_that_counts_no_predictions_is_no_reason_to_fail(
    two_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = copy(two_runs[0], tmp_path / "changed")
    manifest = json.loads((changed / "manifest.json").read_text())
    manifest["metrics"]["validation_samples"] = 0
    (changed / "manifest.json").write_text(json.dumps(manifest))
    (changed / "validation-predictions.jsonl").write_bytes(b"")
    found = json.loads(said(capsys, two_runs[1], changed, "--json"))
    assert any("validation-predictions.jsonl is left out" in one for one in found["remarks"])


def test_models_without_files_and_with_other_classes_are_compared_as_far_as_possible(
    tmp_path: Path, write_class_folders: ClassFolders, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_class_folders(tmp_path / "data", per_class=3)
    models = [ARTIFACTS / f"{name}.tar.gz" for name in ("torch", "torch-two-classes")]
    names = [ic.load(path).labels for path in models]
    common = set(names[0]) & set(names[1])
    assert common and len(set(names[0]) | set(names[1])) > len(common)
    found = json.loads(said(capsys, *models, "--data", data, "--json"))
    remarks = " ".join(found["remarks"])
    assert found["images"] == 3 * len(common & {"blue", "green", "red"})
    assert "images are left out: a run lacks their class" in remarks
    assert "that another run lacks" in remarks and "no history.json" in remarks
    path = tmp_path / "page.html"
    said(capsys, *models, "--output", path)
    assert "No run has a history of its epochs" in path.read_text("utf-8")


def test_a_job_in_a_base_folder_is_a_run_with_its_output(
    two_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "ml"
    copy(two_runs[0], base / "model")
    (base / "output" / "data").mkdir(parents=True)
    for name in ("history.json", "validation-predictions.jsonl"):
        (base / "model" / name).rename(base / "output" / "data" / name)
    for run in (base, base / "model"):
        found = json.loads(said(capsys, two_runs[1], run, "--json"))
        assert found["runs"][1]["epochs"] == 3 and found["images"] > 0


def test_with_several_comparisons_the_p_values_hold_together(
    two_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, other = two_runs
    (alone,) = json.loads(said(capsys, first, other, "--json"))["differences"]
    third, fourth = (copy(run, tmp_path / name) for run, name in ((other, "c"), (first, "d")))
    found = json.loads(said(capsys, first, other, third, fourth, "--json"))["differences"]
    assert [one["other"] for one in found] == ["b", "c", "d"]
    holm = min(1.0, 3 * alone["p_value"])  # the smallest of three
    assert [one["p_value"] for one in found] == pytest.approx([holm, holm, 1.0])


def test_an_image_of_several_classes_is_right_if_it_has_exactly_these(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, rows in (
        ("a", [[0.9, 0.2, 0.6], [0.1, 0.1, 0.1]]),
        ("b", [[0.9, 0.6, 0.6], [0.1, 0.1, 0.4]]),
    ):
        run = unpacked(ARTIFACTS / "torch-several-labels.tar.gz", tmp_path / name)
        labels = json.loads((run / "labels.json").read_text())["labels"]
        count = json.loads((run / "manifest.json").read_text())["metrics"]
        lines = [
            {"key": f"{n}.jpg", "labels": [labels[2], labels[0]], "probabilities": row}
            if n == 0
            else {"key": f"{n}.jpg", "labels": [], "probabilities": row}
            for n, row in enumerate([rows[0], *[rows[1]] * (count["validation_samples"] - 1)])
        ]
        text = "\n".join(map(json.dumps, lines))
        (run / "validation-predictions.jsonl").write_text(text)
    found = json.loads(said(capsys, tmp_path / "a", tmp_path / "b", "--json"))
    assert [run["correct"] for run in found["runs"]] == [found["images"], found["images"] - 1]
    (changed,) = found["changed"]
    assert changed["label"] == changed["answers"]["a"] == "|".join(sorted([labels[0], labels[2]]))
    assert "exactly the classes" in " ".join(found["remarks"])


def test_runs_of_one_name_are_told_apart_by_their_folders(
    two_runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = copy(two_runs[0], tmp_path / "other" / "a")
    found = json.loads(said(capsys, two_runs[0], other, "--json"))
    assert [run["name"] for run in found["runs"]] == [f"{two_runs[0].parent.name}/a", "other/a"]
    assert found["changed"] == [] and found["given"] == found["effective"] == {}
    assert "no setting differs" in said(capsys, two_runs[0], other)


def wrong(root: Path) -> list[tuple[list[Any], str]]:
    (root / "notes.txt").write_text("mine")
    (root / "empty").mkdir()
    return [
        (["a"], "expected 2 to 8 runs to compare, got 1"),
        (["a"] * 9, "expected 2 to 8 runs to compare, got 9"),
        (["a", "./a"], "got one of them twice"),
        (["a", "empty"], "manifest.json is missing"),
        (["a", "b", "--overwrite"], "--overwrite has no effect without --output"),
        (["a", "b", "--output", "empty"], "expected a file to write, got a folder"),
        (["a", "b", "--output", "notes.txt", "--overwrite"], "is not a page"),
    ]


def test_wrong_arguments_are_refused_with_what_to_do(
    two_runs: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for run in two_runs:
        (tmp_path / run.name).symlink_to(run)
    monkeypatch.chdir(tmp_path)
    for words, reason in wrong(tmp_path):
        error = said(capsys, *words, code=2)
        assert error.startswith("ClientError: ") and reason in error
    assert (tmp_path / "notes.txt").read_text() == "mine"
