"""SageMaker's SDK v2 in local mode with S3, which moto replaces."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from sagemaker.inputs import TrainingInput
from sagemaker.local import LocalSession
from sagemaker.model import Model

from tests.local_mode.jobs import HYPERPARAMETERS, ROLE, best_accuracy
from tests.local_mode.sdk_v2 import estimator, fit, s3_session, uploaded

BUCKET = "images"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, free_port: int) -> Iterator[LocalSession]:
    with s3_session(tmp_path_factory.mktemp("s3") / "root", free_port, BUCKET) as session:
        yield session


@pytest.fixture(scope="module")
def inputs(session: LocalSession, records: dict[str, Path]) -> dict[str, TrainingInput]:
    """The channels of records, uploaded."""
    return {
        name: uploaded(session, folder, f"records/{name}", content_type="application/x-recordio")
        for name, folder in records.items()
    }


@pytest.fixture(scope="module")
def model_data(session: LocalSession, inputs: dict[str, TrainingInput], train_image: str) -> str:
    """The address of the archive of a finished job."""
    job = estimator(session, train_image, f"s3://{BUCKET}/jobs")
    assert best_accuracy(fit(job, inputs)) > 0.9
    return str(job.model_data)


def test_a_job_on_records_in_s3_uploads_its_archives(model_data: str) -> None:
    assert model_data.startswith(f"s3://{BUCKET}/jobs/")
    assert model_data.endswith("/output/model.tar.gz")
    listed = boto3.client("s3").list_objects_v2(Bucket=BUCKET, Prefix="jobs/")["Contents"]
    assert {entry["Key"].rsplit("/", 1)[1] for entry in listed} == {
        "model.tar.gz",
        "output.tar.gz",
    }


def test_a_job_starts_from_a_model_in_s3(
    session: LocalSession, inputs: dict[str, TrainingInput], model_data: str, train_image: str
) -> None:
    hyperparameters = HYPERPARAMETERS | {"epochs": 1, "learning_rate": 0.0}
    job = estimator(
        session,
        train_image,
        f"s3://{BUCKET}/jobs",
        hyperparameters=hyperparameters,
        model_uri=model_data,
    )
    assert best_accuracy(fit(job, inputs)) > 0.9


def test_a_transform_job_reads_images_from_s3_and_writes_predictions_to_s3(
    session: LocalSession,
    model_data: str,
    serve_image: str,
    folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    source = session.upload_data(str(folders["validation"] / "green"), BUCKET, "batch")
    model = Model(serve_image, model_data, ROLE, sagemaker_session=session)
    transformer = model.transformer(
        1,
        "local",
        strategy="SingleRecord",
        accept="application/json;verbose",
        output_path=f"s3://{BUCKET}/answers",
    )
    transformer.transform(source, content_type="image/jpeg", logs=False)
    session.download_data(str(tmp_path), BUCKET, "answers")
    answers = [json.loads(path.read_text()) for path in tmp_path.rglob("*.out")]
    assert [answer["predicted_label"] for answer in answers] == ["green"] * 5
