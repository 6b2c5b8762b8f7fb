"""JumpStart's notebook for image classification with SDK v2, from fit to deploy.

Its calls are unchanged but for the two image URIs; `script_uris`, `model_uris` and
`hyperparameters.retrieve_default`, which ask JumpStart's bucket, give way to what they return. The
tuning job is in test_sdk_v2_notebooks.py, because local mode has none.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from sagemaker.estimator import Estimator
from sagemaker.local import LocalSession
from sagemaker.model import Model
from sagemaker.predictor import Predictor

from tests.local_mode import jumpstart
from tests.local_mode.conftest import Images, docker
from tests.local_mode.jobs import ROLE, members, said
from tests.local_mode.sdk_v2 import fit, s3_session, uploaded

BUCKET = "jumpstart"
TRAIN_IMAGES = os.environ.get("OTHER_TRAIN_IMAGES", "").split()
TENSORFLOW = next((name for name in TRAIN_IMAGES if name.endswith("-tensorflow")), "")
REQUEST = {"ContentType": "application/x-image", "Accept": "application/json;verbose"}

pytestmark = pytest.mark.skipif(not TENSORFLOW, reason="there is no train image of TensorFlow")


@dataclass(frozen=True)
class Addresses:
    """What JumpStart's functions return: addresses in S3."""

    train_source: str
    deploy_source: str
    base_model: str
    tuned_model: str


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, free_port: int) -> Iterator[LocalSession]:
    root = tmp_path_factory.mktemp("jumpstart") / "root"
    with s3_session(root, free_port, BUCKET, local_code=False) as session:
        yield session


@pytest.fixture(scope="module")
def addresses(session: LocalSession, tmp_path_factory: pytest.TempPathFactory) -> Addresses:
    root = tmp_path_factory.mktemp("models")
    jumpstart.write_models(root, TENSORFLOW, docker)
    files = {
        "train/sourcedir.tar.gz": jumpstart.pack_script(
            root / "train.tar.gz", "transfer_learning.py", jumpstart.TRANSFER_LEARNING
        ),
        "deploy/sourcedir.tar.gz": jumpstart.pack_script(
            root / "deploy.tar.gz", "inference.py", jumpstart.INFERENCE
        ),
        "base/model.tar.gz": jumpstart.pack(root / "base.tar.gz", root / "base"),
        "tuned/model.tar.gz": jumpstart.pack(root / "tuned.tar.gz", root / "tuned"),
    }
    for key, path in files.items():
        boto3.client("s3").upload_file(str(path), BUCKET, key)
    return Addresses(*(f"s3://{BUCKET}/{key}" for key in files))


def notebook_estimator(session: LocalSession, addresses: Addresses, **options: Any) -> Estimator:
    """Return the estimator of the notebook's training cell."""
    given = {
        "model_uri": addresses.base_model,
        "hyperparameters": jumpstart.HYPERPARAMETERS,
    } | options
    return Estimator(
        role=ROLE,
        image_uri=TENSORFLOW,
        source_dir=addresses.train_source,
        entry_point="transfer_learning.py",
        instance_count=1,
        instance_type="local",
        max_run=360000,
        output_path=f"s3://{BUCKET}/jobs",
        sagemaker_session=session,
        **given | options,
    )


@dataclass(frozen=True)
class Fitted:
    """The notebook's finished job and its log."""

    estimator: Estimator
    log: str


@pytest.fixture(scope="module")
def fitted(session: LocalSession, addresses: Addresses, folders: dict[str, Path]) -> Fitted:
    job = notebook_estimator(session, addresses)
    training = uploaded(session, folders["train"], "training").config["DataSource"]["S3DataSource"]
    return Fitted(job, fit(job, {"training": training["S3Uri"]}))


def share_of_right_answers(predictor: Predictor, images: list[tuple[str, bytes]]) -> float:
    """Ask about every third image, as the notebook asks; return the share of right classes."""
    found = []
    for label, image in images[::3]:
        answer = json.loads(predictor.predict(image, REQUEST))
        assert set(answer) == {"probabilities", "labels", "predicted_label"}
        best = max(range(3), key=answer["probabilities"].__getitem__)
        assert answer["labels"][best] == answer["predicted_label"]
        found.append(answer["predicted_label"] == label)
    return sum(found) / len(found)


