"""`tune DATA`: settings are tried on kept features, and the run has the best ones."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

import image_classification as ic
from image_classification import events
from image_classification.api import tuning
from image_classification.api.runs import Run
from image_classification.api.tuning import Plan, tune_data
from image_classification.artifact import read_artifact
from image_classification.cli import tune
from image_classification.errors import BackendError, DataError, UsageError
from image_classification.training import trials
from image_classification.training.job import run_job
from image_classification.training.stopping import StopRequest
from tests.conftest import ClassFolders
from tests.contract.jobs import read_to, run_command

TINY = {
    "use_pretrained_model": "0",
    "image_shape": "3,32,32",
    "batch_size": "8",
    "epochs": "2",
    "min_updates": "0",
    "weight_decay": "0.02",
}
"""A search on random features, in seconds; the weight decay is the user's."""
WORDS = [word for name, value in TINY.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory, write_class_folders: ClassFolders) -> Path:
    root = tmp_path_factory.mktemp("data") / "flowers"
    return write_class_folders(root, size=(32, 32))


@pytest.fixture(scope="module")
def tuned(flowers: Path) -> dict[str, Any]:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    done = run_command("tune", "flowers", "--backbones", "resnet20", *WORDS, "--json",
        folder=flowers.parent)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {"folder": flowers.parent, "log": done.stderr, **json.loads(done.stdout)}


def test_the_json_has_every_trial_and_the_accuracy_on_images_that_had_no_part_in_the_choice(
    tuned: dict[str, Any],
) -> None:
    rates = [row["learning_rate"] for row in tuned["trials"]]
    assert rates == [0.03, 0.09, 0.01]
    for row in tuned["trials"]:
        assert row["backbone"] == "resnet20" and row["preset"] == "transfer"
        assert row["images"] == 30 and row["folds"] == 5 and not row["diverged"]
        low, high = row["interval"]
        assert 0 <= low <= row["accuracy"] <= high <= 1
        assert row["cpu_seconds"] >= 0 and row["seconds"] >= 0
    assert [row for row in tuned["trials"] if row["chosen"]] == [tuned["chosen"]]
    assert tuned["backbones"][0]["images"] == 30
    assert tuned["validation"]["images"] == 6 and "test" not in tuned
    assert [row["name"] for row in tuned["skipped"]] == ["preset=fine-tune"]
    assert tuned["ended_early"] == ""
    assert "resnet20: features: 30/30 images" in tuned["log"]
    assert "resnet20: heads: 15/15 heads" in tuned["log"]


def test_the_run_has_the_settings_of_the_chosen_row_and_those_of_the_user(
    tuned: dict[str, Any],
) -> None:
    assert tuned["model"] == "runs/flowers-1"
    folder = tuned["folder"] / tuned["model"]
    job = read_artifact(folder).manifest["hyperparameters"]
    assert job["schedule"]["learning_rate"] == tuned["chosen"]["learning_rate"]
    assert job["optimizer"]["weight_decay"] == tuned["chosen"]["weight_decay"] == 0.02
    assert job["backbone"] == "resnet20" and job["train_only_head"]
    kept = json.loads((folder / "trials.json").read_text())
    assert kept["chosen"] == tuned["chosen"] and kept["trials"] == tuned["trials"]
    assert not (folder / "checkpoints").exists() and not (folder / ".channels").exists()


