"""One training step gives the same with every backend, for all optimizers, losses and recipes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from image_classification.backends.base import ModelSpec, Update
from image_classification.backends.networks import efficientnet, mobilenet
from image_classification.backends.networks.resnet_v1_5 import PLANS, Plan
from image_classification.backends.update_rules import RULES
from image_classification.samples import Batch
from image_classification.training.step import smooth_labels
from tests.parity.engines import LITE, RESNET, assert_same_change, build, make_batch, pair

Steps = list[tuple[Batch, Update]]
WHOLE = Update()


def compare(
    subject: str, spec: ModelSpec, steps: Steps, rate: float = 0.05, **optimizer: Any
) -> None:
    """Run the steps on both: losses, logits, weights, statistics and slots must agree."""
    ours, reference = pair(subject, spec, **optimizer)
    before = reference.state()
    for batch, update in steps:
        loss, logits = ours.train_step(batch, rate, update).fetch()
        expected_loss, expected_logits = reference.train_step(batch, rate, update).fetch()
        assert loss == pytest.approx(expected_loss, rel=1e-3)
        assert logits.dtype == np.float32 and logits.shape == expected_logits.shape
        scale = max(1.0, float(np.abs(expected_logits).max()))
        np.testing.assert_allclose(logits, expected_logits, atol=2e-3 * scale)
    assert_same_change(ours.state(), reference.state(), before)


def change(spec: ModelSpec, **fields: Any) -> ModelSpec:
    return dataclasses.replace(spec, **fields)


HEAD = change(RESNET, train_only_head=True)


@pytest.mark.parametrize("spec", [RESNET, LITE], ids=["resnet20", "efficientnet_lite0"])
def test_a_step_has_the_same_loss_gradients_and_statistics(subject: str, spec: ModelSpec) -> None:
    """The momentum after one step of sgd without decay is the gradient."""
    compare(subject, spec, [(make_batch(spec), WHOLE)], weight_decay=0.0)


def test_a_bottleneck_with_a_max_pool_has_the_same_gradients(subject: str) -> None:
    spec = change(RESNET, backbone="resnet50", input_shape=(3, 64, 64))
    compare(subject, spec, [(make_batch(spec, 4), WHOLE)])


@pytest.mark.parametrize(
    "plan",
    [Plan((1, 1, 1, 1), groups=32, group_width=4), Plan((1, 2, 1, 1), bottleneck=False)],
    ids=["resnext", "resnet_v1.5"],
)
def test_convolutions_in_groups_and_shortcuts_with_norms_have_the_same_gradients(
    subject: str, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In networks of each kind with few blocks."""
    monkeypatch.setitem(PLANS, "few_blocks", plan)
    compare_step_and_prediction(subject, "few_blocks")


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", "tf_efficientnet_b0"])
def test_squeezes_and_both_kinds_of_padding_have_the_same_gradients(
    subject: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In networks of each kind with few stages."""
    monkeypatch.setattr(mobilenet, "STAGES", mobilenet.STAGES[:3])
    monkeypatch.setattr(efficientnet, "STAGES", efficientnet.STAGES[:3])
    compare_step_and_prediction(subject, name)


def compare_step_and_prediction(subject: str, backbone: str) -> None:
    spec = change(RESNET, backbone=backbone, input_shape=(3, 64, 49))
    batch = make_batch(spec, 4)
    compare(subject, spec, [(batch, WHOLE)])
    ours, reference = pair(subject, spec)
    found, expected = (engine.predict_step(batch.images) for engine in (ours, reference))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_an_optimizer_follows_its_formula(subject: str, name: str, momentum: float) -> None:
    """On a linear model, where float32 has no excuse: three updates and every slot."""
    settings = {"name": name, "momentum": momentum, "weight_decay": 0.1, "epsilon": 1e-6}
    steps = [(make_batch(seed=seed), WHOLE) for seed in range(3)]
    compare(subject, HEAD, steps, initial_accumulator=0.1, **settings)


@pytest.mark.parametrize("name", RULES)
def test_an_optimizer_updates_every_kind_of_parameter(subject: str, name: str) -> None:
    """A large epsilon, because gradients of almost nothing have no sign to agree on."""
    settings = {"name": name, "weight_decay": 0.1, "epsilon": 0.01, "initial_accumulator": 0.1}
    compare(subject, RESNET, [(make_batch(), WHOLE)], **settings)


def smoothed(batch: Batch) -> Batch:
    classes = batch.targets.argmax(1)
    return dataclasses.replace(batch, targets=smooth_labels(classes, 4, smoothing=0.2))


def weighed(batch: Batch) -> Batch:
    weights = np.linspace(0.5, 3, len(batch)).astype(np.float32)
    return dataclasses.replace(batch, weights=weights)


def with_bad_samples(batch: Batch) -> Batch:
    weights = batch.weights.copy()
    weights[[1, 4]] = 0
    return dataclasses.replace(batch, weights=weights)


@pytest.mark.parametrize("prepare", [smoothed, weighed, with_bad_samples])
def test_targets_and_weights_have_the_same_meaning(
    subject: str, prepare: Callable[[Batch], Batch]
) -> None:
    compare(subject, RESNET, [(prepare(make_batch()), WHOLE)])


def test_a_batch_with_one_sample_gives_the_same_step(subject: str) -> None:
    batch = make_batch()
    weights = np.zeros(len(batch), np.float32)
    weights[3] = 1
    compare(subject, RESNET, [(dataclasses.replace(batch, weights=weights), WHOLE)])


@pytest.mark.parametrize("positive", [(), (1.0, 3.0, 0.5, 2.0)])
def test_multi_label_losses_are_the_same(subject: str, positive: tuple[float, ...]) -> None:
    batch = make_batch()
    targets = np.random.default_rng(4).integers(0, 2, batch.targets.shape).astype(np.float32)
    several = dataclasses.replace(batch, targets=targets)
    spec = change(RESNET, multi_label=True, positive_weights=positive)
    compare(subject, spec, [(several, WHOLE)])


@pytest.mark.parametrize("spec", [RESNET, HEAD], ids=["all layers", "the head"])
def test_a_bias_of_the_logits_changes_the_loss_and_not_the_logits(
    subject: str, spec: ModelSpec
) -> None:
    bias = tuple(float(value) for value in np.linspace(-2.0, 1.0, spec.classes))
    biased, batch = change(spec, logit_bias=bias), make_batch(spec)
    compare(subject, biased, [(batch, WHOLE)])
    (engine, _), (plain, _) = pair(subject, biased), pair(subject, spec)
    loss, logits = engine.train_step(batch, 0.05).fetch()
    plain_loss, plain_logits = plain.train_step(batch, 0.05).fetch()
    assert loss != pytest.approx(plain_loss, abs=1e-3)
    np.testing.assert_array_equal(logits, plain_logits)


@pytest.mark.parametrize("optimizer", [{"head_l2": 0.1}, {"clip_gradient_norm": 0.05}])
@pytest.mark.parametrize("spec", [RESNET, HEAD], ids=["whole", "head"])
def test_the_head_penalty_and_the_gradient_limit_are_the_same(
    subject: str, spec: ModelSpec, optimizer: dict[str, float]
) -> None:
    compare(subject, spec, [(make_batch(), WHOLE)], **optimizer)


def test_batches_of_one_update_add_up_to_the_same(subject: str) -> None:
    updates = [Update(0.25, False), Update(0.5, False), Update(0.25, True), Update(1.0, True)]
    steps = [(make_batch(seed=seed), update) for seed, update in enumerate(updates)]
    compare(subject, RESNET, steps, rate=0.01, head_l2=0.1, clip_gradient_norm=1.0)


def test_averaged_weights_are_the_same_and_predict(subject: str) -> None:
    spec = change(RESNET, averages_weights=True)
    ours, reference = pair(subject, spec)
    before = reference.state()
    for seed, decay in enumerate((0.1, 0.5, 0.9)):
        for engine in (ours, reference):
            engine.train_step(make_batch(seed=seed), 0.01, Update(average_decay=decay))
    assert_same_change(ours.state(), reference.state(), before)
    images = make_batch(seed=9).images
    np.testing.assert_allclose(ours.predict_step(images), reference.predict_step(images), atol=1e-3)


def test_a_frozen_network_trains_only_its_head(subject: str) -> None:
    ours, reference = pair(subject, HEAD)
    before = reference.state()
    for engine in (ours, reference):
        for seed in range(2):
            engine.train_step(make_batch(seed=seed), 0.05)
    found = ours.state()
    assert_same_change(found, reference.state(), before)
    for name in before:
        is_head = ".running_" not in name and "head." in name
        assert is_head or name == "optimizer/steps" or np.array_equal(found[name], before[name])


def test_dropout_keeps_the_same_features(subject: str) -> None:
    steps = [(make_batch(seed=seed), WHOLE) for seed in range(2)]
    compare(subject, change(HEAD, dropout_rate=0.5), steps)


@pytest.mark.parametrize("spec", [RESNET, HEAD], ids=["whole", "head"])
def test_parameter_counts_are_the_same(subject: str, spec: ModelSpec) -> None:
    ours, reference = pair(subject, spec)
    assert ours.parameter_count == reference.parameter_count
    assert ours.trainable_parameter_count == reference.trainable_parameter_count


def test_twenty_steps_from_the_same_seed_give_the_same_weights(subject: str) -> None:
    ours, reference = build(subject, RESNET), build("reference", RESNET)
    losses = []
    for seed in range(20):
        batch = make_batch(RESNET, 16, seed)
        losses.append([e.train_step(batch, 0.01).fetch()[0] for e in (ours, reference)])
    found, expected = np.array(losses).T
    assert expected[-5:].mean() < 0.9 * expected[:5].mean(), "they must learn something"
    np.testing.assert_allclose(found, expected, rtol=1e-2)


def without_weight(batch: Batch) -> Batch:
    return dataclasses.replace(batch, weights=np.zeros_like(batch.weights))


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("spec", [RESNET, HEAD], ids=["whole", "head"])
def test_a_batch_without_a_sample_of_weight_adds_nothing_to_its_update(
    subject: str, spec: ModelSpec, place: int
) -> None:
    """Its part of the head's penalty apart: its share is among those that add to 1."""
    engines = pair(subject, spec, head_l2=0.1)
    before = engines[1].state()
    for seed, update in enumerate((Update(0.25, False), Update(0.5, False), Update(0.25, True))):
        batch = make_batch(spec, seed=seed)
        if seed == place:
            batch = without_weight(batch)
        for engine in engines:
            loss, _ = engine.train_step(batch, 0.01, update).fetch()
            assert (loss == 0) == (seed == place)
    assert_same_change(engines[0].state(), engines[1].state(), before)


@pytest.mark.parametrize("updates", [[WHOLE], [Update(0.5, False), Update(0.5)]], ids=len)
@pytest.mark.parametrize("has_trained", [True, False])
@pytest.mark.parametrize("engine", ["subject", "reference"])
def test_an_update_without_a_sample_of_weight_changes_nothing(
    subject: str, engine: str, has_trained: bool, updates: list[Update]
) -> None:
    """Not even by momentum, which would move the weights on, or by an average of them."""
    spec = change(RESNET, averages_weights=True)
    trained = build(subject if engine == "subject" else engine, spec)
    if has_trained:
        trained.train_step(make_batch(), 0.01, Update(average_decay=0.5)).fetch()
    before = trained.state()
    for seed, update in enumerate(updates, start=1):
        empty = without_weight(make_batch(seed=seed))
        assert trained.train_step(empty, 0.01, update).fetch()[0] == 0
    after = trained.state()
    assert before.keys() == after.keys()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed <= {"optimizer/steps"}
