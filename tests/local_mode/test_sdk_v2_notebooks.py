"""The public notebooks of the MXNet built-in with SDK v2: only the image URI changes.

Which notebook a test rebuilds is in its name; the jobs are smaller. Other modules have: class
folders, several hosts, JSON lines in a transform job (test_sdk_v2.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from sagemaker.estimator import Estimator
from sagemaker.inputs import TrainingInput
from sagemaker.local import LocalSession
from sagemaker.tuner import (
    CategoricalParameter,
    ContinuousParameter,
    HyperparameterTuner,
    IntegerParameter,
)

from tests.local_mode.conftest import Images
from tests.local_mode.jobs import ROLE, best_accuracy
from tests.local_mode.sdk_v2 import fit, s3_session, uploaded

BUCKET = "notebooks"
LABELS = ["blue", "green", "red"]
FULL_TRAINING = {
    "num_layers": 20,  # the notebooks' 18 and 50 take minutes on a CPU
    "image_shape": "3,32,32",
    "num_classes": 3,
    "num_training_samples": 36,
    "mini_batch_size": 8,
    "epochs": 6,
    "learning_rate": 0.02,
    "precision_dtype": "float32",
}


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, free_port: int) -> Iterator[LocalSession]:
    root = tmp_path_factory.mktemp("notebooks") / "root"
    with s3_session(root, free_port, BUCKET, local_code=False) as session:
        yield session


def notebook_estimator(session: LocalSession, image: str, **given: object) -> Estimator:
    """Return the estimator that all these notebooks make."""
    job = Estimator(
        image,
        ROLE,
        instance_count=1,
        instance_type="local",
        volume_size=50,
        max_run=360000,
        input_mode="File",
        output_path=f"s3://{BUCKET}/output",
        sagemaker_session=session,
    )
    job.set_hyperparameters(**given)
    return job


def channel(session: LocalSession, folder: Path, prefix: str, content_type: str) -> TrainingInput:
    return uploaded(
        session,
        folder,
        prefix,
        distribution="FullyReplicated",
        content_type=content_type,
        s3_data_type="S3Prefix",
    )


@pytest.fixture(scope="module")
def record_channels(session: LocalSession, records: dict[str, Path]) -> dict[str, TrainingInput]:
    return {
        name: channel(session, folder, name, "application/x-recordio")
        for name, folder in records.items()
    }


@pytest.fixture(scope="module")
def fully_trained(
    session: LocalSession, train_image: str, record_channels: dict[str, TrainingInput]
) -> Estimator:
    """The job of the notebook Image-classification-fulltraining."""
    job = notebook_estimator(session, train_image, **FULL_TRAINING)
    assert best_accuracy(fit(job, record_channels)) > 0.9
    return job


def test_full_training_deploys_and_answers_a_bare_list_of_probabilities(
    fully_trained: Estimator,
    serve_image: str,
    folders: dict[str, Path],
    labeled_images: Images,
) -> None:
    predictor = fully_trained.deploy(1, "local", image_uri=serve_image)
    try:
        for label, image in labeled_images(folders["validation"])[::5]:
            answer = predictor.predict(image, initial_args={"ContentType": "application/x-image"})
            assert LABELS[int(np.argmax(json.loads(answer)))] == label
    finally:
        predictor.delete_endpoint()


def test_full_training_transforms_a_prefix_as_the_notebooks_request_does(
    session: LocalSession, fully_trained: Estimator, serve_image: str, folders: dict[str, Path]
) -> None:
    """With the notebook's low-level request, whose answers it reads as `prediction`."""
    client = session.sagemaker_client
    data = session.upload_data(str(folders["validation"] / "red"), BUCKET, "batch")
    container = {"Image": serve_image, "ModelDataUrl": fully_trained.model_data, "Environment": {}}
    client.create_model(
        ModelName="full-training", ExecutionRoleArn=ROLE, PrimaryContainer=container
    )
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": data}}
    client.create_transform_job(
        TransformJobName="image-classification-model",
        ModelName="full-training",
        TransformInput={
            "DataSource": source,
            "ContentType": "application/x-image",
            "SplitType": "None",
            "CompressionType": "None",
        },
        TransformOutput={"S3OutputPath": f"s3://{BUCKET}/transformed"},
        TransformResources={"InstanceType": "local", "InstanceCount": 1},
        MaxConcurrentTransforms=16,
        MaxPayloadInMB=6,
        BatchStrategy="SingleRecord",
    )
    s3 = boto3.client("s3")
    keys = [x["Key"] for x in s3.list_objects_v2(Bucket=BUCKET, Prefix="transformed")["Contents"]]
    bodies = [s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys]
    answers = [json.loads(body)["prediction"] for body in bodies]
    assert len(answers) == 5
    assert {LABELS[int(np.argmax(answer))] for answer in answers} == {"red"}


@pytest.mark.thorough
def test_incremental_training_goes_on_from_the_model_of_an_earlier_job(
    session: LocalSession,
    train_image: str,
    fully_trained: Estimator,
    record_channels: dict[str, TrainingInput],
) -> None:
    job = notebook_estimator(
        session, train_image, **(FULL_TRAINING | {"epochs": 1, "learning_rate": 0.0})
    )
    model = TrainingInput(
        fully_trained.model_data,
        distribution="FullyReplicated",
        content_type="application/x-sagemaker-model",
        s3_data_type="S3Prefix",
    )
    log = fit(job, record_channels | {"model": model})
    assert "starting from its weights, head included" in log
    assert best_accuracy(log) > 0.9


