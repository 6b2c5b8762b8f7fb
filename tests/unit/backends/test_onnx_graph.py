"""The writer of the artifact's graph: what it computes, its bytes, and its checks."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

import onnx
import onnxruntime

from image_classification.backends import networks, onnx_graph
from image_classification.backends.base import ModelSpec
from image_classification.backends.networks import layers
from image_classification.backends.onnx_outputs import add_outputs
from image_classification.errors import AlgorithmError
from image_classification.samples import FloatArray, UInt8Array
from tests.unit.backends.torch_cases import SMALL, change

OUTPUTS = ["probabilities", "features", "class_activation_map"]
LITE = change(backbone="efficientnet_lite0", input_shape=(3, 33, 47))


def weights_of(spec: ModelSpec) -> dict[str, FloatArray]:
    """Of every tensor some values; the same in every version of NumPy."""
    network = networks.network(spec.backbone, spec.input_shape)
    shapes = network.tensor_shapes()
    shapes |= {"head.weight": (spec.classes, network.width), "head.bias": (spec.classes,)}
    generator = np.random.Generator(np.random.PCG64(5))
    arrays = {}
    for name, shape in shapes.items():
        values = generator.random(shape, np.float32)
        is_filter = len(shape) > 1
        arrays[name] = (values - 0.5) / np.prod(shape[1:]) if is_filter else values + 0.5
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


def graph_of(spec: ModelSpec, temperature: float = 1.0) -> bytes:
    network = networks.network(spec.backbone, spec.input_shape)
    return onnx_graph.graph_bytes(network, weights_of(spec), spec, temperature)


def run(graph: bytes, images: UInt8Array) -> FloatArray:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"images": images})
    return np.asarray(probabilities)


def images_for(spec: ModelSpec, size: int) -> UInt8Array:
    channels, height, width = spec.input_shape
    return np.random.default_rng(0).integers(0, 256, (size, height, width, channels), np.uint8)


@pytest.mark.parametrize("spec", [SMALL, LITE], ids=["resnet", "efficientnet_lite"])
def test_the_input_is_uint8_images_in_batches_of_any_size(spec: ModelSpec) -> None:
    model = onnx.load_from_string(graph_of(spec))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (given,), made = session.get_inputs(), session.get_outputs()[0]
    channels, height, width = spec.input_shape
    assert (given.name, given.type, given.shape[1:]) == (
        *("images", "tensor(uint8)"),
        [height, width, channels],
    )
    assert (made.name, made.type, made.shape[1]) == ("probabilities", "tensor(float)", 4)
    batch = images_for(spec, 7)
    together = run(graph_of(spec), batch)
    np.testing.assert_allclose(run(graph_of(spec), batch[:1]), together[:1], atol=1e-6)
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-6)


def test_norms_after_convolutions_and_paddings_are_not_nodes_of_the_graph() -> None:
    kinds = [node.op_type for node in onnx.load_from_string(graph_of(LITE)).graph.node]
    assert "BatchNormalization" not in kinds and "Pad" not in kinds
    network = networks.network(LITE.backbone, LITE.input_shape)
    assert kinds.count("Conv") == sum(
        isinstance(layer, layers.Convolution) for layer in network.layers
    )


def test_the_temperature_divides_the_logits_and_multi_label_graphs_end_with_a_sigmoid() -> None:
    batch = images_for(SMALL, 3)
    hot, cold = np.log(run(graph_of(SMALL), batch)), np.log(run(graph_of(SMALL, 4.0), batch))
    np.testing.assert_allclose(cold - cold[:, :1], (hot - hot[:, :1]) / 4, atol=1e-5)
    several = run(graph_of(change(multi_label=True)), batch)
    odds = np.log(several / (1 - several))
    np.testing.assert_allclose(odds - odds[:, :1], hot - hot[:, :1], atol=1e-4)


def test_equal_weights_give_equal_bytes_with_every_version_of_onnx() -> None:
    """Written with onnx 1.14.1 and NumPy 1.23.5, and with onnx 1.23.2 and NumPy 2.2.6."""
    digests = [hashlib.sha256(graph_of(spec)).hexdigest()[:16] for spec in (SMALL, LITE)]
    assert digests == ["037c17e86c8d873a", "9185ed52d60d6852"]


def test_a_graph_that_disagrees_with_the_engine_is_an_error_and_not_written(tmp_path: Path) -> None:
    network = networks.network(SMALL.backbone, SMALL.input_shape)

    def wrong(images: UInt8Array) -> FloatArray:
        return np.eye(4, dtype=np.float32)[[0] * len(images)] * 9

    with pytest.raises(
        AlgorithmError, match=r"differs from the trained one by .* in a batch of 1; at"
    ):
        onnx_graph.write(tmp_path / "model.onnx", network, weights_of(SMALL), SMALL, 1.0, wrong)
    assert list(tmp_path.iterdir()) == []


def test_predictions_that_are_not_finite_fail_the_check(tmp_path: Path) -> None:
    def zeros(images: UInt8Array) -> FloatArray:
        return np.zeros((len(images), 4), np.float32)

    def lost(images: UInt8Array) -> FloatArray:
        return np.full((len(images), 4), np.nan, np.float32)

    with pytest.raises(
        AlgorithmError, match="predictions are not finite: its weights are damaged, or"
    ):
        onnx_graph.write_checked(tmp_path / "model.onnx", graph_of(SMALL), SMALL, 1.0, lost)
    weights = weights_of(SMALL) | {"head.bias": np.full(4, np.nan, np.float32)}
    network = networks.network(SMALL.backbone, SMALL.input_shape)
    graph = onnx_graph.graph_bytes(network, weights, SMALL)
    with pytest.raises(AlgorithmError, match="by nan"):
        onnx_graph.write_checked(tmp_path / "model.onnx", graph, SMALL, 1.0, zeros)


FAMILIES = {
    "resnet20": (3, 20, 28),
    "resnet18": (3, 33, 40),
    "resnet50_v1.5": (3, 33, 40),
    "efficientnet_lite0": (3, 33, 47),
    "efficientnet_b0": (3, 33, 47),
    "mobilenet_v2": (3, 33, 47),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_features_and_the_map_are_what_their_definitions_say(name: str) -> None:
    spec = change(backbone=name, input_shape=FAMILIES[name])
    session = onnxruntime.InferenceSession(graph_of(spec), providers=["CPUExecutionProvider"])
    assert [made.name for made in session.get_outputs()] == OUTPUTS
    assert [made.shape[0] for made in session.get_outputs()] == ["batch"] * 3
    rows, features, maps = session.run(OUTPUTS, {"images": images_for(spec, 5)})
    weights = weights_of(spec)
    logits = features @ weights["head.weight"].T + weights["head.bias"]
    np.testing.assert_allclose(onnx_graph.probabilities_of(logits, spec), rows, atol=1e-6)
    best = rows.argmax(1)
    of_class = logits[np.arange(5), best] - weights["head.bias"][best]
    np.testing.assert_allclose(maps.mean((1, 2)), of_class, atol=1e-5)


def test_a_network_with_a_layer_after_its_mean_has_features_and_no_map() -> None:
    model = onnx.load_from_string(graph_of(SMALL))
    del model.graph.output[1:]
    head = next(node for node in model.graph.node if node.op_type == "Gemm")
    model.graph.node.insert(
        list(model.graph.node).index(head),
        onnx.helper.make_node("Relu", [head.input[0]], ["after"]),
    )
    head.input[0] = "after"
    del model.graph.node[-6:]  # those of the outputs
    add_outputs(model.graph)
    assert [output.name for output in model.graph.output] == OUTPUTS[:2]


def test_the_other_outputs_leave_the_probabilities_as_they_were_to_the_bit() -> None:
    model = onnx.load_from_string(graph_of(LITE))
    batch = images_for(LITE, 3)
    together = run(model.SerializeToString(), batch)
    del model.graph.output[1:]
    assert (run(model.SerializeToString(), batch) == together).all()
