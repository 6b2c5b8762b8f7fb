"""Local-mode sessions, estimators and jobs of SageMaker's SDK v2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
from sagemaker.estimator import Estimator
from sagemaker.local import LocalSession

from tests.local_mode.jobs import HYPERPARAMETERS, ROLE, said


def local_session(root: Path, port: int, **options: Any) -> LocalSession:
    """Return a session with jobs in `root` and endpoints on `port`."""
    root.mkdir(exist_ok=True)
    local = {"local_code": True, "container_root": str(root), "serving_port": port}
    session = LocalSession(boto3.Session(), **options)
    session.config = {"local": local}
    return session


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
