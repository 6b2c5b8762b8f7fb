"""What a graph may have, and what is refused by name before ONNX Runtime opens it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    helper,
    numpy_helper,
)

from image_classification.artifact import open_artifact, read_artifact
from image_classification.errors import ArtifactError
from image_classification.serving.graph_file import check_graph
from image_classification.serving.models import Model
from image_classification.serving.runtime import Runtime
from tests import graphs

TWICE = helper.make_node("Concat", ["m", "m"], ["probabilities"], axis=1)
ARTIFACTS = sorted((Path(__file__).parents[2] / "golden" / "artifacts").glob("*.tar.gz"))


def inside_an_if(node: NodeProto, **tensors: TensorProto) -> ModelProto:
    """A healthy model with a node or constants in a branch of an If, in another If's branch."""
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    branch: GraphProto = helper.make_graph([node], "branch", [], [output])
    branch.initializer.extend(tensors.values())
    for depth in range(2):
        both = {"then_branch": branch, "else_branch": branch}
        choice = helper.make_node("If", ["yes"], ["out"], **both)
        branch = helper.make_graph([choice], f"outer{depth}", [], [output])
    made = graphs.model([*graphs.MEAN, graphs.SOFTMAX], {"yes": np.array(True)})
    made.graph.node.append(branch.node[0])
    return made


def external_tensor() -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def with_function() -> ModelProto:
    made = graphs.foreign("local")
    body = [helper.make_node("Identity", ["x"], ["y"])]
    opsets = [helper.make_opsetid("", 17)]
    made.functions.append(helper.make_function("local", "Steal", ["x"], ["y"], body, opsets))
    return made


def with_sparse_tensor() -> ModelProto:
    made = graphs.healthy()
    values = numpy_helper.from_array(np.ones(1, np.float32), "w")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    made.graph.sparse_initializer.append(
        SparseTensorProto(values=values, indices=indices, dims=[2**50])
    )
    return made


def with_large_tensor(*dims: int) -> ModelProto:
    made = graphs.healthy()
    made.graph.initializer.append(TensorProto(name="w", data_type=1, dims=dims, raw_data=bytes(8)))
    return made


def with_training() -> ModelProto:
    made = graphs.healthy()
    made.training_info.add().algorithm.CopyFrom(graphs.endless().graph)
    return made


@pytest.mark.parametrize("archive", ARTIFACTS, ids=lambda path: path.name)
def test_the_graphs_of_earlier_artifacts_are_accepted(archive: Path) -> None:
    with open_artifact(archive) as artifact:
        check_graph(artifact.graph_file.read())


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (graphs.external("/etc/passwd"), "external data"),
        (graphs.external("../outside"), "external data"),
        (
            inside_an_if(helper.make_node("Constant", [], ["out"], value=external_tensor())),
            "extern",
        ),
        (inside_an_if(helper.make_node("Identity", ["w"], ["out"]), w=external_tensor()), "extern"),
        (graphs.foreign(), r"'Steal' of the domain 'com.example'"),
        (graphs.foreign("com.microsoft"), "com.microsoft"),
        (inside_an_if(helper.make_node("Steal", ["m"], ["out"], domain="x")), "no custom ones"),
        (graphs.endless(), "Loop"),
        (inside_an_if(graphs.endless().graph.node[-1]), "Loop"),
        (inside_an_if(helper.make_node("Scan", ["m"], ["out"])), "Scan"),
        (inside_an_if(helper.make_node("SequenceMap", ["m"], ["out"])), "SequenceMap"),
        (with_function(), "function"),
        (with_sparse_tensor(), "sparse"),
        (with_training(), "training"),
        (with_large_tensor(2**40), "1099511627776 elements"),
        (with_large_tensor(2**30, 2**34), "elements"),
        (with_large_tensor(-1), "elements"),
        (with_large_tensor(*[1] * 101), "elements"),
    ],
)
def test_what_our_exporters_never_write_is_refused_by_name(made: ModelProto, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        check_graph(made.SerializeToString())


def test_what_is_refused_is_found_in_every_repetition_of_a_field() -> None:
    """Protocol Buffers join the parts of a message that occurs twice; the last number counts."""
    two_graphs = graphs.healthy().SerializeToString() + graphs.endless().SerializeToString()
    tensor = TensorProto(name="w", data_type=1, dims=[1], raw_data=bytes(4))
    twice = tensor.SerializeToString() + b"\x70\x81\x00" + b"\x70\x00"  # data_location 1, then 0
    made = graphs.healthy()
    made.graph.initializer.append(tensor)
    whole, part = made.SerializeToString(), tensor.SerializeToString()
    graph = made.graph.SerializeToString()
    for content in (two_graphs, whole.replace(graph, b"")):
        with pytest.raises(ArtifactError):
            check_graph(content)
    longer = graph.replace(bytes([0x2A, len(part)]) + part, bytes([0x2A, len(twice)]) + twice)
    assert longer != graph
    with pytest.raises(ArtifactError, match="external data"):
        check_graph(b"\x3a" + bytes([len(longer) & 127 | 128, len(longer) >> 7]) + longer)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"junk",
        bytes(100),
        b"\xff" * 100,
        b"\x0b" * 50,
        b"\x3a\xff\xff\xff\xff\x7f",
        b"abcdORTM",
    ],
)
def test_what_is_no_onnx_model_is_refused(content: bytes) -> None:
    with pytest.raises(ArtifactError):
        check_graph(content)


