"""The MXNet backend: training steps, state, export, Gluon's networks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("mxnet", reason="MXNet is not installed (Python 3.10 or 3.11, NumPy 1.23)")

import mxnet as mx
import onnx
import onnxruntime
from mxnet.gluon.model_zoo import vision

from image_classification import backends
from image_classification.backends import onnx_graph
from image_classification.backends.base import (
    LOSS_SCALE,
    LOSS_SCALE_AGE,
    STEPS,
    ModelSpec,
    OptimizerSpec,
    Update,
    World,
)
from image_classification.backends.mxnet import catalog
from image_classification.backends.mxnet import engine as engine_module
from image_classification.backends.mxnet import model as network
from image_classification.backends.mxnet.optimizer import LossScale
from image_classification.backends.networks import layouts
from image_classification.backends.pretrained import read_pretrained
from image_classification.errors import AlgorithmError, ArtifactError, BackendError
from tests.unit.backends.torch_cases import SMALL, change, differences, make_batch

DEEP_RESNETS = ("resnet101", "resnet152")


def build(spec: ModelSpec = SMALL, **optimizer: Any) -> Any:
    return backends.load("mxnet").build(spec, OptimizerSpec(**optimizer), World(threads=1))


# ---- steps


def test_equal_seeds_and_batches_give_bit_equal_weights() -> None:
    states = []
    for _ in range(2):
        engine = build(change(dropout_rate=0.4), clip_gradient_norm=1.0)
        for seed in range(3):
            engine.train_step(make_batch(seed=seed), 0.05)
        states.append(engine.state())
    assert not differences(*states)


@pytest.mark.parametrize("name", ["sgd", "adam", "rmsprop", "adagrad", "adadelta"])
def test_a_resumed_engine_continues_bit_for_bit(name: str) -> None:
    spec = change(dropout_rate=0.4, averages_weights=True)
    update = Update(average_decay=0.9)
    whole, first = build(spec, name=name), build(spec, name=name)
    for seed in range(4):
        whole.train_step(make_batch(seed=seed), 0.01, update)
    for seed in range(2):
        first.train_step(make_batch(seed=seed), 0.01, update)
    second = build(change(spec, seed=99, dropout_rate=0.4), name=name)
    second._spec = spec  # the seed of the dropout is the job's
    second.load_state(first.state())
    for seed in range(2, 4):
        second.train_step(make_batch(seed=seed), 0.01, update)
    assert not differences(whole.state(), second.state())
    images = make_batch().images
    assert np.array_equal(whole.predict_step(images), second.predict_step(images))


def test_an_engine_names_its_device_as_all_backends_do() -> None:
    """A job on the CPU leaves CPUs to the framework if it knows that it computes there."""
    assert build().device == "cpu"


@pytest.mark.parametrize(
    "backbone",
    ["resnet20", "efficientnet_lite0", "gluon/squeezenet1.0", "resnext50_32x4d", "efficientnet_b0"],
)
def test_float16_is_of_the_operators_alone_the_weights_and_the_features_stay_float32(
    backbone: str,
) -> None:
    """MXNet has no float16 products on CPUs, so the types are inferred and nothing is computed."""
    graph = network.build(change(backbone=backbone, input_shape=(3, 64, 64)))
    symbol = network.half(graph.features)
    assert symbol.list_inputs() == graph.features.list_inputs()
    types = dict.fromkeys(symbol.list_inputs(), np.float32) | {network.IMAGES: np.uint8}
    inside = symbol.get_internals()
    found = dict(zip(inside.list_outputs(), inside.infer_type(**types)[1], strict=True))
    operators = {
        node["name"] for node in json.loads(symbol.tojson())["nodes"] if node["op"] == "Convolution"
    }
    assert len(operators) > 20
    assert {found[f"{name}_output"] for name in operators} == {np.float16}
    (features,) = symbol.infer_type(**types)[1]
    assert features == np.float32
    assert {found[name] for name in types if name in found} <= {np.float32, np.uint8}


def test_a_scaled_loss_gives_the_same_steps_and_an_overflow_is_left_out() -> None:
    """On a GPU the same code runs with float16."""
    plain, scaled = build(name="adam"), build(name="adam")
    scaled._loss_scale = LossScale("float16")
    for seed in range(3):
        for engine in (plain, scaled):
            engine.train_step(make_batch(seed=seed), 0.01)
    state = scaled.state()
    assert (state.pop(LOSS_SCALE), state.pop(LOSS_SCALE_AGE)) == (65536, 3)
    for name, value in plain.state().items():
        np.testing.assert_allclose(state[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
    scaled._loss_scale.factor = float("inf")
    before = scaled.state()
    scaled.train_step(make_batch(seed=3), 0.01)
    after = scaled.state()
    assert after[LOSS_SCALE_AGE] == 0
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert {name for name in changed if ".running_" not in name} == {LOSS_SCALE_AGE, STEPS}


def test_a_resumed_job_continues_with_its_scale_which_grows_after_2000_updates() -> None:
    scale, gradients = LossScale("float16"), mx.nd.ones(2)
    scale.load({LOSS_SCALE: np.array(8.0), LOSS_SCALE_AGE: np.array(1999)})
    assert scale.unscale(gradients) and gradients.asnumpy().tolist() == [0.125, 0.125]
    assert scale.factor == 16
    assert not scale.unscale(mx.nd.array([1.0, float("nan")])) and scale.factor == 8
    assert LossScale("float32").state() == {}


def test_float16_is_trained_on_a_gpu_only_if_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    built: list[str] = []

    class Stop(Exception):
        pass

    def network_of(spec: ModelSpec, context: object, precision: str) -> None:
        built.append(f"{context} {precision}")
        raise Stop

    monkeypatch.setattr(engine_module, "MXNetNetwork", network_of)
    for gpus in (1, 0):
        monkeypatch.setattr(mx.context, "num_gpus", lambda gpus=gpus: gpus)
        for precision in ("auto", "float16", "bfloat16"):
            with pytest.raises(Stop):
                build(change(precision=precision))
    assert built == ["gpu(0) float32", "gpu(0) float16", "gpu(0) float32"] + ["cpu(0) float32"] * 3
    assert "precision=bfloat16: MXNet computes in float32 on gpu:0" in caplog.text
    assert "precision=float16: MXNet computes in float32 on cpu" in caplog.text


def test_a_prediction_between_two_steps_changes_no_weight() -> None:
    """MXNet rewrites weights in oneDNN's layout where they lie when it predicts."""
    quiet, asked = build(), build()
    for seed in range(2):
        quiet.train_step(make_batch(seed=seed), 0.05)
        asked.train_step(make_batch(seed=seed), 0.05)
        asked.predict_step(make_batch().images)
    assert not differences(quiet.state(), asked.state())


