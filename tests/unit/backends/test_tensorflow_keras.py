"""Backbones named keras/<class>: the table against keras.applications, training, weights."""

from __future__ import annotations

import inspect
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

from image_classification import backends
from image_classification.backends.base import OptimizerSpec, Update, World
from image_classification.backends.networks import efficientnet, layouts, mobilenet
from image_classification.backends.pretrained import read_pretrained, read_weights
from image_classification.backends.tensorflow import catalog
from image_classification.errors import ArtifactError, BackendError
from tests.unit.backends.torch_cases import change, differences, make_batch

SPEC = change(backbone="keras/MobileNetV3Small", input_shape=(3, 64, 48), dropout_rate=0.2)


@pytest.fixture(scope="module")
def keras() -> Any:
    backends.load("tensorflow")
    import keras

    return keras


def build(**fields: Any) -> Any:
    return backends.load("tensorflow").build(
        change(SPEC, **fields), OptimizerSpec(), World(threads=1)
    )


def test_the_catalog_has_every_classifier_of_keras(keras: Any) -> None:
    theirs = {name for name in dir(keras.applications) if name[0].isupper()}
    ours = {name for name in catalog.BACKBONES if name.startswith(catalog.PREFIX)}
    assert {name.removeprefix(catalog.PREFIX) for name in ours} == theirs


def test_an_unknown_backbone_of_keras_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(BackendError, match="did you mean 'keras/ResNet50'"):
        backends.catalog("tensorflow").find("keras/resnet50")


def module_of(keras: Any, model: str) -> Any:
    return inspect.getmodule(inspect.unwrap(getattr(keras.applications, model)))


@pytest.mark.parametrize("family", catalog.FAMILIES, ids=lambda f: next(iter(f.models)))
def test_a_family_has_the_normalization_of_its_training(keras: Any, family: Any) -> None:
    """Keras's own: a function beside the model, or layers inside it."""
    model = next(iter(family.models))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32)
    theirs = module_of(keras, model).preprocess_input(pixels.copy())
    if family.normalizes:
        theirs = own_normalization(keras, model, pixels)
    ours = (pixels - np.array(family.mean)) / np.array(family.std)
    np.testing.assert_allclose(ours[..., ::-1] if family.is_bgr else ours, theirs, atol=1e-3)


def own_normalization(keras: Any, model: str, pixels: np.ndarray) -> np.ndarray:
    whole = getattr(keras.applications, model)(include_top=False, weights=None)
    x = pixels
    for layer in whole.layers[1:4]:
        if isinstance(layer, keras.layers.Normalization) and layer.input_mean is None:
            # EfficientNet: its published file holds the mean, and deviations where variances
            # should be, which a third layer puts right; see its source.
            mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
            return (np.asarray(x) - mean) / np.sqrt(deviation) / np.sqrt(deviation)
        if isinstance(layer, keras.layers.Rescaling | keras.layers.Normalization):
            x = layer(x)
    return np.asarray(x)


def test_training_resumes_bit_for_bit_with_stochastic_depth_inside(tmp_path: Path) -> None:
    """EfficientNet drops whole blocks at random."""
    engine = build(backbone="keras/EfficientNetB0", averages_weights=True)
    first = engine.state()
    assert "weight/trunk.stem_conv.kernel" in first
    assert not any("seed" in name or "normalization" in name for name in first)
    for seed in range(3):
        loss = engine.train_step(make_batch(SPEC, seed=seed), 0.01, Update(average_decay=0.5))
        middle = engine.state() if seed == 1 else first
        if seed == 1:
            kept = middle
    expected = engine.state()
    engine.load_state(kept)
    again = engine.train_step(make_batch(SPEC, seed=2), 0.01, Update(average_decay=0.5))
    assert again.fetch()[0] == loss.fetch()[0]
    assert differences(expected, engine.state()) == set()
    engine.export(tmp_path / "model.onnx", 1.2)  # compared with the engine
    made = onnx.load(tmp_path / "model.onnx").graph.output
    assert [output.name for output in made] == ["probabilities", "features", "class_activation_map"]


def test_a_frozen_backbone_keeps_every_weight() -> None:
    engine = build(train_only_head=True)
    before = engine.state()
    engine.train_step(make_batch(SPEC), 0.1)
    after = engine.state()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"weight/head.weight", "weight/head.bias", "optimizer/steps"}


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second, other = build().state(), build().state(), build(seed=4).state()
    assert differences(first, second) == set()
    assert "weight/trunk.conv.kernel" in differences(first, other)


