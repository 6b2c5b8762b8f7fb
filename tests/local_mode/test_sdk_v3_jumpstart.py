"""JumpStart's job and endpoint with SDK v3, as far as the SDK can express the notebook of v2.

Three calls of the notebook have no counterpart in v3's local mode:

- `source_dir` and `entry_point` of the estimator: `SourceCode` replaces the image's entry point by
  the SDK's own, which runs the given script. So a job leaves `source_code` out.
- `model_uri`: the base model is the channel `model`, like any other.
- `deploy(entry_point=…)`: `ModelBuilder` starts model servers of AWS alone in local containers. The
  test packs the script into the archive with the SDK's `repack_model`, and starts the endpoint with
  the SDK's local session.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import boto3
import pytest
from sagemaker.core.common_utils import repack_model
from sagemaker.core.local.local_session import LocalSession

from tests.local_mode import jumpstart
from tests.local_mode.conftest import Images, docker
from tests.local_mode.jobs import said
from tests.local_mode.test_sdk_v3 import train

TRAIN_IMAGES = os.environ.get("OTHER_TRAIN_IMAGES", "").split()
TENSORFLOW = next((name for name in TRAIN_IMAGES if name.endswith("-tensorflow")), "")


@pytest.mark.thorough
@pytest.mark.skipif(not TENSORFLOW, reason="there is no train image of TensorFlow")
def test_a_base_model_is_fine_tuned_and_served_beside_jumpstarts_inference_script(
    serve_image: str,
    folders: dict[str, Path],
    labeled_images: Images,
    tmp_path: Path,
    free_port: int,
) -> None:
    jumpstart.write_models(tmp_path, TENSORFLOW, docker)
    (tmp_path / "model").mkdir()
    jumpstart.pack(tmp_path / "model" / "model.tar.gz", tmp_path / "base")
    channels = {"training": folders["train"], "model": tmp_path / "model"}
    given: dict[str, object] = dict(jumpstart.HYPERPARAMETERS)
    trained = train(tmp_path / "job", TENSORFLOW, channels, hyperparameters=given)
    assert "backbone=saved_model" in trained.log and "val_accuracy: " in trained.log
    session = LocalSession(boto3.Session())
    session.config = {"local": {"container_root": str(tmp_path), "serving_port": free_port}}
    source = tmp_path / "source"
    source.mkdir()
    (source / "inference.py").write_text(jumpstart.INFERENCE)
    packed = f"file://{tmp_path}/packed.tar.gz"
    repack_model("inference.py", str(source), [], f"file://{trained.archive}", packed, session)
    client, runtime = session.sagemaker_client, session.sagemaker_runtime_client
    program = {"SAGEMAKER_PROGRAM": "inference.py"}
    container = {"Image": serve_image, "ModelDataUrl": packed, "Environment": program}
    client.create_model(ModelName="jumpstart", PrimaryContainer=container)
    variant = {"ModelName": "jumpstart", "VariantName": "AllTraffic", "InstanceType": "local"}
    client.create_endpoint_config("jumpstart", [variant | {"InitialInstanceCount": 1}])
    try:
        log = said(lambda: client.create_endpoint("jumpstart", "jumpstart"))
        for label, image in labeled_images(folders["validation"])[::3]:
            content, accept = "application/x-image", "application/json;verbose"
            answer = runtime.invoke_endpoint(image, "jumpstart", content, accept)
            assert json.loads(answer["Body"].data)["predicted_label"] == label
    finally:
        client.delete_endpoint("jumpstart")
        client.delete_endpoint_config("jumpstart")
        client.delete_model("jumpstart")
    assert "code/inference.py does not run: it has handler" in log