def test_predictions_use_the_newest_weights() -> None:
    engine = build()
    before = engine.predict_step(make_batch().images)
    engine.train_step(make_batch(), 0.05)
    after = engine.predict_step(make_batch().images)
    fresh = build()
    fresh.load_state(engine.state())
    assert not np.array_equal(before, after)
    assert np.array_equal(after, fresh.predict_step(make_batch().images))


def test_batches_may_differ_in_size() -> None:
    engine = build()
    for size in (6, 2, 7, 1, 6):
        loss, logits = engine.train_step(make_batch(size=size), 0.01).fetch()
        assert np.isfinite(loss) and logits.shape == (size, 4)
        assert engine.predict_step(make_batch(size=size).images).shape == (size, 4)


def test_a_step_returns_before_its_result_is_computed() -> None:
    engine = build()
    steps = [engine.train_step(make_batch(seed=seed), 0.05) for seed in range(3)]
    again = build()
    for seed, step in enumerate(steps):
        loss, logits = again.train_step(make_batch(seed=seed), 0.05).fetch()
        assert step.fetch()[0] == loss
        assert np.array_equal(step.fetch()[1], logits)


# ---- refusals


def test_a_state_of_another_optimizer_is_rejected_and_changes_nothing() -> None:
    other, engine = build(name="adam"), build(name="sgd")
    other.train_step(make_batch(), 0.01)
    before = engine.state()
    with pytest.raises(ArtifactError, match="another optimizer"):
        engine.load_state(other.state())
    assert not differences(before, engine.state())


def test_wrong_images_and_optimizers_are_rejected() -> None:
    with pytest.raises(AlgorithmError, match=r"expected images \(N, 20, 28, 3\)"):
        build().predict_step(np.zeros((1, 28, 20, 3), np.uint8))
    with pytest.raises(BackendError, match=r"'adma'; did you mean 'adam'\?"):
        build(name="adma")


