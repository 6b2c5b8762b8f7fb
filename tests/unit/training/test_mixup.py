"""Mixed images and their targets agree."""

from __future__ import annotations

import numpy as np
import pytest

from image_classification.loading.order import mixing_generator
from image_classification.training.mixup import mix_images, mix_targets


def batch(count: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 24, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [2, 5, 6])
def test_mixup_is_the_weighted_mean_with_the_mirrored_image_of_the_batch(count: int) -> None:
    images = batch(count)
    before = images.astype(float)
    share = mix_images(images, np.random.default_rng(3), 0.4, 0.0)
    assert 0.5 <= share < 1.0
    np.testing.assert_allclose(images, share * before + (1 - share) * before[::-1], atol=1.1)


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_swaps_a_rectangle_and_the_share_is_the_area_that_is_left(seed: int) -> None:
    images = batch()
    before = images.copy()
    share = mix_images(images, np.random.default_rng(seed), 0.0, 1.0)
    own = (images == before).all(axis=-1)
    partners = (images == before[::-1]).all(axis=-1)
    assert (own | partners).all()
    assert own.mean() == pytest.approx(share, abs=1e-3)
    rows, columns = np.nonzero(~own[0])
    if rows.size:  # a rectangle: as many pixels as its bounding box
        assert rows.size == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)


def test_with_both_on_some_steps_use_mixup_and_some_cutmix() -> None:
    kinds = set()
    for step in range(20):
        images = batch()
        before = images.copy()
        mix_images(images, mixing_generator(0, 0, 0, step), 1.0, 1.0)
        kinds.add(bool(((images == before) | (images == before[::-1])).all()))
    assert kinds == {True, False}


def test_shares_come_from_the_beta_distribution_folded_at_a_half() -> None:
    generator, images = np.random.default_rng(0), batch(2)[:, :2, :2]
    shares = [mix_images(images.copy(), generator, 0.2, 0.0) for _ in range(4000)]
    drawn = np.random.default_rng(1).beta(0.2, 0.2, 100_000)
    assert np.mean(shares) == pytest.approx(np.maximum(drawn, 1 - drawn).mean(), abs=0.01)


def test_the_same_step_mixes_equally_and_another_step_differently() -> None:
    results = []
    for place in ((1, 2, 0, 3), (1, 2, 0, 3), (1, 2, 0, 4), (1, 2, 1, 3), (2, 2, 0, 3)):
        images = batch()
        mix_images(images, mixing_generator(*place), 0.4, 1.0)
        results.append(images.tobytes())
    assert results[0] == results[1] and len(set(results)) == 4


def test_targets_are_mixed_by_the_share_and_add_to_one() -> None:
    targets, ones = np.eye(3, dtype=np.float32), np.ones(3, np.float32)
    mixed, weights = mix_targets(targets, ones, 0.75)
    np.testing.assert_allclose(mixed, [[0.75, 0, 0.25], [0, 1, 0], [0.25, 0, 0.75]])
    assert weights.tolist() == [1, 1, 1]
    assert mixed.dtype == weights.dtype == np.float32


@pytest.mark.parametrize("weights", [(1, 2, 5, 8), (0.2, 9, 0.2, 0.2), (1, 1, 0, 0)])
def test_the_loss_of_a_mixture_is_the_blend_of_both_weighted_losses(
    weights: tuple[float, ...],
) -> None:
    """Mixing weights and targets separately would give a rare class's weight to its partner too."""
    generator, share = np.random.default_rng(5), 0.7
    targets = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    given = np.array(weights, np.float32)
    costs = -np.log(generator.dirichlet([1, 1, 1], 4))  # −log p of each class, for each image
    own, partner = (costs * targets).sum(axis=1), (costs * targets[::-1]).sum(axis=1)
    expected = share * given * own + (1 - share) * given[::-1] * partner
    mixed, mixed_weights = mix_targets(targets, given, share)
    np.testing.assert_allclose(mixed_weights * (costs * mixed).sum(axis=1), expected, rtol=1e-6)
    np.testing.assert_allclose(mixed.sum(axis=1), mixed_weights > 0, rtol=1e-6)
    assert mixed_weights.sum() == pytest.approx(given.sum())
