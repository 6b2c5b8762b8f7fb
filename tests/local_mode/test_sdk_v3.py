"""SageMaker's SDK v3 in local mode: ModelTrainer, its clean-up, its local serving session."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from sagemaker.core.helper.session_helper import Session
from sagemaker.core.local.local_session import LocalSession
from sagemaker.core.training.configs import Compute, InputData
from sagemaker.train.local import local_container
from sagemaker.train.model_trainer import Mode, ModelTrainer

from tests.local_mode.conftest import Images, docker
from tests.local_mode.jobs import (
    HYPERPARAMETERS,
    PARAMETER_LINES,
    ROLE,
    best_accuracy,
    member_text,
    members,
    said,
)

LABELS = ["blue", "green", "red"]


@dataclass
class Trained:
    """A finished job: its log and files."""

    log: str
    root: Path

    @property
    def archive(self) -> Path:
        return self.root / "compressed_artifacts" / "model.tar.gz"


def train(
    root: Path,
    image: str,
    folders: Mapping[str, Path],
    instance_count: int = 1,
    hyperparameters: dict[str, object] = HYPERPARAMETERS,
) -> Trained:
    """Run a job in `root`. The SDK starts the image without an argument."""
    root.mkdir()
    trainer = ModelTrainer(
        training_image=image,
        training_mode=Mode.LOCAL_CONTAINER,
        role=ROLE,
        sagemaker_session=Session(boto_session=boto3.Session()),
        compute=Compute(instance_type="local_cpu", instance_count=instance_count),
        hyperparameters=hyperparameters,
        local_container_root=str(root),
    )
    data = [InputData(channel_name=name, data_source=str(path)) for name, path in folders.items()]
    return Trained(said(lambda: trainer.train(input_data_config=data, wait=True)), root)


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, folders: dict[str, Path], train_image: str
) -> Trained:
    return train(tmp_path_factory.mktemp("v3") / "trained", train_image, folders)


def test_the_sdks_environment_has_no_deep_learning_framework() -> None:
    for name in ("torch", "tensorflow", "mxnet", "image_classification"):
        assert importlib.util.find_spec(name) is None, f"{name} is installed beside the SDK"


def test_a_model_trainer_writes_the_archive_where_the_sdk_expects_it(trained: Trained) -> None:
    for line in PARAMETER_LINES:
        assert line in trained.log
    assert best_accuracy(trained.log) > 0.9
    assert {"manifest.json", "labels.json", "model.onnx"} <= members(trained.archive)
    left = {path.name for path in trained.root.iterdir()}
    assert not left & {"algo-1", "input", "shared"}, "the SDK could not delete a job's files"


def test_the_sdk_cleans_up_files_of_root_with_chmod_in_our_image(
    train_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only root can delete what Docker made; this test simulates the first refusal."""
    folder = tmp_path / "roots"
    make = "mkdir -m 700 /delete/roots && touch /delete/roots/file && chmod 600 /delete/roots/file"
    docker("run", "--rm", f"--volume={tmp_path}:/delete", train_image, "sh", "-c", make)
    delete, modes = shutil.rmtree, []

    def refuse_once(path: str) -> None:
        modes.append((folder / "file").stat().st_mode & 0o777)
        if len(modes) == 1:
            raise PermissionError(path)
        delete(path)

    monkeypatch.setattr(shutil, "rmtree", refuse_once)
    local_container._rmtree(str(folder), train_image)
    assert modes == [0o600, 0o777] and not folder.exists()


def test_the_local_session_serves_the_archive_and_names_the_class_of_each_image(
    trained: Trained,
    serve_image: str,
    folders: dict[str, Path],
    labeled_images: Images,
    tmp_path: Path,
    free_port: int,
) -> None:
    session = LocalSession(boto3.Session())
    session.config = {"local": {"container_root": str(tmp_path), "serving_port": free_port}}
    client, runtime = session.sagemaker_client, session.sagemaker_runtime_client
    container = {
        "Image": serve_image,
        "ModelDataUrl": f"file://{trained.archive}",
        "Environment": {},
    }
    client.create_model(ModelName="colors", PrimaryContainer=container)
    variant = {
        "ModelName": "colors",
        "VariantName": "AllTraffic",
        "InstanceType": "local",
        "InitialInstanceCount": 1,
    }
    client.create_endpoint_config("colors", [variant])
    try:
        client.create_endpoint("colors", "colors")
        for label, image in labeled_images(folders["validation"]):
            probabilities, answer = (
                json.loads(runtime.invoke_endpoint(image, "colors", "image/jpeg", x)["Body"].data)
                for x in ("application/json", "application/json;verbose")
            )
            assert LABELS[probabilities.index(max(probabilities))] == label
            assert answer["labels"] == LABELS and answer["predicted_label"] == label
    finally:
        client.delete_endpoint("colors")
    assert client.describe_endpoint_config("colors")["ProductionVariants"] == [variant]
    client.delete_endpoint_config("colors")
    client.delete_model("colors")


def test_two_instances_write_one_model(
    folders: dict[str, Path], train_image: str, tmp_path: Path
) -> None:
    """The SDK names the hosts' network `ethwe`, which its containers do not have."""
    job = train(tmp_path / "two", train_image, folders, instance_count=2)
    assert best_accuracy(job.log) > 0.9
    assert {"manifest.json", "model.onnx"} <= members(job.archive)


def test_the_message_of_a_failing_job_is_in_the_log_and_in_the_failure_file(
    folders: dict[str, Path],
    train_image: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "failing"
    wrong = HYPERPARAMETERS | {"optimizer": "adamm"}
    with pytest.raises(RuntimeError, match="exited with code: 2"):
        train(root, train_image, folders, hyperparameters=wrong)
    archives = root / "compressed_artifacts"
    sentence = member_text(archives / "output.tar.gz", "failure").splitlines()[0]
    assert sentence.startswith("ClientError: ")
    assert "optimizer" in sentence and "'adamm'" in sentence
    assert sentence in capsys.readouterr().out
    assert not members(archives / "model.tar.gz")
