"""The features of a graph as a second output, next to its probabilities."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from image_classification.artifact import GraphFile, open_artifact
from image_classification.errors import ArtifactError
from image_classification.serving.graph_outputs import (
    FEATURES,
    MAP,
    Outputs,
    most_bytes,
    with_features,
)
from image_classification.serving.runtime import Runtime
from tests.golden import cases

SIDE, WIDTH, CLASSES = 4, 6, 3


def graph(head: Sequence[tuple[str, Sequence[str]]], tensors: dict[str, object]) -> bytes:
    """Images → the mean of each channel → 6 features → a head."""
    generator = np.random.default_rng(0)
    made = {"mix": generator.normal(size=(3, WIDTH)).astype(np.float32), **tensors}
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["mean", "mix"], ["mixed"]),
        helper.make_node("Relu", ["mixed"], ["features"]),
        *(
            helper.make_node(kind, inputs, [f"h{i}" if i < len(head) - 1 else "probabilities"])
            for i, (kind, inputs) in enumerate(head)
        ),
    ]
    ends = (
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", CLASSES])],
    )
    arrays = [numpy_helper.from_array(np.asarray(v), k) for k, v in made.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", *ends, arrays),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    return bytes(model.SerializeToString())


WEIGHT = np.random.default_rng(1).normal(size=(WIDTH, CLASSES)).astype(np.float32)
BIAS, HEAT = np.ones(CLASSES, np.float32), np.array(2.0, np.float32)
HEADS = {
    "dense layer": (
        [("Gemm", ["features", "w", "b"]), ("Softmax", ["h0"])],
        {"w": WEIGHT, "b": BIAS},
    ),
    "product, bias, temperature": (
        [
            ("MatMul", ["features", "w"]),
            ("Add", ["h0", "b"]),
            ("Div", ["h1", "t"]),
            ("Sigmoid", ["h2"]),
        ],
        {"w": WEIGHT, "b": BIAS, "t": HEAT},
    ),
}


def runtime(folder: Path, content: bytes) -> Runtime:
    path = folder / "model.onnx"
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    file = GraphFile(str(path), len(content), digest, (SIDE, SIDE, 3), CLASSES)
    return Runtime(file, has_features=True)


@pytest.mark.parametrize("name", HEADS)
def test_the_features_are_what_the_head_reads(name: str, tmp_path: Path) -> None:
    content = graph(*HEADS[name])
    outputs = onnx.load_from_string(with_features(content)).graph.output
    assert [output.name for output in outputs] == ["probabilities", "features"]
    images = np.random.default_rng(2).integers(0, 256, (5, SIDE, SIDE, 3)).astype(np.uint8)
    session = runtime(tmp_path, content)
    found = session.run_outputs(images, {"features"})
    features = found.features
    assert features is not None and features.shape == (5, WIDTH)
    mix = numpy_helper.to_array(onnx.load_from_string(content).graph.initializer[0])
    expected = np.maximum(images.mean(axis=(1, 2)) @ mix, 0)
    assert np.allclose(features, expected, rtol=1e-5, atol=1e-3)
    assert np.array_equal(session.run(images), found.probabilities)


def test_a_graph_without_a_dense_layer_gives_probabilities_alone(tmp_path: Path) -> None:
    tensors = {"starts": np.array([0]), "ends": np.array([CLASSES]), "axes": np.array([1])}
    content = graph(
        [("Slice", ["features", "starts", "ends", "axes"]), ("Softmax", ["h0"])], tensors
    )
    assert with_features(content) == content
    assert not runtime(tmp_path, content).outputs


@pytest.mark.parametrize("name", cases.ARTIFACTS)
def test_the_artifacts_of_earlier_versions_have_features(name: str) -> None:
    with open_artifact(cases.GOLDEN / "artifacts" / f"{name}.tar.gz") as artifact:
        session = Runtime(artifact.graph_file, has_features=True)
        images = np.zeros((2, *artifact.graph_file.input_shape), np.uint8)
    found = session.run_outputs(images, {"features"})
    assert found.probabilities.shape == (2, len(artifact.labels))
    assert found.features is not None and found.features.shape[1] > 1


def test_outputs_travel_to_another_process_and_back() -> None:
    generator = np.random.default_rng(0)
    rows, features, maps = (
        generator.normal(size=shape).astype(np.float32) for shape in ((2, 3), (2, 5), (2, 4, 6))
    )
    both = Outputs(rows, features, maps)
    back = Outputs.from_bytes(bytearray(both.to_bytes()), 2, 3, {MAP, FEATURES})
    assert back.features is not None and back.maps is not None
    assert (back.probabilities == rows).all() and (back.features == features).all()
    assert (back.maps == maps).all()
    map_alone = Outputs.from_bytes(bytearray(Outputs(rows, None, maps).to_bytes()), 2, 3, {MAP})
    assert map_alone.features is None and map_alone.maps is not None
    assert len(both.to_bytes()) <= most_bytes(2, 3)


@pytest.mark.parametrize("change", [lambda b: b[:-4], lambda b: b + b"0000", lambda b: b[:8]])
def test_outputs_of_another_size_are_refused(change: Callable[[bytes], bytes]) -> None:
    content = Outputs(np.zeros((2, 3), np.float32), np.zeros((2, 5), np.float32)).to_bytes()
    with pytest.raises(ArtifactError, match="the graph gave"):
        Outputs.from_bytes(bytearray(change(content)), 2, 3, {FEATURES})
    with pytest.raises(ArtifactError, match="the graph gave"):
        Outputs.from_bytes(bytearray(content), 2, 4, {FEATURES})


def test_a_graph_that_breaks_the_promise_of_its_shape_is_refused() -> None:
    rows = np.zeros((2, 3), np.float32)
    for features in (np.zeros((1, 5)), np.zeros((2, 5, 5)), np.zeros((2, 70_000))):
        with pytest.raises(ArtifactError, match=r"output features: expected 2 dimensions"):
            Outputs.of(2, rows, {FEATURES: features})
