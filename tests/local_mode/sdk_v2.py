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
    """A session whose jobs live below `root` and whose endpoints listen on `port`."""
    root.mkdir(exist_ok=True)
    local = {"local_code": True, "container_root": str(root), "serving_port": port}
    session = LocalSession(boto3.Session(), **options)
    session.config = {"local": local}
    return session


def estimator(session: LocalSession, image: str, output: str, **options: Any) -> Estimator:
    """An estimator on one local instance, unless `options` say otherwise."""
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
    """Run the job; returns its log."""
    return said(lambda: job.fit(dict(inputs)))


def file_uris(folders: Mapping[str, Path]) -> dict[str, str]:
    """Channel → `file://` address of its folder."""
    return {name: f"file://{folder}" for name, folder in folders.items()}