def test_a_search_out_of_time_trains_with_the_usual_settings_and_says_so(
    flowers: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    given: dict[str, Any] = TINY | {"epochs": 1}
    output = tmp_path / "run"
    with caplog.at_level("INFO", "image_classification"):
        model = ic.tune(
            flowers, backbones=["resnet20", "resnet32"], minutes=1e-6, output=output, **given
        )
    assert "No trial was finished: the run has the usual settings" in caplog.text
    found = json.loads((output / "trials.json").read_text())
    assert found["chosen"] is None and "have passed" in found["ended_early"]
    left_out = {row["name"]: row["reason"] for row in found["skipped"]}
    assert {name for name, why in left_out.items() if "search ended" in why} == {
        "resnet20",
        "resnet32",
    }
    assert read_artifact(output).manifest["hyperparameters"]["schedule"]["learning_rate"] == 0.03
    assert model.trials == []


def test_the_model_in_python_has_the_trials_of_the_search(tuned: dict[str, Any]) -> None:
    model = ic.load(tuned["folder"] / tuned["model"])
    assert model.trials == tuned["trials"]
    (model.path / "trials.json").write_text("[1]")
    with pytest.raises(ic.UserError, match="expected the trials of tune"):
        model.trials  # noqa: B018


def test_the_number_of_trials_is_shared_by_the_backbones() -> None:
    found = tuning._planned({"a": list("123"), "b": list("456")}, 4)  # type: ignore[dict-item]
    assert found == {"a": ["1", "2"], "b": ["4", "5"]}


@pytest.mark.parametrize(
    ("given", "plan", "error", "said"),
    [
        ({}, {"backbones": ("mobilenet_v3",)}, BackendError, "did you mean 'mobilenet_v2'"),
        ({}, {"backbones": ("resnet18",)}, BackendError, "not one of resnet18 has pretrained"),
        ({"preset": "best"}, {}, UsageError, "preset=best"),
        ({"num_layers": "18"}, {}, UsageError, "--backbones"),
        ({"backbone": "resnet20"}, {"backbones": ("resnet32",)}, UsageError, "keep one"),
        (TINY | {"mixup_alpha": "0.2"}, {"backbones": ("resnet20",)}, UsageError, "mix images"),
        (
            TINY | {"train_only_top_layer": "0"},
            {"backbones": ("resnet20",)},
            UsageError,
            "all layers are trained",
        ),
    ],
)
def test_what_cannot_be_tuned_is_refused_with_a_reason_and_leaves_nothing(
    flowers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, str],
    plan: dict[str, Any],
    error: type[Exception],
    said: str,
) -> None:
    monkeypatch.setenv("IMAGE_CLASSIFICATION_WEIGHTS_DIR", str(tmp_path))
    with pytest.raises(error, match=said):
        tune_data(flowers, tmp_path / "run", given, Plan(**plan))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "plan",
    [
        {"trials": 0},
        {"minutes": 0.0},
        {"minutes": float("nan")},
        {"images": 9},
        {"presets": ("best",)},
        {"presets": ("fine-tune",)},
        {"presets": ("transfer", "scratch")},
    ],
)
def test_a_budget_of_nothing_and_a_recipe_that_cannot_be_tried_are_refused(
    plan: dict[str, Any],
) -> None:
    with pytest.raises(UsageError, match="expected"):
        Plan(**plan)


def test_an_old_model_is_not_replaced_unless_the_user_says_so(
    tuned: dict[str, Any], flowers: Path
) -> None:
    folder = tuned["folder"] / tuned["model"]
    before = (folder / "manifest.json").stat().st_mtime_ns
    with pytest.raises(UsageError, match="holds a model already"):
        tune_data(flowers, folder, TINY, Plan(backbones=("resnet20",)))
    assert (folder / "manifest.json").stat().st_mtime_ns == before


def test_too_few_images_to_choose_on_are_refused(
    tmp_path: Path, write_class_folders: ClassFolders
) -> None:
    data = write_class_folders(tmp_path / "few", ("a", "b"), per_class=5)
    with pytest.raises(DataError, match="expected at least 10 training images"):
        tune_data(data, tmp_path / "run", TINY, Plan(backbones=("resnet20",)))


