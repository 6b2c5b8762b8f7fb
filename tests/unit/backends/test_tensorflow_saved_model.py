"""A SavedModel of the channel `model` as a backbone, with SavedModels like those of users."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import onnxruntime
import tensorflow as tf

from image_classification import backends
from image_classification.backends.base import ModelSpec, OptimizerSpec, World
from image_classification.contract.interface import answer_form
from image_classification.errors import ArtifactError, BackendError
from image_classification.export import export_saved_model
from tests.unit.backends.torch_cases import change, make_batch

SPEC = ModelSpec("saved_model", 4, (3, 20, 28), (0.0,), (255.0,), seed=3)


class Hub(tf.Module):
    """As TensorFlow Hub's: callable with `training`, variables and what of them is trained."""

    def __init__(self, effect: Any = None) -> None:
        super().__init__()
        self.kernel = tf.Variable(tf.random.stateless_normal([3, 3, 3, 8], [1, 2]), name="conv/w")
        self.mean = tf.Variable(tf.zeros(8), trainable=False, name="bn/mean")
        self.effect = effect

    @tf.function
    def __call__(self, images: Any, training: bool = False) -> Any:
        if self.effect is not None:
            images = self.effect(images)
        maps = tf.nn.relu(tf.nn.conv2d(images, self.kernel, 1, "SAME"))
        mean = tf.reduce_mean(maps, [0, 1, 2])
        if training:
            self.mean.assign(0.9 * self.mean + 0.1 * mean)
        return maps - self.mean

    def save(self, folder: Path) -> None:
        for training in (False, True):
            self.__call__.get_concrete_function(
                tf.TensorSpec([None, 20, 28, 3], tf.float32), training=training
            )
        tf.saved_model.save(self, str(folder))


def build(folder: Path, **fields: Any) -> Any:
    spec = change(SPEC, folder=folder, **fields)
    return backends.load("tensorflow").build(spec, OptimizerSpec(), World(threads=1))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("channel")
    Hub().save(folder / "1")
    return folder


def test_the_features_are_the_models_output_averaged_over_the_positions(hub: Path) -> None:
    images = make_batch(SPEC).images
    logits = build(hub).predict_step(images)
    engine = build(hub)
    state = engine.state()
    features = Hub()(tf.constant(images / 255.0, tf.float32), False).numpy().mean((1, 2))
    expected = features @ state["weight/head.weight"].T + state["weight/head.bias"]
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_fine_tuning_changes_the_trainable_weights_and_the_statistics(
    hub: Path, tmp_path: Path
) -> None:
    engine = build(hub, averages_weights=True)
    before = engine.state()
    losses = [engine.train_step(make_batch(SPEC), 0.05).fetch()[0] for _ in range(5)]
    after = engine.state()
    assert losses[-1] < losses[0]
    assert engine.trainable_parameter_count == 3 * 3 * 3 * 8 + 8 * 4 + 4
    for name in before.keys():
        if name.startswith("weight/"):
            assert not np.array_equal(before[name], after[name]), name
    assert not any("bn.mean" in name for name in after if name.startswith("optimizer/"))
    engine.export(tmp_path / "model.onnx", 1.5)  # checked against the engine


def test_a_frozen_saved_model_keeps_everything_but_the_head(hub: Path) -> None:
    engine = build(hub, train_only_head=True)
    before = engine.state()
    engine.train_step(make_batch(SPEC), 0.05)
    after = engine.state()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"weight/head.weight", "weight/head.bias", "optimizer/steps"}


def test_a_saved_model_with_dropout_is_fine_tuned_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Dropping(Hub):
        @tf.function
        def __call__(self, images: Any, training: bool = False) -> Any:
            maps = tf.nn.relu(tf.nn.conv2d(images, self.kernel, 1, "SAME"))
            return tf.nn.dropout(maps, 0.5) if training else maps

    tf.random.set_seed(1)  # deterministic TensorFlow traces no dropout without
    Dropping().save(tmp_path / "1")
    engine = build(tmp_path)
    losses = [engine.train_step(make_batch(SPEC), 0.0).fetch()[0] for _ in range(2)]
    assert losses[0] == losses[1]
    assert "evaluation mode" in caplog.text


