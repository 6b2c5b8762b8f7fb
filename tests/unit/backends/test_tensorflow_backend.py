"""The TensorFlow backend: training steps, state, export, threads."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import onnxruntime

from image_classification import backends
from image_classification.backends import update_rules
from image_classification.backends.base import ModelSpec, OptimizerSpec, State, Update, World
from image_classification.backends.step import precision_of
from image_classification.errors import AlgorithmError, ArtifactError, BackendError
from image_classification.samples import Batch
from tests.unit.backends.torch_cases import SMALL, change, differences, make_batch

HEAD_ONLY = change(train_only_head=True)


def build(spec: ModelSpec = SMALL, world: World | None = None, **optimizer: Any) -> Any:
    settings = OptimizerSpec(**optimizer)
    return backends.load("tensorflow").build(spec, settings, world or World(threads=1))


@pytest.fixture(scope="module")
def whole() -> Iterator[Any]:
    """An engine with everything on, which tests bring back to where it began."""
    spec = change(averages_weights=True, dropout_rate=0.3)
    engine = build(spec, name="adam", head_l2=0.01, clip_gradient_norm=1.0)
    engine.first = engine.state()
    yield engine
    engine.release()


@pytest.fixture
def engine(whole: Any) -> Any:
    whole.load_state(whole.first)
    return whole


# ---- optimizers, apart from networks


@pytest.mark.parametrize("name", sorted(update_rules.RULES))
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_an_optimizer_follows_its_formula(name: str, momentum: float) -> None:
    import tensorflow as tf

    from image_classification.backends.tensorflow.layers import DENSE, new_weight
    from image_classification.backends.tensorflow.optimizer import Optimizer, clipped

    spec = OptimizerSpec(
        name=name, momentum=momentum, weight_decay=0.1, clip_gradient_norm=0.5,
        initial_accumulator=0.1, epsilon=1e-3,
    )  # fmt: skip
    draw = np.random.default_rng(0).standard_normal
    parameters = {"a.weight": draw((3, 4), np.float32), "a.bias": draw(3, np.float32)}
    weights = {
        "a.weight": new_weight(parameters["a.weight"], DENSE),
        "a.bias": new_weight(parameters["a.bias"]),
    }
    optimizer, slots = Optimizer(spec, weights), {}
    for _ in range(3):
        gradients = {key: draw(value.shape, np.float32) for key, value in parameters.items()}
        parameters = update_rules.update(parameters, gradients, slots, 0.05, spec)
        own = [tf.constant(weights[key].own(value)) for key, value in gradients.items()]
        optimizer.apply(clipped(own, spec.clip_gradient_norm), tf.constant(0.05))
        optimizer.note_update()
    for key, weight in weights.items():
        np.testing.assert_allclose(weight.neutral(weight.variable), parameters[key], 1e-4, 2e-6)
    named = {f"optimizer/{slot}/{key}": v for key, own in slots.items() for slot, v in own.items()}
    saved = optimizer.state()
    assert saved.keys() == named.keys()
    for key, value in named.items():
        np.testing.assert_allclose(saved[key], value, 1e-4, 2e-6, err_msg=key)


def test_an_unknown_optimizer_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(BackendError, match=r"'adma'; did you mean 'adam'\?"):
        build(name="adma")


def test_an_update_that_overflows_float16_is_skipped_and_halves_the_scale() -> None:
    import tensorflow as tf

    from image_classification.backends.tensorflow.optimizer import Precision

    precision, applied = Precision(tf.float16), tf.Variable(0.0)

    @tf.function
    def update(gradient: tf.Tensor) -> None:
        precision.update([gradient], lambda gradients: applied.assign_add(gradients[0]))

    update(tf.constant(65536.0))
    assert float(applied) == 1.0 and precision.state()["optimizer/loss_scale"] == 65536
    update(tf.constant(float("inf")))
    assert float(applied) == 1.0 and precision.state()["optimizer/loss_scale"] == 32768
    restored = Precision(tf.float16)
    restored.load(precision.state())
    assert restored.state() == precision.state()


# ---- steps


def test_steps_lower_the_loss_of_a_fixed_batch(engine: Any) -> None:
    losses = [engine.train_step(make_batch(), 3e-3).fetch()[0] for _ in range(10)]
    assert losses[-1] < 0.8 * losses[0]


def test_batches_of_any_size_are_traced_once(engine: Any) -> None:
    for size in (6, 2, 3):
        engine.train_step(make_batch(size=size), 1e-3)
        engine.predict_step(make_batch(size=size).images)
    assert engine._step.whole.experimental_get_tracing_count() == 1
    assert engine._logits.experimental_get_tracing_count() == 1


def test_samples_of_weight_zero_change_nothing(engine: Any) -> None:
    batch, padded = make_batch(size=6), make_batch(size=6, seed=1)
    images = np.concatenate([batch.images[:4], padded.images[4:]])
    weights = np.array([1, 1, 1, 1, 0, 0], np.float32)
    short = Batch(batch.images[:4], batch.targets[:4], weights[:4], batch.keys[:4])
    loss, logits = engine.train_step(Batch(images, batch.targets, weights, batch.keys), 0.1).fetch()
    first = engine.state()
    engine.load_state(engine.first)
    same_loss, same_logits = engine.train_step(short, 0.1).fetch()
    assert loss == same_loss and differences(first, engine.state()) == set()
    assert logits.shape == (6, 4) and np.array_equal(logits[:4], same_logits)
    assert not logits[4:].any()


def test_the_loss_is_the_mean_weighted_by_the_samples_weights(engine: Any) -> None:
    batch = make_batch(size=3)
    weights = np.array([1.0, 2.0, 0.5], np.float32)
    loss, logits = engine.train_step(dataclasses.replace(batch, weights=weights), 0.0).fetch()
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    entropies = -(batch.targets * log_probabilities).sum(1)
    assert loss == pytest.approx((entropies * weights).sum() / weights.sum(), rel=1e-5)


def test_the_buffer_of_a_batch_may_be_reused_as_soon_as_the_step_returns(engine: Any) -> None:
    batch = make_batch()
    expected = engine.train_step(batch, 1e-3).fetch()[1]
    engine.load_state(engine.first)
    step = engine.train_step(batch, 1e-3)
    batch.images[:] = 0
    batch.targets[:] = 0
    assert np.array_equal(step.fetch()[1], expected)


def test_the_average_follows_the_weights_and_predicts(engine: Any) -> None:
    before = engine.state()
    engine.train_step(make_batch(), 1e-2, Update(average_decay=0.75))
    after, name = engine.state(), "stage1.block1.conv1.weight"
    expected = 0.75 * before[f"average/{name}"] + 0.25 * after[f"weight/{name}"]
    np.testing.assert_allclose(after[f"average/{name}"], expected, atol=1e-6)
    averaged = engine.predict_step(make_batch().images)
    engine.load_state({k: v for k, v in after.items() if k.startswith("weight/")})
    assert not np.allclose(engine.predict_step(make_batch().images), averaged, atol=1e-4)


def test_several_batches_of_a_frozen_networks_update_equal_one_batch() -> None:
    engine = build(HEAD_ONLY, momentum=0.9)
    first = engine.state()
    batch = make_batch(size=4)
    halves = [
        Batch(batch.images[part], batch.targets[part], batch.weights[part], batch.keys[part])
        for part in (slice(0, 2), slice(2, 4))
    ]
    engine.train_step(batch, 0.1)
    expected = engine.state()
    changed = {"head.weight", "head.bias"}
    named = {f"weight/{x}" for x in changed} | {"optimizer/steps"}
    assert {n for n in first if not np.array_equal(first[n], expected[n])} == named
    assert {n for n in expected if "momentum" in n} == {
        f"optimizer/momentum_buffer/{x}" for x in changed
    }
    for _ in range(2):  # the second time, nothing is left of the first
        engine.load_state(first)
        engine.train_step(halves[0], 0.1, Update(share=0.5, is_last=False))
        assert np.array_equal(engine.state()["weight/head.bias"], first["weight/head.bias"])
        engine.train_step(halves[1], 0.1, Update(share=0.5))
        after = engine.state()
        for name in expected.keys() - {"optimizer/steps"}:
            np.testing.assert_allclose(
                after[name], expected[name], rtol=1e-6, atol=1e-6, err_msg=name
            )


@pytest.mark.parametrize("weights", [(), (1.0, 2.0, 3.0, 0.5)])
def test_multi_label_models_have_a_sigmoid_per_class(
    weights: tuple[float, ...], tmp_path: Path
) -> None:
    spec = change(HEAD_ONLY, multi_label=True, positive_weights=weights)
    engine, batch = build(spec), make_batch(size=3)
    loss, logits = engine.train_step(batch, 0.0).fetch()
    odds, factor = 1 / (1 + np.exp(-logits.astype(np.float64))), np.array(weights or [1.0])
    each = -factor * batch.targets * np.log(odds) - (1 - batch.targets) * np.log(1 - odds)
    assert loss == pytest.approx(each.mean(), rel=1e-5)
    engine.export(tmp_path / "model.onnx", 2.0)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (served,) = session.run(["probabilities"], {"images": batch.images})
    expected = 1 / (1 + np.exp(-engine.predict_step(batch.images) / 2.0))
    np.testing.assert_allclose(served, expected, atol=1e-4)


def test_images_of_another_size_are_rejected(engine: Any) -> None:
    with pytest.raises(AlgorithmError, match=r"expected images \(N, 20, 28, 3\)"):
        engine.predict_step(np.zeros((1, 28, 20, 3), np.uint8))


# ---- state


def test_a_resumed_job_ends_with_the_same_weights_bit_for_bit(engine: Any) -> None:
    update = Update(average_decay=0.9)
    for seed in range(4):
        engine.train_step(make_batch(seed=seed), 1e-2, update)
        if seed == 1:
            middle = engine.state()
    expected = engine.state()
    engine.load_state(engine.first)
    engine.load_state(middle)
    for seed in (2, 3):
        engine.train_step(make_batch(seed=seed), 1e-2, update)
    assert differences(expected, engine.state()) == set()


def test_with_weights_alone_optimizer_and_average_start_afresh(engine: Any) -> None:
    engine.train_step(make_batch(), 1e-2)
    state = engine.state()
    weights = {name: value for name, value in state.items() if name.startswith("weight/")}
    engine.load_state(weights)
    loaded = engine.state()
    assert int(loaded["optimizer/steps"]) == 0
    assert not any(name.startswith("optimizer/exp_avg") for name in loaded)
    name = "stem.conv.weight"
    assert np.array_equal(loaded[f"average/{name}"], state[f"weight/{name}"])


@pytest.mark.parametrize(
    "name, value",
    [
        ("weight/stage1.block1.conv1.weight", np.zeros((1, 2, 3, 3), np.float32)),
        ("average/final.bn.bias", np.zeros(7, np.float32)),
        ("optimizer/momentum_buffer/head.bias", np.zeros(4, np.float32)),
    ],
)
def test_a_state_that_does_not_fit_is_rejected_and_changes_nothing(
    engine: Any, name: str, value: np.ndarray
) -> None:
    engine.train_step(make_batch(), 1e-2)
    before = engine.state()
    wrong: State = engine.first | {name: value}
    with pytest.raises(ArtifactError, match=name.split("/", 1)[1].replace(".", r"\.")):
        engine.load_state(wrong)
    assert differences(before, engine.state()) == set()


def test_the_exported_graph_gives_the_averaged_predictions(engine: Any, tmp_path: Path) -> None:
    engine.train_step(make_batch(), 1e-2, Update(average_decay=0.5))
    engine.export(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    images = make_batch(size=5).images
    (probabilities,) = session.run(["probabilities"], {"images": images})
    odds = np.exp(engine.predict_step(images))
    np.testing.assert_allclose(probabilities, odds / odds.sum(1, keepdims=True), atol=1e-5)


# ---- the process


def test_release_frees_the_network() -> None:
    """In a process of its own: after many traces TensorFlow logs, and the log holds on to them."""
    script = (
        "import gc, weakref\n"
        "from tests.unit.backends.test_tensorflow_backend import HEAD_ONLY, build, make_batch\n"
        "engine = build(HEAD_ONLY)\n"
        "engine.train_step(make_batch(), 0.1)\n"
        "engine.predict_step(make_batch().images)\n"
        "network = weakref.ref(engine._model)\n"
        "engine.release()\n"
        "gc.collect(); gc.collect()  # what was traced has finalizers\n"
        "print(network())\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "None\n"


def test_tensorflow_uses_the_number_of_threads_of_the_world() -> None:
    script = (
        "from image_classification.backends.tensorflow import engine as device\n"
        "from image_classification.backends.base import World\n"
        "import tensorflow as tf\n"
        "device.prepare_device(World(threads=3)); tf.constant(1) + 1\n"
        "print(tf.config.threading.get_intra_op_parallelism_threads())\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "3\n"


@pytest.mark.parametrize(
    ("details", "chosen"),
    [
        ({}, "float32"),
        ({"compute_capability": (6, 0)}, "float32"),
        ({"compute_capability": (7, 5)}, "float16"),
        ({"compute_capability": (8, 6)}, "bfloat16"),
    ],
)
def test_the_precision_follows_from_the_gpu_that_the_device_is(
    monkeypatch: pytest.MonkeyPatch, details: dict[str, object], chosen: str
) -> None:
    import tensorflow as tf

    from image_classification.backends.tensorflow.engine import precision_names

    monkeypatch.setattr(tf.config, "get_visible_devices", lambda _: ["first", "second"])
    found: list[str] = []

    def details_of(gpu: str) -> dict[str, object]:
        found.append(gpu)
        return details

    monkeypatch.setattr(tf.config.experimental, "get_device_details", details_of)
    names = precision_names("/GPU:1")
    assert precision_of("auto", names, "TensorFlow", "/GPU:1") == chosen and found == ["second"]
    assert precision_names("/CPU:0") == {"float32"}
