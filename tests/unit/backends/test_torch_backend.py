"""The PyTorch backend: training steps, state, export, several processes."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import onnx
import onnxruntime
import torch

from image_classification import backends
from image_classification.backends import onnx_graph
from image_classification.backends.base import ModelSpec, OptimizerSpec, State, World
from image_classification.errors import AlgorithmError, ArtifactError, BackendError
from image_classification.samples import Batch
from tests.unit.backends.torch_cases import SMALL, change, differences, make_batch

OPTIMIZERS = ("sgd", "nag", "nesterov", "adam", "rmsprop", "adagrad", "adadelta")


def build(spec: ModelSpec = SMALL, world: World | None = None, **optimizer: Any) -> Any:
    settings = OptimizerSpec(**optimizer)
    return backends.load("torch").build(spec, settings, world or World(threads=1))


def weights_of(state: State) -> State:
    return {name: value for name, value in state.items() if name.startswith("weight/")}


# ---- steps


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_lower_the_loss_of_a_fixed_batch(name: str) -> None:
    engine = build(name=name, initial_accumulator=0.1)
    rate = {"adadelta": 1.0, "adagrad": 0.05, "rmsprop": 1e-3, "adam": 3e-3}.get(name, 0.05)
    losses = [engine.train_step(make_batch(), rate).fetch()[0] for _ in range(10)]
    assert losses[-1] < 0.8 * losses[0]


def test_an_unknown_optimizer_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(BackendError, match=r"'adma'; did you mean 'adam'\?"):
        build(name="adma")


@pytest.mark.parametrize("name", ["sgd", "nag"])
def test_momentum_and_decay_follow_their_formulas(name: str) -> None:
    spec = change(train_only_head=True)  # a linear model: its gradient can be written down
    engine = build(spec, name=name, momentum=0.9, weight_decay=0.1)
    batch = make_batch(spec)
    with torch.no_grad():
        features = engine._model.eval().features(torch.from_numpy(batch.images)).numpy()
    weight, buffer = engine.state()["weight/head.weight"], 0.0
    for _ in range(2):
        before = engine.state()
        logits = engine.train_step(batch, 0.01).fetch()[1]
        odds = np.exp(logits - logits.max(1, keepdims=True))
        error = odds / odds.sum(1, keepdims=True) - batch.targets
        gradient = error.T @ features / len(batch) + 0.1 * before["weight/head.weight"]
        buffer = 0.9 * buffer + gradient
        update = gradient + 0.9 * buffer if name == "nag" else buffer
        weight = weight - 0.01 * update
        np.testing.assert_allclose(engine.state()["weight/head.weight"], weight, atol=1e-6)


def test_fused_updates_match_the_plain_ones_in_every_memory_format() -> None:
    engine = build(momentum=0.9, weight_decay=0.01)
    before = engine.state()
    for _ in range(2):
        engine.train_step(make_batch(), 0.01)
    reference = build(momentum=0.9, weight_decay=0.01)
    for group in reference._optimizer.param_groups:
        group.update(fused=False, foreach=False)
    for _ in range(2):
        reference.train_step(make_batch(), 0.01)
    after, plain = engine.state(), reference.state()
    assert "weight/stage2.block1.conv1.weight" in differences(weights_of(before), weights_of(plain))
    for name, value in plain.items():
        np.testing.assert_allclose(after[name], value, rtol=1e-6, atol=1e-6, err_msg=name)


def test_samples_of_weight_zero_change_nothing() -> None:
    batch = make_batch(size=6)
    padded = make_batch(size=6, seed=1)
    images = np.concatenate([batch.images[:4], padded.images[4:]])
    weights = np.array([1, 1, 1, 1, 0, 0], np.float32)
    short = Batch(batch.images[:4], batch.targets[:4], weights[:4], batch.keys[:4])
    first, second = build(), build()
    loss, logits = first.train_step(Batch(images, batch.targets, weights, batch.keys), 0.1).fetch()
    same_loss, same_logits = second.train_step(short, 0.1).fetch()
    assert loss == same_loss and differences(first.state(), second.state()) == set()
    assert logits.shape == (6, 4) and np.array_equal(logits[:4], same_logits)


def test_the_loss_is_the_mean_weighted_by_the_samples_weights() -> None:
    batch = make_batch(size=3)
    weights = np.array([1.0, 2.0, 0.5], np.float32)
    loss, logits = build().train_step(dataclasses.replace(batch, weights=weights), 0.0).fetch()
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    entropies = -(batch.targets * log_probabilities).sum(1)
    assert loss == pytest.approx((entropies * weights).sum() / weights.sum(), rel=1e-5)


def test_clipping_limits_the_norm_of_the_update() -> None:
    engine = build(momentum=0.0, weight_decay=0.0, clip_gradient_norm=0.01)
    before = engine.state()
    engine.train_step(make_batch(), 1.0)
    after = engine.state()
    names = [f"weight/{name}" for name, _ in engine._model.named_parameters()]
    norm = np.sqrt(sum(np.square(after[name] - before[name]).sum() for name in names))
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_head_l2_shrinks_the_head() -> None:
    engine = build(momentum=0.0, weight_decay=0.0, head_l2=1.0)
    plain = build(momentum=0.0, weight_decay=0.0)
    before = engine.state()["weight/head.weight"]
    engine.train_step(make_batch(), 0.1)
    plain.train_step(make_batch(), 0.1)
    shrunk, kept = engine.state(), plain.state()
    np.testing.assert_allclose(
        shrunk["weight/head.weight"] - kept["weight/head.weight"], -0.2 * before, atol=1e-6
    )
    assert np.array_equal(shrunk["weight/head.bias"], kept["weight/head.bias"])


def test_train_only_head_changes_only_the_head() -> None:
    spec = change(train_only_head=True, dropout_rate=0.2)
    engine = build(spec)
    before = engine.state()
    for _ in range(3):
        engine.train_step(make_batch(spec), 0.1)
    after = {name: value for name, value in engine.state().items() if name in before}
    assert differences(before, after) == {
        "weight/head.weight",
        "weight/head.bias",
        "optimizer/steps",
    }
    assert engine.trainable_parameter_count == 4 * 64 + 4 < engine.parameter_count


def test_a_read_only_view_of_the_loaders_buffer_is_accepted() -> None:
    batch = make_batch(size=8)
    images = batch.images[::2, :, ::-1]
    images.flags.writeable = False
    assert build().predict_step(images).shape == (4, 4)


# ---- state


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("frozen", [False, True])
def test_a_resumed_engine_continues_bit_for_bit(name: str, frozen: bool) -> None:
    spec = change(dropout_rate=0.3, train_only_head=frozen)
    whole = build(spec, name=name)
    for step in range(2):
        whole.train_step(make_batch(seed=step), 0.01)
    saved = whole.state()
    resumed = build(change(spec, seed=spec.seed), name=name)
    resumed.load_state(saved)
    assert differences(saved, resumed.state()) == set()
    for step in range(2, 4):
        whole.train_step(make_batch(seed=step), 0.01)
        resumed.train_step(make_batch(seed=step), 0.01)
    assert differences(whole.state(), resumed.state()) == set()


def test_dropout_differs_from_step_to_step_and_not_from_run_to_run() -> None:
    spec = change(dropout_rate=0.5, train_only_head=True)
    logits = [[engine.train_step(make_batch(), 0.0).fetch()[1] for _ in range(2)]
              for engine in (build(spec), build(spec))]  # fmt: skip
    assert not np.array_equal(logits[0][0], logits[0][1])
    assert np.array_equal(logits[0], logits[1])


def test_a_state_is_a_copy_in_plain_order() -> None:
    engine = build()
    state = engine.state()
    engine.train_step(make_batch(), 0.1)
    assert "weight/stem.conv.weight" in {
        name for name in state if not np.array_equal(state[name], engine.state()[name])
    }
    assert all(value.flags.c_contiguous and value.flags.owndata for value in state.values())


def test_weights_without_optimizer_slots_start_the_optimizer_afresh() -> None:
    engine = build()
    fresh = engine.state()
    engine.train_step(make_batch(), 0.1)
    engine.load_state(weights_of(fresh))
    assert differences(fresh, engine.state()) == set()


def test_a_state_of_another_network_is_rejected_by_name_and_changes_nothing() -> None:
    engine = build()
    before = engine.state()
    missing = dict(before)
    del missing["weight/stage2.block1.conv1.weight"]
    reshaped = before | {"weight/stem.conv.weight": np.zeros((16, 1, 3, 3), np.float32)}
    deeper = build(change(backbone="resnet32")).state()
    for state, message in (
        (missing, r"'stage2.block1.conv1.weight' should be \(32, 16, 3, 3\) but is absent"),
        (reshaped, r"'stem.conv.weight' should be \(16, 3, 3, 3\) but is \(16, 1, 3, 3\)"),
        (deeper, "should be absent but is"),
    ):
        with pytest.raises(ArtifactError, match=message):
            engine.load_state(state)
        assert differences(before, engine.state()) == set()


def test_an_optimizer_state_of_other_settings_is_rejected() -> None:
    trained = build(name="adam")
    trained.train_step(make_batch(), 0.01)
    with pytest.raises(ArtifactError, match="resume with the settings of the checkpoint"):
        build(name="sgd").load_state(trained.state())
    with pytest.raises(ArtifactError, match="resume with the settings of the checkpoint"):
        build(change(train_only_head=True), name="adam").load_state(trained.state())


# ---- export


@pytest.mark.parametrize("name", ["resnet20", "efficientnet_lite0"])
def test_the_exported_graph_agrees_on_batches_of_any_size(name: str, tmp_path: Path) -> None:
    spec = change(backbone=name)
    engine = build(spec)
    engine.train_step(make_batch(spec), 0.05)
    path = tmp_path / "model.onnx"
    engine.export(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,), made = session.get_inputs(), session.get_outputs()[0]
    assert (given.name, given.type, given.shape[1:]) == ("images", "tensor(uint8)", [20, 28, 3])
    assert (made.name, made.type, made.shape[1]) == ("probabilities", "tensor(float)", 4)
    for size in (1, 2, 7):
        images = make_batch(spec, size).images
        odds = np.exp(engine.predict_step(images))
        (probabilities,) = session.run(["probabilities"], {"images": images})
        np.testing.assert_allclose(probabilities, odds / odds.sum(1, keepdims=True), atol=1e-4)


def test_the_exported_graph_divides_the_logits_by_the_temperature(tmp_path: Path) -> None:
    engine = build()
    engine.export(tmp_path / "model.onnx", 2.5)
    session = onnxruntime.InferenceSession(
        tmp_path / "model.onnx", providers=["CPUExecutionProvider"]
    )
    images = make_batch(size=4).images
    odds = np.exp(engine.predict_step(images) / 2.5)
    (probabilities,) = session.run(["probabilities"], {"images": images})
    np.testing.assert_allclose(probabilities, odds / odds.sum(1, keepdims=True), atol=1e-5)


def test_an_export_is_quiet_repeatable_and_free_of_this_machines_paths(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = build()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("first.onnx", "second.onnx"):
            engine.export(tmp_path / name)
    assert capfd.readouterr() == ("", "")
    body = (tmp_path / "first.onnx").read_bytes()
    assert body == (tmp_path / "second.onnx").read_bytes()
    assert b".py" not in body and str(Path.cwd()).encode() not in body
    graph = onnx.load_from_string(body).graph
    assert {initializer.name for initializer in graph.initializer}.isdisjoint(
        given.name for given in graph.input
    )


def test_an_export_that_disagrees_with_the_engine_is_an_error_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "TOLERANCE", -1.0)
    with pytest.raises(AlgorithmError, match="the exported model differs from the trained one by"):
        build().export(tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_a_released_engine_has_no_weights_left() -> None:
    engine = build()
    engine.release()
    assert {parameter.device.type for parameter in engine._model.parameters()} == {"meta"}
