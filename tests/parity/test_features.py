"""Every backend gives the input of its head: the features of images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from image_classification.backends.base import ModelSpec, OptimizerSpec, Update
from image_classification.errors import AlgorithmError
from tests.parity.engines import LITE, RESNET, build, make_batch, pair


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


def test_a_head_that_trains_on_features_learns_the_same_as_on_images(subject: str) -> None:
    settings = OptimizerSpec(head_l2=0.01, clip_gradient_norm=0.5)
    frozen = replace(RESNET, train_only_head=True, dropout_rate=0.3, averages_weights=True)
    on_images, on_features = (build(subject, frozen, settings) for _ in range(2))
    for number in range(6):
        batch = make_batch(frozen, 8, seed=number)
        batch.weights[6:] = number % 2  # padding
        update = Update(0.5, number % 2 == 1, 0.9)  # two batches an update
        features = replace(batch, images=on_images.features_step(batch.images))
        expected = on_images.train_step(batch, 0.1, update).fetch()
        found = on_features.train_step(features, 0.1, update).fetch()
        assert found[0] == pytest.approx(expected[0], rel=1e-4)
        np.testing.assert_allclose(found[1], expected[1], atol=1e-4)
    theirs = on_images.state()
    for name, value in on_features.state().items():
        np.testing.assert_allclose(value, theirs[name], atol=1e-5, err_msg=name)
    images = make_batch(frozen, 3, seed=9).images
    found_logits = on_features.predict_step(on_images.features_step(images))
    np.testing.assert_allclose(found_logits, on_images.predict_step(images), atol=1e-4)


def test_features_are_refused_by_a_network_that_trains_as_a_whole(subject: str) -> None:
    engine = build(subject, RESNET)
    features = np.zeros((2, engine.feature_width), np.float32)
    with pytest.raises(AlgorithmError, match="expected images"):
        engine.predict_step(features)