def test_deep_and_long_graphs_are_refused_in_bounded_time() -> None:
    deep = b""
    for _ in range(300):
        for tag in (0x32, 0x2A, 0x0A):  # an attribute's graph, a node's attribute, a graph's node
            length, size = bytearray(), len(deep)
            while size > 127:
                length.append(size & 127 | 128)
                size >>= 7
            deep = bytes([tag, *length, size]) + deep
    for content, message in ((deep, "nested"), (b"\x0a\x00" * 600_000, "fields")):
        length = len(content)
        head = bytes([0x3A] + [length >> 7 * n & 127 | 128 for n in range(4)] + [length >> 28])
        with pytest.raises(ArtifactError, match=message):
            check_graph(head + content)


def test_a_changed_byte_of_a_graph_is_accepted_or_refused_but_nothing_else() -> None:
    content = bytearray(graphs.failing_if_bright().SerializeToString())
    chance = random.Random(0)
    for _ in range(3000):
        changed = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        try:
            check_graph(bytes(changed[: chance.choice((None, chance.randrange(len(changed))))]))
        except ArtifactError:
            pass


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (graphs.model([*graphs.MEAN, TWICE], output=(1, ("n", 6))), r"shape \(any, 3\), got .* 6"),
        (graphs.model([*graphs.MEAN, graphs.SOFTMAX], output=(1, (1, 3))), "shape"),
        (graphs.model([*graphs.MEAN, graphs.SOFTMAX], images=(2, (1, 16, 16, 3))), "shape"),
        (graphs.model([*graphs.MEAN, graphs.SOFTMAX], images=(2, ("n", 8, 16, 3))), "shape"),
        (graphs.model([*graphs.MEAN, graphs.SOFTMAX], images=(1, ("n", 16, 16, 3))), "uint8"),
        (graphs.failing(), "shape"),
        (graphs.failing_late(), "the graph fails on 1 image"),
        # Versions of ONNX Runtime ask for that memory at different times.
        (graphs.huge(2**45), "the graph fails on 1 image|ONNX Runtime cannot load it"),
        (graphs.not_a_number(), "with NaN or infinity"),
        (b"\x08\x08\x3a\x00", "ONNX Runtime cannot load it"),
        (
            graphs.healthy().SerializeToString().replace(b"images", b"im\xffges"),
            "ONNX Runtime cannot load it",
        ),
    ],
)
def test_a_graph_that_is_no_classifier_is_the_artifacts_fault(
    made: ModelProto | bytes, message: str, tmp_path: Path
) -> None:
    artifact = read_artifact(graphs.write_model(tmp_path, made))
    with pytest.raises(ArtifactError, match=message):
        Model(artifact, Runtime(artifact.graph_file))


def test_the_graph_that_is_loaded_is_the_one_that_was_verified(tmp_path: Path) -> None:
    artifact = read_artifact(graphs.write_model(tmp_path, graphs.healthy()))
    for content in (graphs.failing().SerializeToString(), b"", bytes(10**6)):
        artifact.model_file.write_bytes(content)
        with pytest.raises(ArtifactError, match="changed since it was written"):
            Runtime(artifact.graph_file)
    artifact.model_file.unlink()
    with pytest.raises(ArtifactError, match="missing"):
        Runtime(artifact.graph_file)
