"""Every backend gives the input of its head: the features of images."""

from __future__ import annotations

import numpy as np
import pytest

from image_classification.backends.base import ModelSpec
from image_classification.errors import AlgorithmError
from tests.parity.engines import LITE, RESNET, make_batch, pair


@pytest.mark.parametrize("spec", [RESNET, LITE], ids=lambda spec: spec.backbone)
def test_features_are_the_same_and_the_head_makes_the_logits_of_them(
    subject: str, spec: ModelSpec
) -> None:
    ours, reference = pair(subject, spec)
    images = make_batch(spec, 3).images
    found, expected = ours.features_step(images), reference.features_step(images)
    assert found.dtype == np.float32
    assert found.shape == (3, ours.feature_width) == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)
    state = ours.state()
    logits = found @ state["weight/head.weight"].T + state["weight/head.bias"]
    np.testing.assert_allclose(ours.predict_step(images), logits, atol=1e-4 * np.abs(logits).max())


def test_features_of_images_of_another_size_are_refused(subject: str) -> None:
    ours, _ = pair(subject)
    with pytest.raises(AlgorithmError, match="expected images"):
        ours.features_step(np.zeros((1, 8, 8, 3), np.uint8))
