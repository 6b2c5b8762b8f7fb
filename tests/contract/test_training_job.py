"""A training job follows the platform's contract: input files, artifact, log, exit code."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from image_classification.artifact import read_artifact
from image_classification.contract.interface import INTERFACES
from tests.conftest import ClassFolders
from tests.contract import jobs
from tests.contract.conftest import HYPERPARAMETERS
from tests.contract.jobs import run_command, run_train, write_job


def test_a_job_leaves_a_whole_artifact_and_nothing_half_written(trained_job: Path) -> None:
    names = {path.name for path in (trained_job / "model").iterdir()}
    assert names == {
        "manifest.json",
        "labels.json",
        "class_label_to_prediction_index.json",
        "labels_info.json",
        "preprocessing.json",
        "model.onnx",
        "weights.safetensors",
        "feature-index.bin",
        "report.html",
        "model-card.md",
    }
    artifact = read_artifact(trained_job / "model")
    assert artifact.labels.names == ("blue", "green", "red")
    assert artifact.manifest["interface"] == "mxnet"
    assert artifact.manifest["metrics"]["validation"]["accuracy"] > 0.9
    assert not (trained_job / "output" / "failure").exists()


def test_the_log_has_the_lines_that_published_expressions_scrape(trained_job: Path) -> None:
    log = (trained_job / "log").read_text()
    for metric in INTERFACES["mxnet"].metrics:
        values = re.findall(metric.regex, log)
        assert len(values) == HYPERPARAMETERS["epochs"], metric.name
        assert all(0 <= float(value) <= 1 for value in values)
    assert re.search(r"Epoch\[1\] Validation-accuracy=\d\.\d{6}\n", log)
    prefix = r"\[\d\d/\d\d/\d{4} \d\d:\d\d:\d\d [A-Z]+ \d+\] "
    assert all(re.match(prefix, line) for line in log.splitlines())
    assert "\r" not in log


def test_the_log_shows_every_hyperparameter_and_the_origin_of_its_value(
    tmp_path: Path, small_channels: dict[str, Path], trained_job: Path
) -> None:
    log = (trained_job / "log").read_text()
    block = log[log.index("---- Parameters ----") :]
    for entry in INTERFACES["mxnet"].hyperparameters:
        assert re.search(rf" {entry.name}: .* \((default|given)\)\n", block), entry.name
    assert "num_layers: 20 (given)" in block and "optimizer: sgd (default)" in block
    assert "classes: 3: blue, green, red" in block
    final = re.search(r"Final configuration: (.*)", log)
    assert final and json.loads(final[1])["mini_batch_size"] == 8
    given = {"preset": "transfer", "epochs": 1, "backbone": "resnet20", "image_shape": "3,32,32"}
    given |= {"use_pretrained_model": 0}
    base = write_job(tmp_path / "ml", given, small_channels)
    (base / "checkpoints").mkdir()
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"lr_schedule: \w+ \(preset transfer\)", done.stdout)
    assert "use_pretrained_model: False (given)" in done.stdout
    saved = base / "checkpoints" / "checkpoint-0000.safetensors"
    assert f'Saved checkpoint to "{saved}"' in done.stdout


def test_the_tensorflow_interface_splits_its_only_channel_and_logs_keras_lines(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    given = {
        "epochs": "1",
        "batch_size": '"8"',
        "backbone": "resnet20",
        "image_shape": "3,32,32",
        "use_pretrained_model": "False",
        "optimizer": '"adam"',
        "augmentation": "True",
        "augmentation_random_flip": "horizontal",
        "top_k": "2",
    }
    channels = {"training": small_channels["train"], "test": small_channels["validation"]}
    base = write_job(tmp_path / "ml", given, channels)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    for metric in INTERFACES["tensorflow"].metrics:
        absent = ("top_5", "precision", "recall", "auc", "prc")  # asks for the best two classes
        expected = 0 if any(name in metric.name for name in absent) else 1
        assert len(re.findall(metric.regex, done.stdout)) == expected, metric.name
    assert re.search(r"- top_2_accuracy: \d\.\d{4} - val_loss: ", done.stdout)
    assert re.search(r"- Test accuracy: \d\.\d{4}\n", done.stdout)
    manifest = read_artifact(base / "model").manifest
    assert manifest["interface"] == "tensorflow"
    assert manifest["metrics"]["training_samples"] == 30
    assert manifest["metrics"]["validation_samples"] == 6
    assert manifest["metrics"]["test_samples"] == 15
    index = json.loads((base / "model" / "class_label_to_prediction_index.json").read_text())
    assert index == {"blue": 0, "green": 1, "red": 2}


def test_records_train_like_the_folders_they_were_packed_from(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    source = write_folders_channel(small_channels, tmp_path / "all")
    packed = run_command(
        "preprocess", "--input", source, "--output", tmp_path / "channels", "--train-ratio", "0.8"
    )
    assert packed.returncode == 0, packed.stderr
    channels = {name: tmp_path / "channels" / name for name in ("train", "validation")}
    given = HYPERPARAMETERS | {"num_classes": 3, "num_training_samples": 42, "epochs": 1}
    types = dict.fromkeys(channels, "application/x-recordio; label-format=class-id")
    base = write_job(tmp_path / "ml", given, channels, types)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = base / "input" / "data" / "train"
    assert f"Searching for .rec files in {folder}.\n" in done.stdout
    artifact = read_artifact(base / "model")
    assert artifact.labels.names == ("blue", "green", "red")
    assert artifact.manifest["metrics"]["training_samples"] == 42


def write_folders_channel(channels: dict[str, Path], root: Path) -> Path:
    """Both channels' images in one tree of class folders."""
    for folder in channels.values():
        for path in folder.rglob("*.jpg"):
            target = root / path.parent.name / f"{folder.name}-{path.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return root