def test_a_saved_model_with_only_a_signature_is_a_backbone(tmp_path: Path) -> None:
    module = tf.Module()
    module.weight = tf.Variable(tf.ones([3, 5]), name="w")
    spec = tf.TensorSpec([None, 20, 28, 3], tf.float32, name="pixels")
    function = tf.function(
        lambda pixels: {"out": tf.reduce_mean(pixels, [1, 2]) @ module.weight},
        input_signature=[spec],
    )
    tf.saved_model.save(module, str(tmp_path), signatures=function)
    engine = build(tmp_path)
    before = engine.state()
    engine.train_step(make_batch(SPEC), 0.5)
    assert not np.array_equal(before["weight/trunk.0.w"], engine.state()["weight/trunk.0.w"])


# Keras 3.15 asks its own variables for an array without `copy`, which NumPy 2 deprecates.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_model_that_keras_exported_is_a_backbone(tmp_path: Path) -> None:
    import keras

    layers = [
        keras.Input((20, 28, 3)),
        keras.layers.Conv2D(4, 3),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.2),
        keras.layers.GlobalAveragePooling2D(),
    ]
    model = keras.Sequential(layers)
    model.export(tmp_path, verbose=False)
    engine = build(tmp_path)
    images = make_batch(SPEC).images
    state = engine.state()
    features = np.asarray(model(images / 255.0))
    expected = features @ state["weight/head.weight"].T + state["weight/head.bias"]
    np.testing.assert_allclose(engine.predict_step(images), expected, atol=1e-4)
    engine.train_step(make_batch(SPEC), 0.05)
    changed = {name for name in state if not np.array_equal(state[name], engine.state()[name])}
    assert any("kernel" in name for name in changed)


@pytest.mark.parametrize(
    "effect, operation",
    [
        (lambda x: x + tf.cast(tf.strings.length(tf.io.read_file("/etc/hostname")), x.dtype),
         "ReadFile"),
        (lambda x: tf.ensure_shape(tf.py_function(lambda y: y, [x], x.dtype), x.shape),
         "EagerPyFunc"),
        (lambda x: _written(x), "WriteFile"),
    ],
)  # fmt: skip
def test_a_saved_model_that_uses_files_or_python_is_rejected_before_loading(
    effect: Any, operation: str, tmp_path: Path
) -> None:
    Hub(effect).save(tmp_path / "model")
    with pytest.raises(ArtifactError, match=f"operation '{operation}'"):
        build(tmp_path)


def _written(images: Any) -> Any:
    tf.io.write_file("/tmp/never", "x")
    return images


def test_images_of_another_size_than_the_models_are_rejected(hub: Path) -> None:
    with pytest.raises(BackendError, match="20 × 20 × 3: set image_shape"):
        build(hub, input_shape=(3, 20, 20))


def test_a_channel_without_a_saved_model_or_with_a_damaged_one_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"expected one saved_model\.pb .* found none"):
        build(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"\x0a\xff no protobuf")
    with pytest.raises(ArtifactError, match="is not a SavedModel"):
        build(tmp_path)


class Layer(tf.Module):
    """As Keras 2 saves a layer; `layer-3` of the built-in's model is its head."""

    def __init__(self, function: Any, **variables: tf.Variable) -> None:
        super().__init__()
        self.function = function
        for name, variable in variables.items():
            setattr(self, name, variable)

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32)])
    def __call__(self, values: Any) -> Any:
        return self.function(values)


def save_fine_tuned(folder: Path, units: int) -> np.ndarray[Any, Any]:
    """Save a model as the script of the built-in does; return its answers to a batch."""
    kernel = tf.Variable(tf.random.stateless_normal([3, 8], [1, 2]), name="features/w")
    dense = tf.Variable(
        tf.random.stateless_normal([8, units], [3, 4]), name="classification/kernel"
    )
    bias = tf.Variable(tf.random.stateless_normal([units], [5, 6]), name="classification/bias")
    model = tf.Module()
    features = Layer(lambda images: tf.nn.relu(tf.reduce_mean(images, [1, 2]) @ kernel), w=kernel)
    features.variables_ = [kernel]
    head = Layer(lambda values: values @ dense + bias, kernel=dense, bias=bias)
    dropout = Layer(lambda values: values + 0 * tf.random.uniform([8]))
    for number, layer in enumerate([tf.Module(), features, dropout, head]):
        setattr(model, f"layer-{number}", layer)
    signature = tf.function(
        lambda images: {"logits": head(features(images))},
        input_signature=[tf.TensorSpec([None, 20, 28, 3], tf.float32)],
    )
    tf.saved_model.save(model, str(folder), signatures=signature)
    images = tf.cast(make_batch(SPEC).images, tf.float32) / 255
    return np.asarray(signature(images)["logits"])


