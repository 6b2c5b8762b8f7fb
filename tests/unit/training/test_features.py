"""The features of a whole source, in its order, with the preprocessing of validation."""

from __future__ import annotations

import numpy as np
import pytest

from image_classification.errors import DataError
from image_classification.images.preprocessing import Preprocessing, preprocess
from image_classification.loading.bad_samples import BadSamples
from image_classification.training.features import source_features
from tests.parity.engines import RESNET, build
from tests.unit.training.test_loop import Colors

PREPROCESSING = Preprocessing(20, 28)


def test_the_features_of_a_source_are_in_its_order_and_those_of_serving() -> None:
    engine, source, counts = build("reference", RESNET), Colors(), list[int]()
    found = source_features(
        engine, source, PREPROCESSING, batch_size=4, threads=2, on_batch=counts.append
    )
    images = np.stack([preprocess(source.read(i).data, PREPROCESSING) for i in range(10)])
    expected = engine.features_step(images)
    np.testing.assert_allclose(found.features, expected, atol=1e-6)
    assert found.features.dtype == np.float32
    assert found.targets.tolist() == source.class_indices.tolist()
    assert found.keys == tuple(source.key(i) for i in range(10))
    assert found.indices.tolist() == list(range(10))
    assert counts == [4, 8, 10]


def test_bad_samples_have_no_features_and_fail_the_pass_beyond_their_limit() -> None:
    engine, source = build("reference", RESNET), Colors()
    source.damaged = {0, 5}
    with pytest.raises(DataError, match="sample0"):
        source_features(engine, source, PREPROCESSING)
    found = source_features(
        engine, source, PREPROCESSING, batch_size=1, bad_samples=BadSamples(limit=2)
    )
    assert found.indices.tolist() == [1, 2, 3, 4, 6, 7, 8, 9]
    assert len(found.features) == len(found.keys) == len(found.targets) == 8
    assert found.keys[0] == "sample1"