def test_the_weights_file_that_keras_publishes_is_read(keras: Any, tmp_path: Path) -> None:
    row = backends.catalog("tensorflow").find("keras/EfficientNetB0")
    engines = backends.load("tensorflow")
    assert engines.pretrained_state(row, tmp_path) is None
    whole = keras.applications.EfficientNetB0(include_top=False, weights=None)
    path = tmp_path / "keras" / "EfficientNetB0.h5"
    path.parent.mkdir()
    with pytest.raises(ArtifactError, match="_notop"):
        path.write_bytes(b"no HDF5")
        engines.pretrained_state(row, tmp_path)
    write_as_published(whole, path)
    state = engines.pretrained_state(row, tmp_path)
    engine = build(backbone="keras/EfficientNetB0")
    engine.load_state(state)
    kernel = whole.get_layer("stem_conv").kernel.value.numpy()
    assert np.array_equal(engine.state()["weight/trunk.stem_conv.kernel"], kernel)


@pytest.mark.parametrize(
    ("ending", "has_top"),
    [
        ("published.h5", False),
        ("published.h5", True),
        ("weights.h5", True),
        ("keras", False),
        ("tar.gz", True),
    ],
)
@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of Keras with NumPy 2
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.filterwarnings("ignore:Skipping nested container")  # of Keras, before its error
def test_every_file_that_keras_writes_of_a_class_is_read(
    keras: Any, tmp_path: Path, ending: str, has_top: bool
) -> None:
    whole = keras.applications.MobileNetV3Small(
        include_top=has_top, weights=None, pooling="avg", include_preprocessing=False
    )
    generator = np.random.default_rng(0)
    whole.set_weights([generator.random(a.shape, np.float32) for a in whole.get_weights()])
    path = tmp_path / f"mine.{ending}"
    if ending == "published.h5":
        write_as_published(whole, path)
    elif ending == "weights.h5":
        whole.save_weights(path)
    elif ending == "tar.gz":
        whole.save_weights(tmp_path / "model.weights.h5")
        with tarfile.open(path, "w:gz") as archive:
            archive.add(tmp_path / "model.weights.h5", "model.weights.h5")
    else:
        whole.save(path)
    row = backends.catalog("tensorflow").find("keras/MobileNetV3Small")
    found = read_pretrained(backends.load("tensorflow"), row, tmp_path / "none", path)
    theirs = {"trunk." + v.path.replace("/", "."): v.value.numpy() for v in whole.weights}
    assert len(found.weights) > 200
    assert all(np.array_equal(array, theirs[name]) for name, array in found.weights.items())
    assert (found.license, len(found.sha256)) == ("unknown", 64)


@pytest.mark.parametrize("ending", ["h5", "weights.h5"])
@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of Keras with NumPy 2
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_a_class_inside_another_model_is_refused_with_the_cure(
    keras: Any, tmp_path: Path, ending: str
) -> None:
    inner = keras.applications.MobileNetV3Small(include_top=False, weights=None, pooling="avg")
    outer = keras.Sequential([keras.Input((224, 224, 3)), inner, keras.layers.Dense(3)])
    path = tmp_path / f"mine.{ending}"
    outer.save_weights(path) if ending == "weights.h5" else outer.save(path)
    row = backends.catalog("tensorflow").find("keras/MobileNetV3Small")
    with pytest.raises(ArtifactError, match=r"the layer that is the network, .*save_weights"):
        read_pretrained(backends.load("tensorflow"), row, tmp_path / "none", path)


def write_as_published(model: Any, path: Path) -> None:
    """The layout of keras.applications' files: a group for each layer, weights in order."""
    import h5py

    with h5py.File(path, "w") as file:
        layers = [layer for layer in model.layers if layer.weights]
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        for layer in layers:
            group = file.create_group(layer.name)
            names = [f"{layer.name}/{place}:0" for place in range(len(layer.weights))]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.weights, strict=True):
                group.create_dataset(name, data=weight.value.numpy())


def test_images_that_are_too_small_are_rejected() -> None:
    with pytest.raises(BackendError, match="InceptionV3 needs images of at least 75 pixels"):
        build(backbone="keras/InceptionV3")


FAMILIES = [
    ("ResNet50", 32),
    ("DenseNet121", 32),
    ("NASNetMobile", 32),
    ("Xception", 71),
    ("ConvNeXtTiny", 32),  # grouped convolutions, which Keras has XLA compile, and GELU
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), FAMILIES)
def test_a_family_trains_and_its_graph_predicts_the_same(
    name: str, side: int, tmp_path: Path
) -> None:
    row = backends.catalog("tensorflow").find(f"keras/{name}")
    spec = change(backbone=row.name, input_shape=(3, side, side), mean=row.mean, std=row.std)
    engine = backends.load("tensorflow").build(spec, OptimizerSpec(), World(threads=1))
    before = engine.state()
    assert np.isfinite(engine.train_step(make_batch(spec), 0.001).fetch()[0])
    after = engine.state()
    kernels = [name for name in before if name.startswith("weight/") and name.endswith("kernel")]
    assert any(not np.array_equal(before[name], after[name]) for name in kernels)
    engine.export(tmp_path / "model.onnx", 1.3)  # compared with the engine


