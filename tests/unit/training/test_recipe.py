"""The numbers of class weights, balanced sampling, accumulated batches and weight averaging."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from image_classification.contract.interface import INTERFACES
from image_classification.errors import HyperparameterError
from image_classification.loading.order import balanced_order
from image_classification.training.final_settings import identity_of, with_min_updates
from image_classification.training.settings import Recipe, Settings, average_decay, settings_of
from image_classification.training.step import class_weights, logit_bias

UNEVEN = np.repeat([0, 1, 3], [90, 9, 1])


def settings(interface: str = "mxnet", **given: str) -> Settings:
    defaults = {"num_layers": "20", "image_shape": "3,32,32"} if interface == "mxnet" else {}
    return settings_of(INTERFACES[interface].parse(defaults | given))


def test_balanced_class_weights_equal_those_of_scikit_learn() -> None:
    weights = class_weights(UNEVEN, 4, "balanced")
    np.testing.assert_allclose(weights, [100 / 270, 100 / 27, 0, 100 / 3], rtol=1e-6)
    assert weights[UNEVEN].mean() == pytest.approx(1)


def test_effective_class_weights_follow_the_paper_and_are_milder_than_balanced_ones() -> None:
    weights = class_weights(UNEVEN, 4, "effective")
    expected = [(1 - 0.999) / (1 - 0.999**n) if n else 0 for n in (90, 9, 0, 1)]
    np.testing.assert_allclose(weights / weights[3], np.array(expected) / expected[3], rtol=1e-5)
    assert weights[UNEVEN].mean() == pytest.approx(1)
    many = np.repeat([0, 1], [50_000, 500])
    ratio = {kind: np.divide(*class_weights(many, 2, kind)[::-1]) for kind in
             ("balanced", "effective")}  # fmt: skip
    assert 1 < ratio["effective"] < ratio["balanced"] == pytest.approx(100)


def test_balanced_order_draws_every_class_and_every_sample_of_a_class_equally() -> None:
    order = balanced_order(UNEVEN, 7, 0)
    assert len(order) == len(UNEVEN)
    assert sorted(np.bincount(UNEVEN[order], minlength=4)) == [0, 33, 33, 34]
    drawn = np.bincount(order, minlength=100)
    assert set(drawn[:90]) == {0, 1} and set(drawn[90:99]) <= {3, 4}
    assert np.array_equal(order, balanced_order(UNEVEN, 7, 0))
    assert not np.array_equal(order, balanced_order(UNEVEN, 7, 1))


def test_the_ranks_share_a_balanced_epoch() -> None:
    parts = [balanced_order(UNEVEN, 7, 2, rank, 3) for rank in range(3)]
    together = np.sort(np.concatenate(parts))
    assert np.array_equal(together, np.sort(balanced_order(UNEVEN, 7, 2)))


def test_an_epoch_can_have_fewer_samples_than_classes() -> None:
    assert sorted(balanced_order(np.arange(5), 0, 0)) == [0, 1, 2, 3, 4]


def test_each_batch_has_the_share_of_its_weight_in_an_update() -> None:
    recipe, weights = Recipe(accumulate_batches=3), np.array([8.0, 8, 8, 8, 3])
    updates = [recipe.update(0, step, weights) for step in range(5)]  # 8 8 8 | 8 3
    shares = [update.share for update in updates]
    assert shares == pytest.approx([1 / 3, 1 / 3, 1 / 3, 8 / 11, 3 / 11])
    assert [update.is_last for update in updates] == [False, False, True, False, True]
    assert Recipe().update(2, 3, weights).share == 1.0


def test_the_decay_of_the_average_is_lower_during_the_first_updates() -> None:
    assert average_decay(0.99, 0) == pytest.approx(0.1)
    assert average_decay(0.99, 90) == pytest.approx(0.91)
    assert average_decay(0.99, 10_000) == 0.99
    assert average_decay(0.0, 5) == 0.0
    recipe = Recipe(ema_decay=0.9999, accumulate_batches=2)
    assert recipe.update(3, 4, np.full(5, 8.0)).average_decay == average_decay(0.9999, 3 * 3 + 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"class_weights": "balanced", "balanced_sampling": "1"}, "the same imbalance: keep one"),
        (
            {"class_weights": "logit_adjust", "balanced_sampling": "1"},
            "class_weights=logit_adjust and balanced_sampling=True both correct",
        ),
        ({"mixup_alpha": "0.2", "mini_batch_size": "1"}, "a batch of 1 has no partner"),
        (
            {"randaugment": "2", "augmentation_type": "crop_color", "resize": "40"},
            "both change colors",
        ),
        (
            {"precision": "bfloat16", "precision_dtype": "float16"},
            "precision=bfloat16 and precision_dtype=float16 contradict",
        ),
    ],
)
def test_the_error_of_a_contradiction_tells_what_to_change(
    given: dict[str, str], message: str
) -> None:
    with pytest.raises(HyperparameterError, match=message):
        settings(**given)


def test_the_recipe_and_the_augmentation_come_from_the_hyperparameters() -> None:
    found = settings(
        mixup_alpha="0.2", ema_decay="0.99", accumulate_batches="4", min_crop_area="0.3",
        randaugment="2", random_erasing="0.25", augmentation_type="crop", precision_dtype="float16",
    )  # fmt: skip
    assert found.recipe == Recipe(mixup_alpha=0.2, ema_decay=0.99, accumulate_batches=4)
    augmentation = found.augmentation
    assert augmentation is not None
    assert (augmentation.crop, augmentation.area) == ("random_resized", (0.3, 1.0))
    assert (augmentation.operations, augmentation.erasing) == (2, 0.25)
    assert augmentation.horizontal_flip == 0.5
    assert found.precision == "float16"
    plain = settings()
    assert plain.augmentation is None and plain.recipe == Recipe()
    assert (plain.precision, plain.compiles) == ("auto", False)


def test_the_bias_of_the_logits_is_tau_times_the_logarithm_of_the_share() -> None:
    bias = logit_bias(np.array([0] * 90 + [1] * 10), 2, 0.5)
    assert bias.dtype == np.float32
    np.testing.assert_allclose(bias, [0.5 * np.log(0.9), 0.5 * np.log(0.1)], rtol=1e-6)
    assert np.isfinite(logit_bias(np.array([0, 0, 1]), 3, 1.0)).all(), "a class without a sample"


def test_logit_adjustment_is_part_of_the_loss_and_has_the_strength_of_its_hyperparameter() -> None:
    assert settings().recipe.logit_tau == 0
    assert settings(logit_adjust_tau="0.5").recipe.logit_tau == 0, "without class_weights"
    assert settings(class_weights="logit_adjust").recipe.logit_tau == 0.75
    assert settings(class_weights="logit_adjust", logit_adjust_tau="0.5").recipe.logit_tau == 0.5


def test_a_preset_trains_few_images_in_more_epochs_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = settings(preset="transfer", mini_batch_size="32")
    caplog.clear()  # it logs what the preset sets
    with caplog.at_level(logging.INFO):
        few = with_min_updates(job, 500)
    assert few.epochs == few.schedule.epochs == 25, "16 updates each"
    assert caplog.messages == [
        "min_updates=400: training 25 epochs instead of epochs=12, because 500 images make only "
        "16 updates of the weights per epoch; to decide yourself, set epochs without min_updates"
    ]
    assert with_min_updates(job, 25).epochs == 400
    assert with_min_updates(job, 500, hosts=2).epochs == 50
    caplog.clear()
    assert with_min_updates(job, 5_000) == job and not caplog.messages


def test_the_epochs_of_the_job_win_over_the_updates_of_a_preset() -> None:
    for given in ({"epochs": "12"}, {"epochs": "3", "optimizer": "adam"}):
        job = settings(preset="transfer", **given)
        assert with_min_updates(job, 10).epochs == int(given["epochs"])
    assert with_min_updates(settings(preset="transfer", optimizer="adam"), 10).epochs == 400
    assert with_min_updates(settings(epochs="12", min_updates="30"), 10).epochs == 30


def test_a_checkpoint_from_before_logit_adjustment_belongs_to_the_same_job() -> None:
    inputs: Any = SimpleNamespace(
        labels=SimpleNamespace(names=("a", "b")), training_samples=8, validation=range(2)
    )
    before = identity_of("mxnet", settings(), inputs)
    assert "logit_tau" not in before["recipe"] and "min_updates" not in before
    after = identity_of("mxnet", settings(class_weights="logit_adjust"), inputs)
    assert after["recipe"]["logit_tau"] == 0.75
