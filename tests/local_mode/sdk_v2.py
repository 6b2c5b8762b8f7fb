"""Local-mode sessions, estimators and jobs of SageMaker's SDK v2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from sagemaker.estimator import Estimator
from sagemaker.inputs import TrainingInput
from sagemaker.local import LocalSession

from tests.local_mode.jobs import HYPERPARAMETERS, ROLE, said


def local_session(root: Path, port: int, local_code: bool = True, **options: Any) -> LocalSession:
    """Return a session with jobs in `root` and endpoints on `port`.

    Without `local_code`, the SDK keeps code in S3, as it does without local mode.
    """
    root.mkdir(exist_ok=True)
    local = {"local_code": local_code, "container_root": str(root), "serving_port": port}
    session = LocalSession(boto3.Session(), **options)
    session.config = {"local": local}
    return session


@contextmanager
def s3_session(
    root: Path, port: int, bucket: str, local_code: bool = True
) -> Iterator[LocalSession]:
    """Yield a session with a bucket on this machine, which moto has."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, found = server.get_host_and_port()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{found}")
            boto3.client("s3").create_bucket(Bucket=bucket)
            yield local_session(root, port, local_code, default_bucket=bucket)
    finally:
        server.stop()


def uploaded(session: LocalSession, folder: Path, prefix: str, **options: Any) -> TrainingInput:
    """Upload a folder and return it as the input of a channel."""
    address = session.upload_data(str(folder), session.default_bucket(), prefix)
    return TrainingInput(address, **options)


def estimator(session: LocalSession, image: str, output: str, **options: Any) -> Estimator:
    """Return an estimator with one local instance; `options` override the defaults."""
    defaults = {"instance_count": 1, "hyperparameters": HYPERPARAMETERS}
    return Estimator(
        image_uri=image,
        role=ROLE,
        instance_type="local",
        sagemaker_session=session,
        output_path=output,
        **defaults | options,
    )


def fit(job: Estimator, inputs: Mapping[str, Any]) -> str:
    """Run the job and return its log."""
    return said(lambda: job.fit(dict(inputs)))


def file_uris(folders: Mapping[str, Path]) -> dict[str, str]:
    """Return channel → `file://` address of its folder."""
    return {name: f"file://{folder}" for name, folder in folders.items()}
