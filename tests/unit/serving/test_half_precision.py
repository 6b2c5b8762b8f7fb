"""A graph in float16: which operators, the same ends, close to float32, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from image_classification.artifact import read_artifact
from image_classification.errors import ArtifactError
from image_classification.samples import FloatArray, UInt8Array
from image_classification.serving.admission import GpuSettings
from image_classification.serving.graph_file import check_graph
from image_classification.serving.half_precision import to_half
from image_classification.serving.runtime import Runtime
from tests import graphs

WIDTH = 8


def arrays(seed: int = 0, scale: float = 0.3) -> dict[str, object]:
    generator = np.random.default_rng(seed)

    def draw(*shape: int) -> object:
        return generator.normal(0, scale, shape).astype(np.float32)

    return {
        "std": np.full((3, 1, 1), 1 / 64, np.float32),
        "mean": np.full((3, 1, 1), -2, np.float32),
        "w1": draw(WIDTH, 3, 3, 3),
        "b1": draw(WIDTH),
        "w2": draw(WIDTH, WIDTH, 3, 3),
        "low": np.float32(0),
        "high": np.float32(6),
        "one": np.ones(WIDTH, np.float32),
        "zero": np.zeros(WIDTH, np.float32),
        "head": draw(3, WIDTH),
        "head.b": draw(3),
    }


def nodes() -> list[NodeProto]:
    """A network as the exporters write it: a branch, a BatchNorm that is not folded, a head."""
    node = helper.make_node
    return [
        node("Transpose", ["images"], ["bytes"], perm=[0, 3, 1, 2]),
        node("Cast", ["bytes"], ["floats"], to=TensorProto.FLOAT),
        node("Mul", ["floats", "std"], ["scaled"]),
        node("Add", ["scaled", "mean"], ["normalized"]),
        node("Conv", ["normalized", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        node("Clip", ["c1", "low", "high"], ["r1"]),
        node("Conv", ["r1", "w2"], ["c2"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c2", "one", "zero", "zero", "one"], ["n2"]),
        node("Conv", ["n2", "w2"], ["c3"], pads=[1, 1, 1, 1]),
        node("Add", ["c3", "r1"], ["sum"]),
        node("GlobalAveragePool", ["sum"], ["map"]),
        node("Flatten", ["map"], ["features"]),
        node("Gemm", ["features", "head", "head.b"], ["logits"], transB=1),
        node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]


def serialized(made: Sequence[NodeProto] | None = None, **changed: object) -> bytes:
    return bytes(graphs.model(made or nodes(), {**arrays(), **changed}).SerializeToString())


def images(count: int = 8) -> UInt8Array:
    shape = (count, graphs.SIDE, graphs.SIDE, 3)
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def answer(graph: bytes) -> FloatArray:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images()})
    return np.asarray(found)


def kinds(graph: bytes) -> dict[str, int]:
    """The type of each value, as ONNX infers it."""
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(graph), True, True)
    values = [*model.graph.value_info, *model.graph.input, *model.graph.output]
    return {value.name: value.type.tensor_type.elem_type for value in values}


def test_what_computes_is_in_float16_and_the_ends_and_the_head_are_not() -> None:
    half = to_half(serialized())
    check_graph(half)
    onnx.checker.check_model(onnx.load_model_from_string(half), full_check=True)
    found = kinds(half)
    in_half = {"c1", "r1", "c2", "n2", "c3", "sum", "map", "features"}
    assert {name for name in found if found[name] == TensorProto.FLOAT16} > in_half
    in_full = {"floats", "scaled", "normalized", "logits", "probabilities"}
    assert {name for name in found if found[name] == TensorProto.FLOAT} > in_full
    assert found["images"] == TensorProto.UINT8


def test_the_probabilities_in_float16_are_close_to_those_in_float32_and_not_the_same() -> None:
    full, half = answer(serialized()), answer(to_half(serialized()))
    assert half.dtype == np.float32 and half.shape == full.shape
    assert 0 < np.abs(half - full).max() < 0.01


def test_a_weight_that_two_precisions_read_is_there_in_both_and_others_once() -> None:
    names = {
        one.name for one in onnx.load_model_from_string(to_half(serialized())).graph.initializer
    }
    assert {"w1.float16", "w2.float16", "head", "std"} <= names
    assert not names & {"w1", "w2", "head.float16", "std.float16"}
    made = nodes()
    made[3] = helper.make_node("Sub", ["scaled", "high"], ["normalized"])  # and of the Clip
    shared = to_half(serialized(made))
    names = {one.name for one in onnx.load_model_from_string(shared).graph.initializer}
    assert {"high", "high.float16"} <= names
    assert np.abs(answer(shared) - answer(serialized(made))).max() < 0.01


@pytest.mark.parametrize(
    ("mean", "variance", "weight", "kind"),
    [
        (1e3, 1e6, 1e3, TensorProto.FLOAT16),
        (0.5, 1e-9, 0.03, TensorProto.FLOAT16),  # it is 0 in float16
        (1e5, 1e11, 1.0, TensorProto.FLOAT16),  # infinite in float16
        (1e6, 1.0, 1.0, TensorProto.FLOAT),  # so is the shift
    ],
)
def test_a_batchnorm_is_in_float16_if_its_scale_and_shift_are_in_its_range(
    mean: float, variance: float, weight: float, kind: int
) -> None:
    made = nodes()
    made[7].attribute.append(helper.make_attribute("epsilon", 1e-3))
    spread = np.linspace(0.5, 1.5, WIDTH).astype(np.float32)
    made[7].input[:] = ["c2", "weight", "b1", "mean of c2", "variance of c2"]
    graph = serialized(
        made,
        **{
            "weight": spread * np.float32(weight),
            "mean of c2": spread * np.float32(mean),
            "variance of c2": spread * np.float32(variance),
        },
    )
    half = to_half(graph)
    assert kinds(half)["n2"] == kind
    if kind == TensorProto.FLOAT16:
        assert np.abs(answer(half) - answer(graph)).max() < 0.01


def test_a_name_that_is_taken_is_not_used_again() -> None:
    made = nodes()
    made[5] = helper.make_node("Clip", ["c1", "low", "high"], ["w1.float16"])
    for node in made[6:]:
        node.input[:] = ["w1.float16" if name == "r1" else name for name in node.input]
    assert np.abs(answer(to_half(serialized(made))) - answer(serialized(made))).max() < 0.01


@pytest.mark.parametrize("is_packed", [True, False])
def test_weights_are_read_in_every_form_that_onnx_has_for_them(is_packed: bool) -> None:
    model = onnx.load_model_from_string(serialized())
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).ravel().tolist()
        tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.FLOAT, tensor.dims, values))
    graph = bytes(model.SerializeToString())
    if not is_packed:  # one field per number, as old writers do
        graph = bytes(onnx.load_model_from_string(graph).SerializeToString())
        graph = _unpacked(model)
    assert (answer(to_half(graph)) == answer(to_half(serialized()))).all()


def _unpacked(model: onnx.ModelProto) -> bytes:
    """The model with the field `float_data` of `b1` written number by number."""
    (tensor,) = (one for one in model.graph.initializer if one.name == "b1")
    values = numpy_helper.to_array(tensor)
    tensor.ClearField("float_data")
    tensor.ParseFromString(
        tensor.SerializeToString()
        + b"".join(b"\x25" + np.float32(value).tobytes() for value in values)
    )
    packed = tensor.SerializeToString()
    plain = b"".join(b"\x25" + np.float32(value).tobytes() for value in values)
    marker = b"\x22" + bytes([values.nbytes]) + values.astype("<f4").tobytes()
    assert marker in packed
    # The same number of bytes, so that the sizes of the messages around stay the same.
    padding = len(plain) - len(marker)
    tensor.doc_string = "x" * (padding - 2)
    whole = bytes(model.SerializeToString())
    described = b"\x62" + bytes([padding - 2]) + b"x" * (padding - 2)
    assert marker in whole and described in whole
    return whole.replace(described, b"").replace(marker, plain)


def test_a_weight_beyond_float16_is_refused_by_name() -> None:
    large = np.full(WIDTH, 1e6, np.float32)
    with pytest.raises(ArtifactError, match="weight 'b1' has a value beyond ±65504"):
        to_half(serialized(b1=large))


def test_a_tensor_that_is_not_of_float32_is_refused_by_name() -> None:
    with pytest.raises(ArtifactError, match="'b1' is not of float32"):
        to_half(serialized(b1=np.zeros(WIDTH, np.float64)))


def test_a_graph_that_branches_is_refused_by_name() -> None:
    branch = helper.make_graph([], "branch", [], [])
    made = [
        *nodes(),
        helper.make_node("If", ["flag"], ["rest"], then_branch=branch, else_branch=branch),
    ]
    with pytest.raises(ArtifactError, match="contains a graph: it cannot be served in float16"):
        to_half(serialized(made, flag=np.array(True)))


def test_a_session_runs_the_rewritten_graph_and_a_batch_has_fixed_addresses(
    tmp_path: Path,
) -> None:
    graph = onnx.load_model_from_string(serialized())
    file = read_artifact(graphs.write_model(tmp_path, graph)).graph_file
    expected = answer(to_half(serialized()))
    session = Runtime(file, settings=GpuSettings(is_half=True, has_cuda_graphs=True))
    assert np.allclose(session.run(images()), expected, atol=1e-6)
    run = session.bound((8, graphs.SIDE, graphs.SIDE, 3))
    first = run.run(images())
    (address,) = (value.data_ptr() for value in run.binding.get_outputs())
    second = run.run(images()[::-1].copy())
    assert [value.data_ptr() for value in run.binding.get_outputs()] == [address]
    assert np.allclose(first, expected, atol=1e-6)  # not overwritten by the second run
    assert np.allclose(second, expected[::-1], atol=1e-6)
