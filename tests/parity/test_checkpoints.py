"""Every backend resumes from the checkpoints of every other."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import safetensors.numpy

from image_classification.backends.base import Update
from image_classification.backends.update_rules import RULES
from image_classification.errors import ArtifactError
from tests.parity.engines import (
    LITE,
    RESNET,
    assert_same_change,
    build,
    make_batch,
    of_weights,
    pair,
)

SPEC = dataclasses.replace(RESNET, dropout_rate=0.3, averages_weights=True)
SETTINGS = {"epsilon": 0.01, "initial_accumulator": 0.1, "weight_decay": 0.01}
RATE = 0.001


@pytest.mark.parametrize("name", RULES)
def test_each_backend_resumes_from_the_others_checkpoint(subject: str, name: str) -> None:
    writers = pair(subject, SPEC, name=name, **SETTINGS)
    readers = [build(b, SPEC, name=name, **SETTINGS) for b in ("reference", subject)]
    for writer, reader in zip(writers, readers, strict=True):
        writer.train_step(make_batch(), RATE, Update(average_decay=0.5))
        saved = writer.state()
        reader.load_state(saved)
        found = reader.state()
        assert found.keys() == saved.keys()
        for key, value in saved.items():
            assert found[key].dtype == value.dtype and np.array_equal(found[key], value), key
        for engine in (writer, reader):
            engine.train_step(make_batch(seed=1), RATE, Update(average_decay=0.9))
        assert_same_change(writer.state(), reader.state(), saved)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("is_frozen", [False, True], ids=["whole", "head"])
def test_an_engine_resumed_from_a_file_continues_bit_for_bit(
    subject: str, name: str, is_frozen: bool
) -> None:
    spec = dataclasses.replace(SPEC, train_only_head=is_frozen)
    whole, resumed = build(subject, spec, name=name), build(subject, spec, name=name)
    for seed in range(2):
        whole.train_step(make_batch(seed=seed), 0.01, Update(average_decay=0.5))
    resumed.load_state(safetensors.numpy.load(safetensors.numpy.save(whole.state())))
    for seed in range(2, 4):
        for engine in (whole, resumed):
            engine.train_step(make_batch(seed=seed), 0.01, Update(average_decay=0.5))
    first, second = whole.state(), resumed.state()
    assert first.keys() == second.keys()
    assert [key for key in first if not np.array_equal(first[key], second[key])] == []


def test_with_weights_alone_everything_else_starts_afresh(subject: str) -> None:
    engine, fresh = build(subject, SPEC), build(subject, SPEC)
    weights = of_weights(fresh.state())
    engine.train_step(make_batch(), 0.1, Update(average_decay=0.5))
    engine.load_state(weights)
    found, expected = engine.state(), fresh.state()
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("spec", [RESNET, LITE], ids=["resnet20", "efficientnet_lite0"])
def test_a_head_of_another_width_stays_fresh(subject: str, spec: object) -> None:
    assert dataclasses.is_dataclass(spec) and not isinstance(spec, type)
    weights = of_weights(build("reference", dataclasses.replace(spec, classes=7)).state())
    engine = build(subject, dataclasses.replace(spec, seed=9))
    fresh = engine.state()
    engine.load_state(weights)
    found = engine.state()
    for key in of_weights(found):
        expected = fresh if key.startswith("weight/head.") else weights
        assert np.array_equal(found[key], expected[key]), key


def test_a_state_that_does_not_fit_is_rejected_by_name_and_changes_nothing(subject: str) -> None:
    engine = build(subject, dataclasses.replace(RESNET, averages_weights=True))
    before = engine.state()
    spoilt = {key: value + 1 for key, value in before.items()}
    spoilt["average/final.bn.bias"] = np.zeros(7, np.float32)
    missing = dict(before)
    del missing["weight/stage2.block1.conv1.weight"]
    adam = build("reference", RESNET, name="adam")
    adam.train_step(make_batch(), 0.01)
    deeper = build("reference", dataclasses.replace(RESNET, backbone="resnet32")).state()
    for state, message in (
        (missing, r"'stage2.block1.conv1.weight' should be \(32, 16, 3, 3\) but is absent"),
        (deeper, "should be absent but is"),
        (spoilt, r"'final.bn.bias' should be \(64,\) but is \(7,\)"),
        (adam.state(), "resume with the settings of the checkpoint"),
    ):
        with pytest.raises(ArtifactError, match=message):
            engine.load_state(state)
        after = engine.state()
        assert all(np.array_equal(before[key], after[key]) for key in before), message


def test_a_state_is_a_copy_in_plain_order(subject: str) -> None:
    engine = build(subject, RESNET)
    state = engine.state()
    kept = {key: value.copy() for key, value in state.items()}
    engine.train_step(make_batch(), 0.1)
    assert all(np.array_equal(state[key], kept[key]) for key in kept)
    assert all(value.flags.c_contiguous for value in state.values())