@pytest.mark.thorough
def test_a_tuning_job_sends_values_that_train_and_its_metric_is_in_the_log(
    session: LocalSession,
    train_image: str,
    record_channels: dict[str, TrainingInput],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Local mode has no tuning jobs: the test runs one of the training jobs of the request."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(
        LocalSession, "create_tuning_job", lambda _, **request: asked.append(request)
    )
    monkeypatch.setattr("sagemaker.tuner._TuningJob.wait", lambda _: None)
    tuner = HyperparameterTuner(
        notebook_estimator(session, train_image, **(FULL_TRAINING | {"epochs": 4})),
        "validation:accuracy",
        {
            "learning_rate": ContinuousParameter(0.0001, 0.05),
            "mini_batch_size": IntegerParameter(8, 16),
            "optimizer": CategoricalParameter(["sgd", "adam", "rmsprop", "nag"]),
        },
        metric_definitions=[
            {
                "Name": "validation:accuracy",
                "Regex": r"Epoch\[\d+\] Validation-accuracy=([0-9\.]+)",
            }
        ],
        objective_type="Maximize",
        max_jobs=2,
        max_parallel_jobs=1,
    )
    tuner.fit(record_channels)
    (request,) = asked
    training = request["training_config"]
    assert request["tuning_config"]["objective_metric_name"] == "validation:accuracy"
    sampled = {"learning_rate": "0.01", "mini_batch_size": "12", "optimizer": "nag"}
    assert not set(sampled) & set(training["static_hyperparameters"])
    given = training["static_hyperparameters"] | sampled
    job = notebook_estimator(
        session, train_image, **given, _tuning_objective_metric="validation:accuracy"
    )
    log = fit(job, record_channels)
    (metric,) = training["metric_definitions"]
    assert len(re.findall(metric["Regex"], log)) == 4
    assert "optimizer: nag (given)" in log


def list_channels(
    session: LocalSession, root: Path, folders: dict[str, Path], is_multi_label: bool = False
) -> dict[str, TrainingInput]:
    """Write lists as the notebooks do; upload them and the images as their four channels."""
    found = {}
    for name, folder in folders.items():
        lines = []
        for index, path in enumerate(sorted(folder.glob("*/*.jpg"))):
            label = LABELS.index(path.parent.name)
            columns = [str(int(label == n or n == 0)) for n in range(3)]
            labels = "\t".join(columns) if is_multi_label else f"{label}"
            lines.append(f"{index}\t{labels}\t{path.relative_to(folder)}\n")
        (root / f"{name}_lst").mkdir()
        (root / f"{name}_lst" / f"{name}.lst").write_text("".join(lines))
        prefix = f"{root.name}/{name}"
        found[name] = channel(session, folder, prefix, "application/x-image")
        lists = root / f"{name}_lst"
        found[lists.name] = channel(session, lists, f"{prefix}_lst", "application/x-image")
    return found


LISTS = FULL_TRAINING | {"resize": 36, "augmentation_type": "crop_color_transform"}


@pytest.mark.thorough
def test_the_lst_format_trains_with_four_channels_resize_and_top_k(
    session: LocalSession, train_image: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    job = notebook_estimator(session, train_image, **LISTS, top_k=2, checkpoint_frequency=2)
    log = fit(job, list_channels(session, tmp_path, folders))
    assert "Validation-top_k_accuracy_2=" in log
    assert best_accuracy(log) > 0.6


def test_multi_label_lists_train_and_the_endpoint_answers_independent_probabilities(
    session: LocalSession,
    train_image: str,
    serve_image: str,
    folders: dict[str, Path],
    labeled_images: Images,
    tmp_path: Path,
) -> None:
    """The first class applies to every image, so two probabilities of most images are high."""
    job = notebook_estimator(session, train_image, **FULL_TRAINING, resize=36, multi_label=1)
    log = fit(job, list_channels(session, tmp_path, folders, is_multi_label=True))
    assert best_accuracy(log) > 0.9
    predictor = job.deploy(1, "local", image_uri=serve_image)
    try:
        red = next(
            image for label, image in labeled_images(folders["validation"]) if label == "red"
        )
        answer = predictor.predict(red, initial_args={"ContentType": "application/x-image"})
        probabilities = json.loads(answer)
        assert [value > 0.5 for value in probabilities] == [True, False, True]
        assert sum(probabilities) > 1.2
    finally:
        predictor.delete_endpoint()


@pytest.mark.thorough
def test_transfer_learning_starts_from_a_pretrained_network_at_224(
    session: LocalSession,
    train_image: str,
    serve_image: str,
    record_channels: dict[str, TrainingInput],
    folders: dict[str, Path],
    labeled_images: Images,
) -> None:
    """The image has no weights of ResNet-18, so the job takes a substitute and says so."""
    given = FULL_TRAINING | {"num_layers": 18, "image_shape": "3,224,224", "epochs": 2}
    given["resize"] = 224  # the images are smaller
    job = notebook_estimator(session, train_image, **given, use_pretrained_model=1)
    log = fit(job, record_channels)
    assert "efficientnet_lite0" in log
    best_accuracy(log)  # the job ended well; eight updates learn nothing
    predictor = job.deploy(1, "local", image_uri=serve_image)
    try:
        _, image = labeled_images(folders["validation"])[0]
        answer = predictor.predict(image, initial_args={"ContentType": "application/x-image"})
        assert sum(json.loads(answer)) == pytest.approx(1, abs=1e-3)
    finally:
        predictor.delete_endpoint()
