"""Graphs that a classifier's artifact should not have, and artifacts around them that are valid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from image_classification.artifact import write_artifact
from image_classification.images.preprocessing import Preprocessing
from image_classification.labels.label_map import LabelMap

SIDE, CLASSES = 16, 3
DESCRIPTION = {"interface": "mxnet", "backend": "reference", "backbone": "resnet20"}

# `m` is the mean of each channel, which stands for a network's logits.
MEAN = (
    helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
    helper.make_node("ReduceMean", ["floats"], ["m"], axes=[1, 2], keepdims=0),
)
SOFTMAX_OF_SUM = helper.make_node("Softmax", ["sum"], ["probabilities"], axis=1)
SOFTMAX = helper.make_node("Softmax", ["m"], ["probabilities"], axis=1)


def model(
    nodes: Sequence[NodeProto],
    arrays: dict[str, object] | None = None,
    output: tuple[int, Sequence[object]] = (TensorProto.FLOAT, ("batch", CLASSES)),
    images: tuple[int, Sequence[object]] = (TensorProto.UINT8, ("batch", SIDE, SIDE, 3)),
) -> ModelProto:
    """Make a model of nodes and constants."""
    ends = [
        [helper.make_tensor_value_info(name, kind, list(shape))]
        for name, (kind, shape) in (("images", images), ("probabilities", output))
    ]
    constants = [
        numpy_helper.from_array(np.asarray(value), name) for name, value in (arrays or {}).items()
    ]
    graph = helper.make_graph(list(nodes), "graph", *ends, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def healthy() -> ModelProto:
    """Softmax of the mean of each channel."""
    return model([*MEAN, SOFTMAX])


def failing() -> ModelProto:
    """Loads, and fails at each run."""
    shape = {"s": np.array([7, 11], np.int64)}
    return model([*MEAN, helper.make_node("Reshape", ["m", "s"], ["probabilities"])], shape)


def failing_late() -> ModelProto:
    """Loads, declares what a classifier has, and fails at each run: no row has the number 7."""
    row = helper.make_node("Gather", ["m", "seven"], ["row"], axis=0)
    total = helper.make_node("Add", ["m", "row"], ["probabilities"])
    return model([*MEAN, row, total], {"seven": np.array([7], np.int64)})


def _brightness() -> list[NodeProto]:
    """Nodes that give `bright`, int64 (1,): 1 if a pixel is above 200, else 0."""
    return [
        helper.make_node("ReduceMax", ["floats"], ["highest"], keepdims=0),
        helper.make_node("Greater", ["highest", "high"], ["is_bright"]),
        helper.make_node("Cast", ["is_bright"], ["bright_scalar"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["bright_scalar", "one"], ["bright"]),
    ]


_HIGH = {"high": np.float32(200), "one": np.array([1], np.int64)}


def failing_if_bright() -> ModelProto:
    """Healthy with dark images, as when it is loaded; fails with bright ones."""
    nodes = [
        *(*MEAN, *_brightness()),
        helper.make_node("Gather", ["m", "bright"], ["row"], axis=0),  # of a batch of one
        helper.make_node("Mul", ["row", "zero"], ["nothing"]),
        helper.make_node("Add", ["m", "nothing"], ["sum"]),
        SOFTMAX_OF_SUM,
    ]
    return model(nodes, {**_HIGH, "zero": np.float32(0)})


def filling_if_bright(floats: int) -> ModelProto:
    """Asks for memory, and writes to all of it, with bright images alone."""
    nodes = [
        *(*MEAN, *_brightness()),
        helper.make_node("Mul", ["bright", "many"], ["size"]),
        helper.make_node(
            "ConstantOfShape",
            ["size"],
            ["filled"],
            value=numpy_helper.from_array(np.ones(1, np.float32)),
        ),
        helper.make_node("ReduceSum", ["filled"], ["sum_of_many"], keepdims=0),
        helper.make_node("Mul", ["sum_of_many", "zero"], ["nothing"]),
        helper.make_node("Add", ["m", "nothing"], ["sum"]),
        SOFTMAX_OF_SUM,
    ]
    return model(nodes, {**_HIGH, "zero": np.float32(0), "many": np.array([floats], np.int64)})


def slow_if_bright(side: int) -> ModelProto:
    """Multiplies matrices of this side, fifty times, with bright images alone."""
    size = helper.make_node("Mul", ["bright", "side"], ["size"])
    arrays = {**_HIGH, "side": np.array([side], np.int64)}
    return _multiplying([*MEAN, *_brightness(), size], arrays)


def slow(side: int) -> ModelProto:
    """Multiplies matrices of this side, fifty times, with any image."""
    nodes = [
        helper.make_node("Mul", ["bright", "zeros"], ["nothing_yet"]),  # unknown while it loads
        helper.make_node("Add", ["nothing_yet", "side"], ["size"]),
    ]
    arrays = {**_HIGH, "side": np.array([side], np.int64), "zeros": np.array([0], np.int64)}
    return _multiplying([*MEAN, *_brightness(), *nodes], arrays)


def slow_to_load(side: int) -> ModelProto:
    """Multiplies constants, which ONNX Runtime computes while it loads the graph."""
    size = helper.make_node("Identity", ["side"], ["size"])
    return _multiplying([*MEAN, size], {"side": np.array([side], np.int64)})


def _multiplying(nodes: list[NodeProto], arrays: dict[str, object]) -> ModelProto:
    ones = numpy_helper.from_array(np.ones(1, np.float32))
    nodes.append(helper.make_node("Concat", ["size", "size"], ["square"], axis=0))
    nodes.append(helper.make_node("ConstantOfShape", ["square"], ["x0"], value=ones))
    for number in range(50):
        names = [f"x{number}", f"x{number}"]
        nodes.append(helper.make_node("MatMul", names, [f"y{number}"]))
        nodes.append(helper.make_node("Tanh", [f"y{number}"], [f"x{number + 1}"]))
    nodes += [
        helper.make_node("ReduceSum", ["x50"], ["sum_of_many"], keepdims=0),
        helper.make_node("Mul", ["sum_of_many", "zero"], ["nothing"]),
        helper.make_node("Add", ["m", "nothing"], ["sum"]),
        SOFTMAX_OF_SUM,
    ]
    return model(nodes, {**arrays, "zero": np.float32(0)})


def huge(floats: int) -> ModelProto:
    """Asks for memory at each run, whatever the image."""
    nodes = [
        *MEAN,
        helper.make_node("ConstantOfShape", ["many"], ["c"]),
        helper.make_node("ReduceSum", ["c"], ["r"], keepdims=0),
        helper.make_node("Add", ["m", "r"], ["probabilities"]),
    ]
    return model(nodes, {"many": np.array([floats], np.int64)})


def endless() -> ModelProto:
    """A Loop without an end."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Identity", ["x"], ["same"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("same", TensorProto.FLOAT, None),
        ],
    )
    loop = helper.make_node("Loop", ["", "true", "m"], ["probabilities"], body=body)
    return model([*MEAN, loop], {"true": np.array(True)})


