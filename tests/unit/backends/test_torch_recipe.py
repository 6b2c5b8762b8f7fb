"""The PyTorch engine with recipes: averages, updates of several batches, precision, compilation."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch

from image_classification import backends
from image_classification.backends.base import ModelSpec, OptimizerSpec, State, Update, World
from image_classification.backends.step import precision_of
from image_classification.backends.torch import model
from image_classification.backends.torch.model import compiled
from image_classification.backends.torch.optimizer import precision, precision_names
from image_classification.errors import BackendError
from image_classification.samples import Batch
from tests.unit.backends.torch_cases import SMALL, change, differences, make_batch

CPU = torch.device("cpu")


def build(spec: ModelSpec = SMALL, **optimizer: Any) -> Any:
    return backends.load("torch").build(spec, OptimizerSpec(**optimizer), World(threads=1))


def part(state: State, prefix: str) -> State:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def test_predictions_and_graph_use_the_average() -> None:
    engine, plain = build(change(averages_weights=True)), build()
    expected = part(engine.state(), "average/")
    assert differences(expected, part(engine.state(), "weight/")) == set()
    for step, decay in enumerate((0.1, 0.5, 0.9)):
        engine.train_step(make_batch(seed=step), 0.05, Update(average_decay=decay))
        plain.train_step(make_batch(seed=step), 0.05)
        newest = part(engine.state(), "weight/")
        expected = {k: decay * v + (1 - decay) * newest[k] for k, v in expected.items()}
    assert differences(newest, part(plain.state(), "weight/")) == set(), "training is the same"
    for name, value in part(engine.state(), "average/").items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-6, atol=1e-6, err_msg=name)
    served = build()
    served.load_state({f"weight/{k}": v for k, v in part(engine.state(), "average/").items()})
    images = make_batch().images
    assert np.array_equal(engine.predict_step(images), served.predict_step(images))


def test_a_resumed_average_continues_bit_for_bit_and_starts_afresh_with_weights_alone() -> None:
    spec = change(averages_weights=True)
    whole, resumed = build(spec), build(spec)
    whole.train_step(make_batch(), 0.05, Update(average_decay=0.7))
    resumed.load_state(whole.state())
    for engine in (whole, resumed):
        engine.train_step(make_batch(seed=1), 0.05, Update(average_decay=0.8))
    assert differences(whole.state(), resumed.state()) == set()
    weights = {k: v for k, v in whole.state().items() if k.startswith("weight/")}
    resumed.load_state(weights)
    state = resumed.state()
    assert differences(part(state, "average/"), part(state, "weight/")) == set()


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_several_batches_of_an_update_equal_one_batch_of_all_samples(clip: float) -> None:
    spec = change(train_only_head=True)  # without BatchNorm statistics the equality is exact
    options = {"name": "adam", "clip_gradient_norm": clip, "head_l2": 0.01}
    together, grouped = build(spec, **options), build(spec, **options)
    weights = np.array([1, 1, 5, 0.2, 1, 3, 0.2, 1], np.float32)
    batch = dataclasses.replace(make_batch(spec, 8), weights=weights)
    before = grouped.state()["weight/head.weight"]
    together.train_step(batch, 0.01)
    for part_, is_last in ((slice(0, 5), False), (slice(5, 8), True)):
        share = float(weights[part_].sum() / weights.sum())
        piece = Batch(batch.images[part_], batch.targets[part_], batch.weights[part_],
                      batch.keys[part_])  # fmt: skip
        if is_last:
            assert np.array_equal(grouped.state()["weight/head.weight"], before)
        grouped.train_step(piece, 0.01, Update(share=share, is_last=is_last))
    np.testing.assert_allclose(
        grouped.state()["weight/head.weight"], together.state()["weight/head.weight"], atol=1e-6
    )


def test_an_update_that_ends_with_padding_uses_its_other_batches() -> None:
    ended, padded = build(momentum=0.9), build(momentum=0.9)
    batch = make_batch()
    ended.train_step(batch, 0.05, Update(share=0.5))
    padded.train_step(batch, 0.05, Update(share=0.5, is_last=False))
    padded.train_step(padding(), 0.05, Update(share=0.5))
    first, second = ended.state(), padded.state()
    assert int(second.pop("optimizer/steps")) == int(first.pop("optimizer/steps")) + 1
    assert differences(first, second) == set()


def test_an_update_of_padding_alone_changes_nothing() -> None:
    engine = build(momentum=0.9)
    engine.train_step(make_batch(), 0.05)
    before = engine.state()
    engine.train_step(padding(), 0.05, Update(share=0.5, is_last=False))
    engine.train_step(padding(), 0.05, Update(share=0.5))
    assert differences(before, engine.state()) == {"optimizer/steps"}


def padding() -> Batch:
    return dataclasses.replace(make_batch(size=2), weights=np.zeros(2, np.float32))


def test_float16_on_a_cpu_is_float32_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    first = build().train_step(make_batch(), 0.0).fetch()[0]
    with caplog.at_level(logging.WARNING):
        engine = build(change(precision="float16"))
    assert "precision=float16: PyTorch computes in float32 on cpu" in caplog.text
    assert engine.train_step(make_batch(), 0.0).fetch()[0] == first


def test_bfloat16_steps_learn_and_keep_float32_weights() -> None:
    engine, exact = build(change(precision="bfloat16")), build()
    losses = [engine.train_step(make_batch(), 0.05).fetch()[0] for _ in range(10)]
    first = exact.train_step(make_batch(), 0.05).fetch()[0]
    assert losses[0] != first and losses[0] == pytest.approx(first, rel=0.05)
    assert losses[-1] < 0.8 * losses[0]
    assert all(v.dtype == np.float32 for v in part(engine.state(), "weight/").values())


def test_a_step_that_overflows_is_skipped_and_the_loss_scale_is_resumed() -> None:
    """The scaler runs here on the CPU; on a GPU the same code runs in float16."""
    engine = build(name="adam", clip_gradient_norm=1.0)
    engine._precision = precision(torch.float16, CPU)
    engine.train_step(make_batch(), 0.0)  # the scale exists from the first step on
    before = part(engine.state(), "weight/stem.conv")
    scale = float(engine.state()["optimizer/loss_scale"])
    engine._precision.scaler.update(1e38)  # gradients times this overflow
    engine.train_step(make_batch(), 0.01)
    assert differences(before, part(engine.state(), "weight/stem.conv")) == set()
    assert float(engine.state()["optimizer/loss_scale"]) == pytest.approx(5e37)
    engine._precision.scaler.update(scale)
    engine.train_step(make_batch(), 0.01)
    assert differences(before, part(engine.state(), "weight/stem.conv"))
    state = engine.state()
    resumed = build(name="adam", clip_gradient_norm=1.0)
    resumed._precision = precision(torch.float16, CPU)
    resumed.load_state(state)
    assert differences(state, resumed.state()) == set()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch, about itself
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_a_compiled_function_returns_the_same_values() -> None:
    def plain(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) * 2 + x

    values = torch.linspace(-1, 1, 7)
    assert torch.equal(compiled(plain)(values), plain(values))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compilation_without_a_compiler_is_an_error_that_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = build(change(compiles=True))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/nowhere/c++",))
    engine._features = compiled(lambda x: torch.sigmoid(x.float()).mean((1, 2)) * 3)
    with pytest.raises(BackendError, match="set compile=off"):
        engine.train_step(make_batch(), 0.01)


def test_an_image_without_headers_refuses_to_compile_before_it_trains(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(model, "HEADERS", tmp_path / "include")
    with pytest.raises(BackendError, match=r"^compile=on: this image cannot .* set compile=off"):
        build(change(compiles=True))


@pytest.mark.parametrize(
    ("capability", "chosen"),
    [((6, 1), "float32"), ((7, 0), "float16"), ((7, 5), "float16"), ((8, 0), "bfloat16")],
)
def test_a_gpu_that_only_emulates_bfloat16_trains_in_float16_with_a_scaled_loss(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)  # also by emulation
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    names = precision_names(torch.device("cuda", 0))
    assert precision_of("auto", names, "PyTorch", "cuda:0") == chosen
    assert precision(getattr(torch, chosen), CPU).scaler.is_enabled() is (chosen == "float16")