def test_a_short_precision_logs_that_mxnet_computes_in_float32(
    caplog: pytest.LogCaptureFixture,
) -> None:
    build(change(precision="bfloat16"))
    assert "precision=bfloat16: MXNet computes in float32 on cpu" in caplog.text


def test_compile_on_is_a_warning_because_mxnet_has_no_compiler(
    caplog: pytest.LogCaptureFixture,
) -> None:
    build(change(compiles=True))
    assert "compile=on: MXNet has no compiler for training steps; set compile=off" in caplog.text


# ---- export


def test_a_graph_that_differs_from_the_model_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "TOLERANCE", -1.0)
    with pytest.raises(AlgorithmError, match="differs from the trained one"):
        build().export(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_network_of_gluon_trains_and_its_graph_predicts_the_same(
    tmp_path: Path, multi_label: bool
) -> None:
    spec = change(
        backbone="gluon/mobilenetv2_0.25", input_shape=(3, 64, 64), multi_label=multi_label
    )
    engine = build(spec)
    images = make_batch(spec).images
    losses = [engine.train_step(make_batch(spec), 0.01).fetch()[0] for _ in range(24)]
    assert np.median(losses[-6:]) < losses[0]  # a single step can be worse, by rounding
    engine.export(tmp_path / "model.onnx", 1.5)
    model = onnx.load(tmp_path / "model.onnx")
    assert [value.name for value in model.graph.input] == ["images"]
    assert not any(described.doc_string for described in (model, model.graph, *model.graph.node))
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(["probabilities"], {"images": images})
    expected = onnx_graph.probabilities_of(engine.predict_step(images), spec, 1.5)
    np.testing.assert_allclose(found, expected, atol=1e-5)


# ---- Gluon's model zoo


def test_the_catalog_has_every_classifier_of_gluons_model_zoo() -> None:
    with pytest.raises(ValueError) as error:  # its message lists them all
        vision.get_model("nothing")
    zoo = set(str(error.value).split("\n\t")[1:])
    ours = {name for name in catalog.BACKBONES if name.startswith(catalog.PREFIX)}
    assert {name.removeprefix(catalog.PREFIX) for name in ours} == zoo


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side"), [("densenet121", 224), ("resnet18_v2", 64), ("vgg11", 64), ("alexnet", 224)]
)
def test_a_family_trains_and_its_graph_predicts_the_same(
    name: str, side: int, tmp_path: Path
) -> None:
    spec = change(backbone=f"gluon/{name}", input_shape=(3, side, side))
    engine = build(spec)
    assert np.isfinite(engine.train_step(make_batch(spec), 0.001).fetch()[0])
    engine.export(tmp_path / "model.onnx", 1.3)  # compared with the engine
    found = [output.name for output in onnx.load(tmp_path / "model.onnx").graph.output]
    has_map = not name.startswith(("vgg", "alexnet"))  # those have dense layers after the mean
    assert found == ["probabilities", "features", *["class_activation_map"] * has_map]


@pytest.mark.parametrize("name", ["gluon/squeezenet1.1", "gluon/vgg11", "gluon/resnet18_v1"])
def test_the_weights_of_a_gluon_network_have_the_names_of_gluons_files(name: str) -> None:
    """So that a `.params` file of the zoo can be converted by renaming gamma and beta."""
    spec = change(backbone=name, input_shape=(3, 64, 64))
    ours = {key.removeprefix("weight/") for key in build(spec).state() if "weight/" in key}
    block = vision.get_model(name.removeprefix("gluon/"))
    places = {place for place in block._collect_params_with_prefix() if "features" in place}
    renamed = {p.replace(".gamma", ".weight").replace(".beta", ".bias") for p in places}
    assert ours == renamed | {"head.weight", "head.bias"}


@pytest.mark.parametrize("name", ["squeezenet1.1", "mobilenetv2_0.25", "resnet18_v1"])
def test_the_file_that_gluon_saves_of_a_network_is_read(name: str, tmp_path: Path) -> None:
    block = vision.get_model(name, classes=5)
    block.initialize(mx.init.Uniform(1))
    block(mx.nd.zeros((1, 3, 224, 224)))  # the shapes of its weights
    block.save_parameters(str(tmp_path / "mine.params"))
    row = backends.catalog("mxnet").find(f"gluon/{name}")
    module = backends.load("mxnet")
    found = read_pretrained(module, row, tmp_path / "none", tmp_path / "mine.params")
    assert (found.layout, found.license) == ("gluon", "unknown")
    theirs = {n: p.data().asnumpy() for n, p in block._collect_params_with_prefix().items()}
    for ours, array in found.weights.items():
        layer, _, tensor = ours.replace("head.", "output.").rpartition(".")
        other = {"weight": "gamma", "bias": "beta"}.get(tensor, tensor)
        key = f"{layer}.{tensor}" if f"{layer}.{tensor}" in theirs else f"{layer}.{other}"
        assert np.array_equal(array, theirs[key]), ours
    assert ("head.weight" in found.weights) == (name == "resnet18_v1")
    wrong = backends.catalog("mxnet").find("gluon/resnet34_v1")
    with pytest.raises(ArtifactError, match="these are not the weights of gluon/resnet34_v1"):
        read_pretrained(module, wrong, tmp_path / "none", tmp_path / "mine.params")