def test_training_all_layers_is_tried_on_one_fold_and_the_run_has_the_recipe_that_is_chosen(
    flowers: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    plan = Plan(("resnet20",), ("transfer", "fine-tune"), images=20, trials=1)
    given = TINY | {"learning_rate": "0.01"}
    with caplog.at_level("INFO", "image_classification"):
        folder, search = tune_data(flowers, tmp_path / "run", given, plan)
    assert "Trying on 21 of 30 training images (--images 20)" in caplog.text  # 7 of each class
    head, whole = search.to_json()["trials"]
    assert (head["preset"], head["folds"], head["images"]) == ("transfer", 5, 21)
    assert (whole["preset"], whole["folds"]) == ("fine-tune", 1) and 3 <= whole["images"] <= 6
    job = read_artifact(folder).manifest["hyperparameters"]
    assert job["train_only_head"] == head["chosen"] == (not whole["chosen"])
    assert "resnet20: all layers:" in capsys.readouterr().err


def test_what_does_not_fit_into_memory_is_skipped_and_the_best_of_the_others_is_trained(
    flowers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    run_trials = trials.run_trials

    def tight(candidates: Any, *rest: Any) -> Any:
        if candidates[0].backbone == "resnet32":
            raise MemoryError("on cuda: out of memory")
        return run_trials(candidates, *rest)

    def too_tight(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(trials, "run_trials", tight)
    monkeypatch.setattr(trials, "judge_whole", too_tight)
    plan = Plan(("resnet20", "resnet32"), ("transfer", "fine-tune"), trials=2)
    folder, search = tune_data(flowers, tmp_path / "run", TINY, plan)
    assert read_artifact(folder).manifest["backbone"] == "resnet20"
    assert search.skipped == {
        "resnet32": "on cuda: out of memory",
        "preset=fine-tune": "out of memory",
    }
    monkeypatch.setattr(trials, "run_trials", too_tight)
    with pytest.raises(MemoryError):
        tune_data(flowers, tmp_path / "none", TINY, plan)


def test_the_table_marks_the_chosen_row_and_says_what_the_accuracies_are_of() -> None:
    row = {"backbone": "a", "preset": "transfer", "learning_rate": 0.03, "weight_decay": 0.04}
    row |= {"images": 100, "folds": 5, "diverged": False, "cpu_seconds": 1.0, "seconds": 2.0}
    chosen = row | {"accuracy": 0.9, "interval": [0.826, 0.945], "chosen": True}
    better = row | {"backbone": "b", "accuracy": 0.91, "interval": [0.838, 0.952], "chosen": False}
    lucky = better | {"backbone": "c", "accuracy": 1.0, "images": 20, "folds": 1}
    lost = better | {"backbone": "d", "accuracy": None, "interval": None, "diverged": True}
    found = {
        "trials": [chosen, better, lucky, lost],
        "chosen": chosen,
        "backbones": [],
        "skipped": [{"name": "e", "reason": "no weights"}],
        "ended_early": "",
        "model": "runs/a b",
        "validation": {"accuracy": 0.88, "interval": [0.7, 0.95], "images": 50},
    }
    text = "\n".join(tune.table(found))
    marked = [line for line in text.splitlines() if line.startswith("*  ")]
    assert len(marked) == 1 and marked[0].split()[:2] == ["*", "a"]
    assert "b with learning rate 0.03 and weight decay 0.04 is the most accurate, but not" in text
    assert "diverged" in text and "not tried: e: no weights" in text
    assert "validation accuracy of the run: 88.0% (70.0 to 95.0) of 50 images" in text
    assert text.endswith("predict --model 'runs/a b' IMAGE")
    head = ["backbone", "rate", "decay", "accuracy", "95%", "interval", "images", "CPU", "s"]
    assert text.splitlines()[0].split() == head, "no preset where all rows have the same"
    found["trials"] = [chosen | {"backbone": "efficientnet_lite0", "weight_decay": 0.0133}]
    lines = list(tune.table(found))
    assert max(map(len, lines[:2])) <= 80, "it fits into a terminal"
    found["trials"] = [chosen, better | {"preset": "fine-tune"}]
    assert next(tune.table(found)).split()[:2] == ["backbone", "preset"]


def test_an_interruption_before_the_first_trial_ends_the_command_and_promises_no_run(
    flowers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    listening = tuning.Interruption.listening

    def interrupted(self: tuning.Interruption) -> AbstractContextManager[None]:
        self.set()
        return listening(self)

    monkeypatch.setattr(tuning.Interruption, "listening", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune_data(flowers, tmp_path / "run", TINY, Plan(backbones=("resnet20",)))
    assert "nothing was written" in caplog.text and "the run has" not in caplog.text
    assert not (tmp_path / "run").exists()


def test_the_log_names_the_command_that_continues_an_interrupted_training(
    flowers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    output = tmp_path / "run"

    def killed(run: Run, *_: object) -> None:
        """Leave what a job leaves that is killed after its first epoch."""
        run_job(run.paths, {**run.settings, "epochs": "1"}, StopRequest())
        (output / "manifest.json").unlink()
        raise KeyboardInterrupt

    caplog.set_level("INFO", "image_classification")
    monkeypatch.setattr(tuning, "_train", killed)
    given = TINY | {"label_smoothing": "0.1"}
    with pytest.raises(KeyboardInterrupt):
        tune_data(flowers, output, given, Plan(backbones=("resnet20",), trials=1))
    with pytest.raises(UsageError, match="the command train … --resume that tune"):
        tune_data(flowers, output, given, Plan(backbones=("resnet20",), trials=1))
    (command,) = re.findall(r"continue the run with: image-classification (.*)", caplog.text)
    (record,) = [one for one in caplog.records if "continue the run with" in one.getMessage()]
    assert isinstance(record.__dict__["event"], events.Note)  # a terminal shows it too
    done = run_command(*shlex.split(command), folder=tmp_path)
    assert done.returncode == 0 and "Resumed" in done.stdout, done.stdout + done.stderr


@pytest.mark.survival
def test_an_interruption_trains_with_the_best_so_far_and_a_second_one_leaves_nothing(
    flowers: Path, tmp_path: Path
) -> None:
    words = ["tune", str(flowers), "--backbones", "resnet20,resnet110", *WORDS]
    words += ["--set", "epochs=100"]

    def started(output: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "image_classification", *words, "--output", str(output)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"IMAGE_CLASSIFICATION_CPU_COUNT": "1"},
        )
        read_to(process, "resnet20: best so far")
        process.send_signal(signal.SIGINT)
        read_to(process, "Interrupted: the search ends")
        return process

    process = started(tmp_path / "one")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "the search ended early: interrupted" in said, said
    assert read_artifact(tmp_path / "one").manifest["backbone"] == "resnet20"

    process = started(tmp_path / "two")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and said.endswith("interrupted\n"), said
    assert not list((tmp_path / "two").glob("*.onnx"))
