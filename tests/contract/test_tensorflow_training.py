"""Jobs with backend=tensorflow: the same contract and survival, and a channel backbone."""

from __future__ import annotations

import json
import signal
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import tensorflow as tf
from safetensors.numpy import load_file

from image_classification.artifact import read_artifact
from tests.contract.conftest import HYPERPARAMETERS
from tests.contract.jobs import read_to, run_command, run_train, write_job
from tests.contract.test_survival import JOB as SURVIVAL
from tests.contract.test_survival import start, weights_of

JOB = HYPERPARAMETERS | {"backend": "tensorflow"}


def test_a_job_writes_an_artifact_that_serves_what_it_validated(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    base = write_job(tmp_path / "ml", JOB, small_channels)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Epoch[1] Validation-accuracy=" in done.stdout
    artifact = read_artifact(base / "model")
    assert artifact.manifest["backend"] == "tensorflow"
    rows = (base / "output/data/validation-predictions.jsonl").read_text().splitlines()
    images = [base / "input/data/validation" / json.loads(row)["key"] for row in rows[:5]]
    answers = run_command("predict", "--model", base / "model", *images).stdout.splitlines()
    for row, answer in zip(map(json.loads, rows), map(json.loads, answers), strict=False):
        named = dict(zip(answer["labels"], answer["probabilities"], strict=True))
        served = [named[name] for name in artifact.labels.names]
        np.testing.assert_allclose(served, row["probabilities"], rtol=0, atol=1e-4)


def test_a_killed_job_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    given = SURVIVAL | {"backend": "tensorflow", "epochs": 2}
    bases = [write_job(tmp_path / name, given, small_channels) for name in ("whole", "killed")]
    for base in bases:
        (base / "checkpoints").mkdir()
    whole, killed = bases
    done = run_train(whole)
    assert done.returncode == 0, done.stdout + done.stderr
    process = start(killed)
    read_to(process, "Built ")
    within_an_epoch = "checkpoint-*-*.json"
    while not list((killed / "checkpoints").glob(within_an_epoch)) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    log = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, log
    again = run_train(killed)
    assert again.returncode == 0, log + again.stdout + again.stderr
    assert "Resumed in epoch" in again.stdout
    assert weights_of(killed) == weights_of(whole)


@pytest.mark.parametrize(
    ("channel", "file"),
    [
        ("weights", "mine.keras"),
        pytest.param("model", "mine.weights.h5", marks=pytest.mark.thorough),
    ],
)
@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of Keras with NumPy 2
def test_a_job_starts_from_a_file_of_a_class_of_keras(
    tmp_path: Path, small_channels: dict[str, Path], channel: str, file: str
) -> None:
    import keras

    whole = keras.applications.MobileNetV3Small(weights=None, include_preprocessing=False)
    (tmp_path / "given").mkdir()
    path = tmp_path / "given" / file
    whole.save_weights(path) if file.endswith(".h5") else whole.save(path)
    given = {
        "backend": "tensorflow",
        "backbone": "keras/MobileNetV3Small",
        "image_shape": "3,64,64",
        "epochs": 1,
        "train_only_top_layer": "True",
    }
    channels = {"training": small_channels["train"], channel: path.parent}
    base = write_job(tmp_path / "ml", given, channels)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    weights = load_file(base / "model" / "weights.safetensors")
    for name in ("conv.kernel", "conv_bn.moving_variance"):
        expected = next(v for v in whole.weights if v.path == name.replace(".", "/"))
        assert np.array_equal(weights[f"trunk.{name}"], expected.value.numpy()), name
    started = read_artifact(base / "model").manifest["started_from"]
    assert started.startswith("weights of keras/MobileNetV3Small in ")


SAVED_MODEL_JOB = {
    "backend": "tensorflow",
    "image_shape": "3,32,32",
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 0.01,
}


def saved_model_channels(
    root: Path, small_channels: dict[str, Path], activation: Callable[[tf.Tensor], tf.Tensor]
) -> dict[str, Path]:
    """Channels of a job whose channel `model` holds a convolution as a SavedModel."""
    module = tf.Module()
    module.kernel = tf.Variable(tf.random.stateless_normal([3, 3, 3, 16], [1, 2]), name="kernel")
    function = tf.function(
        lambda images: activation(tf.nn.conv2d(images, module.kernel, 2, "SAME")),
        input_signature=[tf.TensorSpec([None, 32, 32, 3], tf.float32)],
    )
    saved, channel = root / "saved", root / "channel"
    tf.saved_model.save(module, str(saved / "1"), signatures=function)
    channel.mkdir()
    with tarfile.open(channel / "model.tar.gz", "w:gz") as archive:
        archive.add(saved, ".")
    return {
        "training": small_channels["train"],
        "validation": small_channels["validation"],
        "model": channel,
    }


def test_a_backbone_without_an_onnx_graph_is_refused_before_the_first_epoch(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    channels = saved_model_channels(tmp_path, small_channels, tf.math.bessel_i0e)
    base = write_job(tmp_path / "ml", SAVED_MODEL_JOB, channels)
    done = run_train(base)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "tf2onnx cannot translate backbone" in (base / "output/failure").read_text()
    assert "Epoch 1/3 took" not in done.stdout


@pytest.mark.thorough
def test_a_saved_model_of_the_model_channel_is_fine_tuned_unless_a_backbone_is_named(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    channels = saved_model_channels(tmp_path, small_channels, tf.nn.relu)
    given = dict(SAVED_MODEL_JOB)
    base = write_job(tmp_path / "ml", given, channels)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it holds a SavedModel, so backbone=saved_model" in done.stdout
    manifest = read_artifact(base / "model").manifest
    assert manifest["backbone"] == "saved_model"
    assert manifest["started_from"] == "the backbone of the channel model with a new head"
    assert manifest["metrics"]["validation"]["accuracy"] == 1.0

    given |= {"backbone": "resnet20", "use_pretrained_model": "False", "epochs": 1}
    base = write_job(tmp_path / "named", given, channels)
    done = run_train(base)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "backbone=resnet20 does not start from (backbone=saved_model does)" in done.stdout
    assert read_artifact(base / "model").manifest["backbone"] == "resnet20"


def test_a_missing_saved_model_is_a_client_error(
    tmp_path: Path, small_channels: dict[str, Path]
) -> None:
    given = JOB | {"backbone": "saved_model"}
    base = write_job(tmp_path / "ml", given, small_channels)
    done = run_train(base)
    assert done.returncode == 2
    assert "give the job that channel" in (base / "output/failure").read_text()