def not_a_number() -> ModelProto:
    """Gives NaN for every class."""
    return model(
        [*MEAN, helper.make_node("Mul", ["m", "nan"], ["probabilities"])],
        {"nan": np.float32(np.nan)},
    )


def external(location: str) -> ModelProto:
    """Takes a constant from another file."""
    made = model(
        [*MEAN, helper.make_node("Add", ["m", "w"], ["probabilities"])], {"w": np.zeros(3, "f4")}
    )
    tensor = made.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return made


def foreign(domain: str = "com.example") -> ModelProto:
    """Has an operator that ONNX does not define."""
    node = helper.make_node("Steal", ["m"], ["probabilities"], domain=domain)
    made = model([*MEAN, node])
    made.opset_import.append(helper.make_opsetid(domain, 1))
    return made


def write_model(folder: Path, graph: ModelProto | bytes, side: int = SIDE) -> Path:
    """Write a valid artifact around a graph; return its folder."""
    content = graph if isinstance(graph, bytes) else graph.SerializeToString()
    labels = LabelMap(tuple(f"class{number}" for number in range(CLASSES)))
    writers: dict[str, Callable[[Path], object]] = {
        "model.onnx": lambda path: path.write_bytes(content),
        "weights.safetensors": lambda path: path.write_bytes(b""),
    }
    write_artifact(folder, DESCRIPTION, labels, Preprocessing(side, side), writers)
    return folder