def test_a_gray_model_trains(tmp_path: Path, small_channels: dict[str, Path]) -> None:
    given = HYPERPARAMETERS | {"image_shape": "1,32,32", "epochs": 1}
    base = write_job(tmp_path / "ml", given, small_channels)
    assert run_train(base).returncode == 0
    assert read_artifact(base / "model").preprocessing.channels == 1


def failed(base: Path) -> tuple[str, str]:
    """Return (failure file, standard error) of a job; it must end with exit code 2."""
    done = run_train(base)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not list((base / "model").iterdir())
    return (base / "output" / "failure").read_text(), done.stderr


def test_unknown_hyperparameters_fail_with_the_nearest_name(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    base = write_job(tmp_path / "ml", {"epoch": 3, "mini_batchsize": 8}, small_channels)
    failure, stderr = failed(base)
    assert failure.startswith("ClientError: 2 hyperparameter problems")
    assert "did you mean 'epochs'?" in failure
    assert "did you mean 'mini_batch_size'?" in failure
    assert stderr.startswith("ClientError: ")


def test_a_mistake_in_the_channels_is_named_before_any_framework_is_loaded(
    tmp_path: Path, small_channels: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = tmp_path / "trap"
    trap.mkdir()
    (trap / f"{jobs.BACKEND}.py").write_text("raise SystemExit('the framework was imported')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(trap), os.environ.get("PYTHONPATH", "")]))
    base = write_job(tmp_path / "ml", HYPERPARAMETERS, {"train": small_channels["train"]})
    failure, _ = failed(base)
    assert failure.startswith("ClientError: Missing required channel: validation")
    whole = write_job(tmp_path / "whole", HYPERPARAMETERS, small_channels)
    if jobs.BACKEND != "reference":
        assert "the framework was imported" in run_train(whole).stderr


def test_validation_may_be_held_out_of_train(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    given = HYPERPARAMETERS | {"validation_split_ratio": 0.25, "epochs": 1}
    base = write_job(tmp_path / "ml", given, {"train": small_channels["train"]})
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    measured = read_artifact(base / "model").manifest["metrics"]
    assert (measured["training_samples"], measured["validation_samples"]) == (27, 9)


def test_an_extra_channel_is_named(tmp_path: Path, small_channels: dict[str, Path]) -> None:
    channels = small_channels | {"holdout": small_channels["validation"]}
    failure, _ = failed(write_job(tmp_path / "ml", HYPERPARAMETERS, channels))
    assert "Extraneous channel found: holdout" in failure


def test_different_class_folders_in_validation_are_named(
    tmp_path: Path, small_channels: dict[str, Path], write_class_folders: ClassFolders
) -> None:
    other = write_class_folders(tmp_path / "other", classes=("blue", "green", "violet"))
    channels = {"train": small_channels["train"], "validation": other}
    failure, _ = failed(write_job(tmp_path / "ml", HYPERPARAMETERS, channels))
    assert "violet" in failure and "red" in failure


def test_an_unreadable_image_fails_the_job_by_name_or_is_skipped_within_the_budget(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    base = write_job(tmp_path / "ml", HYPERPARAMETERS, small_channels)
    victim = base / "input" / "data" / "train" / "red" / "red003.jpg"
    victim.write_bytes(victim.read_bytes()[:300])
    failure, _ = failed(base)
    assert "red/red003.jpg" in failure and "max_bad_samples" in failure

    hyperparameters = base / "input" / "config" / "hyperparameters.json"
    given = json.loads(hyperparameters.read_text())
    hyperparameters.write_text(json.dumps(given | {"max_bad_samples": "1"}))
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "red/red003.jpg" in done.stdout
    assert "red/red003.jpg" in (base / "model" / "report.html").read_text()


def test_images_smaller_than_the_network_input_are_refused_with_the_remedy(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    given = HYPERPARAMETERS | {"num_layers": 18, "image_shape": "3,64,64", "resize": 64}
    base = write_job(tmp_path / "ml", given, small_channels)
    assert run_train(base).returncode == 0  # resize enlarges them on purpose

    packed = tmp_path / "channels"
    source = small_channels["train"]
    assert run_command("preprocess", "--input", source, "--output", packed).returncode == 0
    channels = {name: packed / name for name in ("train", "validation")}
    given = {"image_shape": "3,64,64", "num_layers": 18, "epochs": 1}
    failure, _ = failed(write_job(tmp_path / "small", given, channels))
    assert "resize" in failure


def test_num_classes_below_the_data_is_refused(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    base = write_job(tmp_path / "ml", HYPERPARAMETERS | {"num_classes": 2}, small_channels)
    failure, _ = failed(base)
    assert "num_classes" in failure


def test_a_class_number_beyond_num_classes_is_refused_with_its_record(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    packed = tmp_path / "channels"
    source = small_channels["train"]
    assert run_command("preprocess", "--input", source, "--output", packed).returncode == 0
    channels = {name: packed / name for name in ("train", "validation")}
    for folder in channels.values():
        (folder / "labels.json").unlink()
    base = write_job(tmp_path / "ml", HYPERPARAMETERS | {"num_classes": 2}, channels)
    failure, _ = failed(base)
    assert re.search(
        r"a class outside 0 to 1, for example train.rec#\d+ (\(\S+\) )?with class 2", failure
    )


def test_missing_pretrained_weights_are_an_error_and_never_downloaded(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    given = HYPERPARAMETERS | {"backbone": "resnet18", "use_pretrained_model": 1}
    failure, _ = failed(write_job(tmp_path / "ml", given, small_channels))
    assert "no pretrained weights for resnet18" in failure


@pytest.mark.survival
def test_a_job_that_resumes_from_its_checkpoint_ends_like_an_uninterrupted_one(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    whole = write_job(tmp_path / "whole", HYPERPARAMETERS | {"epochs": 3}, small_channels)
    assert run_train(whole).returncode == 0

    base = write_job(tmp_path / "parts", HYPERPARAMETERS | {"epochs": 2}, small_channels)
    (base / "checkpoints").mkdir()
    assert run_train(base).returncode == 0
    config = base / "input" / "config" / "hyperparameters.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"epochs": "3"}))
    resumed = run_train(base)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "Resumed after epoch 2" in resumed.stdout
    assert resumed.stdout.count("Validation-accuracy") == 1
    weights = [(b / "model" / "weights.safetensors").read_bytes() for b in (whole, base)]
    assert weights[0] == weights[1], "resuming changed the result"
    assert len(list((base / "checkpoints").glob("*.safetensors"))) <= 2


def test_checkpoints_of_another_job_are_refused(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    base = write_job(tmp_path / "ml", HYPERPARAMETERS | {"epochs": 1}, small_channels)
    (base / "checkpoints").mkdir()
    assert run_train(base).returncode == 0
    config = base / "input" / "config" / "hyperparameters.json"
    given = json.loads(config.read_text())
    config.write_text(json.dumps(given | {"optimizer": "adam"}))
    done = run_train(base)
    assert done.returncode == 2
    failure = (base / "output" / "failure").read_text()
    assert "optimizer was" in failure and "'name': 'adam'" in failure
    config.write_text(json.dumps(given | {"resize": "60"}))
    assert run_train(base).returncode == 2
    assert "preprocessing was" in (base / "output" / "failure").read_text()


def test_the_model_channel_starts_from_an_earlier_artifact(
    tmp_path: Path, small_channels: dict[str, Path], trained_job: Path
) -> None:
    channels = small_channels | {"model": trained_job / "model"}
    given = HYPERPARAMETERS | {"epochs": 1, "learning_rate": 0.001}
    base = write_job(tmp_path / "ml", given, channels)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "starting from its weights, head included" in done.stdout
    assert read_artifact(base / "model").manifest["metrics"]["validation"]["accuracy"] > 0.9


def test_the_model_channel_can_hold_everything_that_a_finished_job_uploaded(
    tmp_path: Path, small_channels: dict[str, Path], trained_job: Path
) -> None:
    uploaded = tmp_path / "uploaded"
    uploaded.mkdir()
    for archive, folder in (("model.tar.gz", "model"), ("output.tar.gz", "output")):
        with tarfile.open(uploaded / archive, "w:gz") as tar:
            tar.add(trained_job / folder, arcname=".")
    channels = small_channels | {"model": uploaded}
    base = write_job(tmp_path / "ml", HYPERPARAMETERS | {"epochs": 1}, channels)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "starting from its weights, head included" in done.stdout


@pytest.mark.parametrize("name", ["hyperparameters.json", "inputdataconfig.json"])
def test_a_configuration_file_that_is_not_json_is_named(
    tmp_path: Path, small_channels: dict[str, Path], name: str
) -> None:
    base = write_job(tmp_path / "ml", HYPERPARAMETERS, small_channels)
    (base / "input" / "config" / name).write_text("{")
    failure, _ = failed(base)
    assert name in failure


@pytest.mark.thorough
def test_a_laptop_trains_from_named_folders(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    options = [f"--set={name}={value}" for name, value in (HYPERPARAMETERS | {"epochs": 1}).items()]
    channels = [f"--channel={name}={folder}" for name, folder in small_channels.items()]
    done = run_command("train", *channels, *options, "--output", tmp_path / "model")
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_artifact(tmp_path / "model").labels.names == ("blue", "green", "red")


@pytest.mark.survival
def test_sigterm_ends_training_with_an_artifact_of_the_best_epoch_and_exit_code_0(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    base = write_job(tmp_path / "ml", HYPERPARAMETERS | {"epochs": 10_000}, small_channels)
    process = subprocess.Popen(
        [sys.executable, "-m", "image_classification", "train", "--base-dir", str(base)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "Validation-accuracy" in line:
            break
    process.terminate()
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == 0, rest
    assert "SIGTERM: stopping after this step" in rest
    measured = read_artifact(base / "model").manifest["metrics"]
    assert 1 <= measured["epochs"] < 10_000


def test_training_that_diverges_ends_with_the_reason_and_no_artifact(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    diverging = {"optimizer": "adam", "learning_rate": 1, "eps": 0, "beta_2": 0}
    base = write_job(tmp_path / "ml", HYPERPARAMETERS | diverging, small_channels)
    failure, _ = failed(base)
    assert "training diverged in epoch" in failure and "learning_rate" in failure


def test_records_whose_class_numbers_have_other_names_are_refused(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    packed = tmp_path / "channels"
    assert (
        run_command("preprocess", "--input", small_channels["train"], "--output", packed).returncode
        == 0
    )
    (packed / "validation" / "labels.json").write_text('{"labels": ["red", "blue", "green"]}')
    channels = {name: packed / name for name in ("train", "validation")}
    failure, _ = failed(write_job(tmp_path / "ml", HYPERPARAMETERS, channels))
    assert "labels.json" in failure and "one label map" in failure


@pytest.mark.thorough
def test_file_names_that_are_not_utf_8_are_accepted(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    base = write_job(tmp_path / "ml", HYPERPARAMETERS | {"epochs": 1}, small_channels)
    folder = os.fsencode(base / "input" / "data" / "validation" / "red")
    os.rename(folder + b"/red000.jpg", folder + b"/photo\xe9.jpg")
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    predictions = (base / "output" / "data" / "validation-predictions.jsonl").read_text()
    assert json.dumps("red/photo\\xe9.jpg") in predictions
    with open(folder + b"/photo\xe9.jpg", "wb") as file:
        file.write(b"broken")
    for path in (base / "model").iterdir():
        path.unlink()
    failure, _ = failed(base)
    assert "photo\\xe9.jpg" in failure


def test_an_artifact_without_weights_cannot_start_a_job(
    tmp_path: Path, small_channels: dict[str, Path], trained_job: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(trained_job / "model", model)
    manifest = json.loads((model / "manifest.json").read_text())
    del manifest["files"]["weights.safetensors"]
    (model / "manifest.json").write_text(json.dumps(manifest))
    (model / "weights.safetensors").unlink()
    base = write_job(tmp_path / "ml", HYPERPARAMETERS, small_channels | {"model": model})
    failure, _ = failed(base)
    assert "has no weights.safetensors" in failure
