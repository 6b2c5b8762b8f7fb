"""The train images of the other backends with SDK v2: only the image of the job differs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from sagemaker.deserializers import JSONDeserializer
from sagemaker.serializers import IdentitySerializer

from tests.local_mode.conftest import Images
from tests.local_mode.jobs import best_accuracy, member_text
from tests.local_mode.sdk_v2 import estimator, file_uris, fit, local_session

IMAGES = os.environ.get("OTHER_TRAIN_IMAGES", "").split()
LABELS = ["blue", "green", "red"]


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.rpartition("-")[2])
def test_a_job_needs_only_another_image_and_its_model_can_be_deployed(
    image: str,
    serve_image: str,
    folders: dict[str, Path],
    labeled_images: Images,
    free_port: int,
    tmp_path: Path,
) -> None:
    job = estimator(local_session(tmp_path / "root", free_port), image, f"file://{tmp_path}")
    log = fit(job, file_uris(folders))
    manifest = json.loads(member_text(tmp_path / "model.tar.gz", "manifest.json"))
    assert manifest["backend"] == image.rpartition("-")[2]
    assert best_accuracy(log) > 0.9
    predictor = job.deploy(
        1,
        "local",
        image_uri=serve_image,
        serializer=IdentitySerializer("image/jpeg"),
        deserializer=JSONDeserializer(),
    )
    try:
        answers = [
            (label, LABELS[max(range(3), key=predictor.predict(image).__getitem__)])
            for label, image in labeled_images(folders["validation"])
        ]
    finally:
        predictor.delete_endpoint()
    assert sum(label == answer for label, answer in answers) > 0.8 * len(answers)