def deployed(action: Any) -> tuple[Predictor, str]:
    """Deploy and return the predictor and what the container logged till then."""
    found: list[Predictor] = []
    log = said(lambda: found.append(action()))
    return found[0], log


def test_the_notebooks_job_fine_tunes_the_base_model_and_not_with_the_built_ins_script(
    fitted: Fitted,
) -> None:
    assert "the script of the built-in" not in fitted.log
    assert "backbone=saved_model" in fitted.log
    assert "val_accuracy: " in fitted.log
    assert "a_name_of_a_later_script" in fitted.log


@pytest.mark.parametrize(
    "entry_point", ["inference.py", pytest.param(None, marks=pytest.mark.thorough)]
)
def test_the_notebooks_endpoint_answers_with_and_without_jumpstarts_inference_script(
    entry_point: str | None,
    fitted: Fitted,
    addresses: Addresses,
    serve_image: str,
    folders: dict[str, Path],
    labeled_images: Images,
) -> None:
    script = {"entry_point": entry_point, "source_dir": addresses.deploy_source}
    predictor, log = deployed(
        lambda: fitted.estimator.deploy(
            initial_instance_count=1,
            instance_type="local",
            image_uri=serve_image,
            endpoint_name="jumpstart-example-ft",
            **(script if entry_point else {}),
        )
    )
    try:
        assert share_of_right_answers(predictor, labeled_images(folders["validation"])) == 1
    finally:
        predictor.delete_endpoint()
    assert ("code/inference.py does not run: it has handler" in log) == bool(entry_point)


@pytest.mark.thorough
def test_an_untuned_archive_is_refused_with_the_command_that_makes_it_deployable(
    session: LocalSession,
    addresses: Addresses,
    serve_image: str,
    folders: dict[str, Path],
    labeled_images: Images,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sagemaker.local.entities.HEALTH_CHECK_TIMEOUT_LIMIT", 15)  # not 120 s

    def deploy(model_data: str) -> Predictor:
        model = Model(
            image_uri=serve_image,
            source_dir=addresses.deploy_source,
            model_data=model_data,
            entry_point="inference.py",
            role=ROLE,
            predictor_cls=Predictor,
            name="jumpstart-example-infer",
            sagemaker_session=session,
        )
        return model.deploy(1, "local", endpoint_name="jumpstart-example-infer")

    output = io.StringIO()
    with pytest.raises(RuntimeError, match="endpoint didn't launch"):
        output.write(said(lambda: deploy(addresses.base_model)))
    archive = tmp_path / "model.tar.gz"
    session.download_data(str(tmp_path), BUCKET, "base/model.tar.gz")
    options = ["--rm", "--network=none", f"--volume={tmp_path}:/work"]
    command = ["image-classification", "export", "--from-tensorflow", "/work/model.tar.gz"]
    docker("run", *options, TENSORFLOW, *command, "--output", "/work/model")
    converted = jumpstart.pack(tmp_path / "converted.tar.gz", tmp_path / "model")
    assert archive.is_file() and "model.onnx" in members(converted)
    boto3.client("s3").upload_file(str(converted), BUCKET, "converted/model.tar.gz")
    predictor = deploy(f"s3://{BUCKET}/converted/model.tar.gz")
    try:
        assert share_of_right_answers(predictor, labeled_images(folders["validation"])) == 1
    finally:
        predictor.delete_endpoint()


@pytest.mark.thorough
def test_a_job_goes_on_from_what_the_built_in_fine_tuned_with_its_head(
    session: LocalSession, addresses: Addresses, folders: dict[str, Path]
) -> None:
    given = jumpstart.HYPERPARAMETERS | {"epochs": "1", "learning_rate": "0.0"}
    job = notebook_estimator(
        session, addresses, model_uri=addresses.tuned_model, hyperparameters=given
    )
    training = uploaded(session, folders["train"], "training").config["DataSource"]["S3DataSource"]
    log = fit(job, {"training": training["S3Uri"]})
    assert "fine-tuned by the built-in; its head is kept" in log
    assert float(log.split("val_accuracy: ")[1].split()[0]) > 0.9