WIDTHS = {n: w for n, w in mobilenet.WIDTHS.items() if n.startswith(mobilenet.TF_PREFIX)}
WIDTHS |= mobilenet.V1_WIDTHS
SMALLEST = {"tf_mobilenet_v1_025", "tf_mobilenet_v2_035", "tf_efficientnet_b0"}
EFFICIENTNETS = [name for name in efficientnet.SCALES if name.startswith(efficientnet.TF_PREFIX)]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in SMALLEST else marks)
        for name in (*WIDTHS, *EFFICIENTNETS)
        for marks in [[pytest.mark.thorough]]
    ],
)
def test_a_shared_network_computes_what_keras_does_with_weights_by_the_layouts_names(
    keras: Any, name: str
) -> None:
    """The input of Keras's EfficientNets has pixels: they contain ImageNet's normalization."""
    shape, options = (64, 96, 3), {"weights": None, "classes": 4, "classifier_activation": None}
    if name in WIDTHS:
        model = keras.applications.MobileNet if "v1" in name else keras.applications.MobileNetV2
        theirs = model(input_shape=shape, alpha=WIDTHS[name], **options)
    else:
        theirs = getattr(keras.applications, f"EfficientNetB{name[-1]}")(
            input_shape=shape, **options
        )
        (own,) = [layer for layer in theirs.layers if layer.name.startswith("normalization")]
        own.set_weights([np.zeros(3), np.ones(3), np.array(0)])
    generator = np.random.default_rng(0)
    arrays = {}
    for variable in theirs.weights:
        if not layouts.layouts(name)["keras"].is_further(variable.path):
            value = variable.numpy()
            if value.ndim == 1:
                # A larger variance, so that rounding does not grow with the depth.
                least = 1.2 if variable.path.endswith("variance") and name in EFFICIENTNETS else 0.9
                value = np.float32(least) + 0.2 * generator.random(value.shape, np.float32)
            else:
                fan_in = np.prod(value.shape[:2] if value.shape[-1] == 1 else value.shape[:-1])
                value = generator.standard_normal(value.shape, np.float32)
                value *= np.sqrt(2 / fan_in, dtype=np.float32)
            variable.assign(value)
            arrays[variable.path] = value
    names = layouts.source_names(name, "keras")
    assert set(names) == set(arrays)
    is_unit = name in EFFICIENTNETS  # without the statistics of ImageNet, only x / 255 is left
    mean, std = ((0.0,) * 3, (255.0,) * 3) if is_unit else ((127.5,) * 3, (127.5,) * 3)
    engine = build(backbone=name, input_shape=(3, 64, 96), mean=mean, std=std)
    engine.load_state(
        {
            f"weight/{ours}": layouts.neutral_array(name, "keras", ours, arrays[path])
            for path, ours in names.items()
        }
    )
    images = generator.integers(0, 256, (2, *shape), np.uint8)
    given = images.astype(np.float32) if is_unit else (images / 127.5 - 1).astype(np.float32)
    expected = np.asarray(theirs(given, training=False))
    scale = np.abs(expected).max()
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 * scale, "the images must matter"
    np.testing.assert_allclose(engine.predict_step(images), expected, atol=1e-4 * scale)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of Keras with NumPy 2
def test_the_files_that_keras_writes_are_read_as_weights_of_the_shared_network(
    keras: Any, tmp_path: Path
) -> None:
    shape = (96, 96, 3)
    model = keras.applications.MobileNetV2(shape, alpha=0.35, weights=None, classes=5)
    generator = np.random.default_rng(0)
    model.set_weights([generator.random(array.shape, np.float32) for array in model.get_weights()])
    model.save_weights(tmp_path / "new.weights.h5")
    model.save(tmp_path / "old.h5")
    arrays = {"/".join(v.path.split("/")[-2:]): v.value.numpy() for v in model.weights}
    row = backends.catalog("tensorflow").find("tf_mobilenet_v2_035")
    for name in ("new.weights.h5", "old.h5"):
        found = read_weights(tmp_path / name, row)
        assert found.layout == "keras" and found.weights["head.bias"].shape == (5,)
        for theirs, ours in layouts.source_names(row.name, "keras").items():
            expected = layouts.neutral_array(row.name, "keras", ours, arrays[theirs])
            assert np.array_equal(found.weights[ours], expected), theirs