def test_a_resumed_job_repeats_the_dropout_inside_a_network() -> None:
    spec = change(backbone="gluon/squeezenet1.1", input_shape=(3, 64, 64))
    whole, first = build(spec), build(spec)
    for engine in (whole, first):
        engine.train_step(make_batch(spec), 0.001)
    mx.random.seed(1234)  # whatever else draws in this process
    second = build(spec)
    second.load_state(first.state())
    for engine in (whole, second):
        engine.train_step(make_batch(spec, seed=1), 0.001)
    assert not differences(whole.state(), second.state())


def test_images_too_small_for_a_network_are_a_backend_error() -> None:
    with pytest.raises(BackendError, match="gluon/inceptionv3 cannot be built for input 3,20,28"):
        build(change(backbone="gluon/inceptionv3"))


# ---- the process


_COUNT_THREADS = """
import os, sys
from image_classification import backends
from image_classification.backends.base import OptimizerSpec, World
from tests.unit.backends.torch_cases import SMALL, make_batch

world = World(threads=int(sys.argv[1]))
engine = backends.load("mxnet", world.threads).build(SMALL, OptimizerSpec(), world)
engine.train_step(make_batch(), 0.01).fetch()
print(len(os.listdir("/proc/self/task")))
"""


def test_mxnet_starts_the_given_number_of_threads_whatever_the_environment_has() -> None:
    def threads_of(world: int, **variables: str) -> int:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _COUNT_THREADS, str(world)],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | variables,
        )
        return int(done.stdout)

    three = threads_of(3)
    assert threads_of(6) - three == 3
    assert threads_of(3, OMP_NUM_THREADS="6") == three


@pytest.mark.parametrize(
    "name", ["resnet50", *(pytest.param(n, marks=pytest.mark.thorough) for n in DEEP_RESNETS)]
)
def test_gluons_resnet_v2_is_the_built_ins_with_weights_by_the_layouts_names(name: str) -> None:
    """Gluon adds another epsilon to the variances, which its files' variances make up for."""
    block = vision.get_model(f"{name}_v2", classes=4)
    block.initialize()
    block(mx.nd.zeros((1, 3, 224, 224)))
    generator, arrays = np.random.default_rng(0), {}
    for path, parameter in block._collect_params_with_prefix().items():
        value = parameter.data().asnumpy()
        if value.ndim == 1 and path not in ("features.0.gamma", "features.0.beta"):
            value = (1.3 + 0.2 * generator.random(value.shape)).astype(np.float32)
        elif value.ndim > 1:
            value = generator.standard_normal(value.shape, np.float32)
            value *= np.sqrt(2 / np.prod(value.shape[1:]), dtype=np.float32)
        parameter.set_data(mx.nd.array(value))
        arrays[path] = value
    names = layouts.source_names(name, "gluon")
    chosen = layouts.layouts(name)["gluon"]
    assert set(names) == {path for path in arrays if not chosen.is_further(path)}
    spec = change(backbone=name, input_shape=(3, 64, 64), mean=(120.0,) * 3, std=(60.0,) * 3)
    engine = build(spec)
    engine.load_state(
        {
            f"weight/{ours}": layouts.neutral_array(name, "gluon", ours, arrays[path])
            for path, ours in names.items()
        }
    )
    images = make_batch(spec).images[:2]
    normalized = ((images - np.float32(120)) / np.float32(60)).transpose(0, 3, 1, 2)
    expected = block(mx.nd.array(normalized)).asnumpy()
    scale = np.abs(expected).max()
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 * scale, "the images must matter"
    np.testing.assert_allclose(engine.predict_step(images), expected, atol=1e-4 * scale)