@pytest.mark.parametrize("units", [4, 1])
def test_a_model_that_the_built_in_fine_tuned_gives_its_head_and_the_features_before_it(
    tmp_path: Path, units: int, caplog: pytest.LogCaptureFixture
) -> None:
    expected = save_fine_tuned(tmp_path / "1", units)
    engine = build(tmp_path, classes=max(units, 2))
    head = engine.given_head()
    assert head["weight/head.weight"].shape == (max(units, 2), 8)
    engine.load_state(engine.state() | head)
    found = engine.predict_step(make_batch(SPEC).images)
    if units == 1:  # the logit of a sigmoid is the difference of two logits
        found = found[:, 1:] - found[:, :1]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert "draws random numbers" not in caplog.text  # only the dropout, which is not used, does


def test_a_base_model_has_no_head(hub: Path) -> None:
    assert build(hub).given_head() is None


def describe(folder: Path, labels: list[str], **info: Any) -> None:
    """Write the files that JumpStart has next to a SavedModel."""
    (folder / "__model_info__.json").write_text(json.dumps({"image_size": [20, 28], **info}))
    (folder / "labels_info.json").write_text(json.dumps({"labels": labels}))


@pytest.mark.parametrize("units", [4, 1])
def test_export_converts_what_the_built_in_fine_tuned_and_it_answers_the_same(
    tmp_path: Path, units: int
) -> None:
    logits = save_fine_tuned(tmp_path / "base" / "1", units)
    describe(tmp_path / "base", ["a", "b", "c", "d"][: max(units, 2)], finetuned=True)
    artifact = export_saved_model(tmp_path / "base", None, tmp_path / "model")
    expected = np.asarray(tf.nn.softmax(logits))
    if units == 1:
        expected = np.asarray(tf.concat([1 - tf.sigmoid(logits), tf.sigmoid(logits)], axis=1))
    session = onnxruntime.InferenceSession(artifact.model_file)
    (found,) = session.run(["probabilities"], {"images": make_batch(SPEC).images})
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert answer_form(artifact.manifest).first == (1 if units == 1 else 0)
    assert artifact.preprocessing.mode == "squash" and artifact.interface == "tensorflow"


def test_export_converts_an_untuned_classifier_with_names_that_occur_twice(
    tmp_path: Path, hub: Path
) -> None:
    shutil.copytree(hub, tmp_path / "base")
    names = ["a", "b", "crane", "c", "crane", "d", "e", "f"]
    describe(tmp_path / "base", names, pixel_scaling_method="center")
    artifact = export_saved_model(tmp_path / "base", None, tmp_path / "model")
    assert artifact.labels.names == ("a", "b", "crane (2)", "c", "crane (4)", "d", "e", "f")
    images = make_batch(SPEC).images
    maps = tf.saved_model.load(str(hub / "1"))(tf.cast(images, tf.float32) / 127.5 - 1)
    session = onnxruntime.InferenceSession(artifact.model_file)
    (found,) = session.run(["probabilities"], {"images": images})
    np.testing.assert_allclose(
        found, tf.nn.softmax(tf.reduce_mean(maps, [1, 2])), rtol=0, atol=1e-5
    )
    describe(tmp_path / "base", names[:3])
    with pytest.raises(ArtifactError, match="its model has 8 classes, but there are 3 labels"):
        export_saved_model(tmp_path / "base", None, tmp_path / "other")
    with pytest.raises(ArtifactError, match="found one without class names: give them with"):
        export_saved_model(hub, None, tmp_path / "other")
