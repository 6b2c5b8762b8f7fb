"""The index of training features, its score, and the damaged ones that are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from image_classification.errors import ArtifactError
from image_classification.feature_index import FeatureIndex, most_images
from image_classification.samples import FloatArray


def around(center: int, count: int, seed: int) -> FloatArray:
    """Features near one of the axes."""
    generator = np.random.default_rng(seed)
    rows = np.abs(generator.normal(0, 0.3, (count, 32)))
    rows[:, center] += 2
    return np.asarray(rows, np.float32)


def index(reference: FloatArray | None = None) -> FeatureIndex:
    features = np.concatenate([around(0, 40, 1), around(1, 40, 2)])
    made = FeatureIndex.of(features, reference)
    assert made is not None
    return made


@pytest.mark.parametrize("has_reference", [False, True])
def test_the_score_is_the_share_of_the_jobs_own_images_that_are_less_similar(
    has_reference: bool,
) -> None:
    own = np.concatenate([around(0, 60, 5), around(1, 60, 6)]) if has_reference else None
    made = index(own)
    like = np.concatenate([around(0, 500, 3), around(1, 500, 4)])
    scores = made.scores(like)
    assert scores.dtype == np.float32 and scores.min() >= 0 and scores.max() <= 1
    assert abs(float((scores >= 0.5).mean()) - 0.5) < 0.12
    assert float((scores >= 0.05).mean()) > 0.88
    assert (made.scores(around(9, 200, 7)) < 0.05).all()
    order = made.similarities(like).argsort()
    assert (np.diff(scores[order]) >= 0).all()


def test_scores_below_all_of_the_jobs_images_still_tell_them_apart() -> None:
    made = index()
    far = around(9, 50, 7)
    nearer = far + np.asarray(around(0, 1, 1) * 0.2, np.float32)
    assert (made.scores(nearer) > made.scores(far)).all()


def test_the_length_of_features_and_images_without_any_do_not_count() -> None:
    made = index()
    like = around(0, 3, 9)
    np.testing.assert_allclose(made.scores(7 * like), made.scores(like), atol=1e-5)
    for value in (0, np.nan, np.inf):
        without = np.concatenate([like[:1], np.full((1, 32), value, np.float32)])
        assert made.scores(without)[0] > 0 and made.scores(without)[1] == 0
    broken = np.concatenate([around(0, 30, 1), np.full((2, 32), np.nan), np.zeros((2, 32))])
    sound = FeatureIndex.of(broken.astype(np.float32), None)
    assert sound is not None and len(sound.rows) == 30


def test_too_few_images_give_no_index_and_many_are_bounded() -> None:
    assert FeatureIndex.of(around(0, 19, 1), None) is None
    assert most_images(1280) == 1000 and most_images(4096) == 512


def test_a_written_index_is_read_back_with_the_same_scores() -> None:
    made = index()
    back = FeatureIndex.read(made.described(), made.rows.tobytes())
    like = around(0, 20, 3)
    np.testing.assert_allclose(back.scores(like), made.scores(like), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "content"),
    [
        ({"images": 81}, None),
        ({"images": 10**12}, None),
        ({"images": True}, None),
        ({"width": "32"}, None),
        ({"quantiles": [0.5]}, None),
        ({"quantiles": ["x"] * 100}, None),
        ({"quantiles": [float("nan")] * 100}, None),
        ({}, b""),
        (None, None),
    ],
    ids=str,
)
def test_an_index_that_does_not_fit_the_manifest_is_refused(
    change: dict[str, Any] | None, content: bytes | None
) -> None:
    made = index()
    described = None if change is None else made.described() | change
    with pytest.raises(ArtifactError, match=r"^feature-index.bin: expected"):
        FeatureIndex.read(described, made.rows.tobytes() if content is None else content)


def test_an_index_of_more_images_than_a_job_writes_is_refused() -> None:
    made = index().described() | {"images": 1001, "width": 1}
    with pytest.raises(ArtifactError, match="expected at most 1000 images, found 1001"):
        FeatureIndex.read(made, bytes(1001))
