"""The Python code of docs/operations.md, run with SageMaker's SDK v2: its requests are valid."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.validate import ParamValidator
from sagemaker.session import Session

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
ANSWERS: dict[str, dict[str, Any]] = {
    "DescribeTrainingJob": {"ModelArtifacts": {"S3ModelArtifacts": "s3://BUCKET/model.tar.gz"}},
    "DescribeEndpoint": {"EndpointStatus": "InService", "EndpointConfigName": "config"},
    "CreateEndpoint": {"EndpointArn": "arn:aws:sagemaker:us-east-1:123456789012:endpoint/e"},
}


def outside_enums(shape: Any, value: Any) -> list[str]:
    """Return the texts in a request that are not among the values of their shape."""
    if shape.type_name == "structure":
        return [bad for name in value for bad in outside_enums(shape.members[name], value[name])]
    if shape.type_name == "list":
        return [bad for item in value for bad in outside_enums(shape.member, item)]
    enum = getattr(shape, "enum", None)
    return [value] if enum and value not in enum else []


def test_the_python_of_the_operations_page_sends_only_valid_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, dict[str, Any]]] = []

    def answer(client: Any, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        shape = client.meta.service_model.operation_model(operation).input_shape
        report = ParamValidator().validate(request, shape)
        assert not report.has_errors(), f"{operation}: {report.generate_report()}"
        assert outside_enums(shape, request) == [], operation
        sent.append((operation, request))
        if operation == "InvokeEndpoint":
            return {"Body": io.BytesIO(b'{"predicted_label": "rose"}'), "ContentType": "x"}
        return ANSWERS.get(operation, {})

    monkeypatch.setattr(BaseClient, "_make_api_call", answer)
    # The SDK checks its own configuration for each value that it looks up, which takes most time.
    monkeypatch.setattr("sagemaker.utils.validate_sagemaker_config", lambda _: None)
    monkeypatch.setattr(Session, "logs_for_job", lambda *_, **__: None)
    monkeypatch.setattr(Session, "default_bucket", lambda _: "BUCKET")
    monkeypatch.chdir(tmp_path)
    Path("rose.jpg").write_bytes(b"a rose")
    monkeypatch.setattr("time.sleep", lambda _: None)  # the SDK polls every 30 s
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, names)

    def last(operation: str) -> dict[str, Any]:
        return [request for name, request in sent if name == operation][-1]

    job = last("CreateTrainingJob")  # those for GPUs are last in the page
    assert job["AlgorithmSpecification"]["TrainingImage"].endswith("-torch-cu13")
    assert job["EnableManagedSpotTraining"] and job["CheckpointConfig"]
    limits = job["StoppingCondition"]
    assert limits["MaxWaitTimeInSeconds"] >= limits["MaxRuntimeInSeconds"]
    (variant,) = last("CreateEndpointConfig")["ProductionVariants"]
    assert variant["InferenceAmiVersion"] == "al2-ami-sagemaker-inference-gpu-2"
    assert last("CreateModel")["PrimaryContainer"]["Image"].endswith("-cu12")
    resources = last("CreateTransformJob")["TransformResources"]
    assert resources["TransformAmiVersion"] == "al2-ami-sagemaker-batch-gpu-535"
