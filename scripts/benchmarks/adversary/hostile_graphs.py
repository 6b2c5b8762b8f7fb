"""ONNX graphs that fail, never end, ask for too much memory or reach outside, built with onnx."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_OPSET, _IR = 17, 8
_ENDLESS = 2**62
_PRODUCTS = 300  # of 4,000 × 4,000 numbers: some seconds each
_BRIGHT = (
    200  # of 255: some pixel of a photograph is, none of the picture that a server begins with
)


def hostile_graphs(shape: Sequence[int], classes: int) -> dict[str, bytes]:
    """Return name → graph; each takes uint8 N·H·W·C pictures and promises (N, classes).

    Raises:
        ImportError: the package onnx is not installed.
    """
    graphs = _Graphs(shape, classes)
    return {
        "Reshape that fails": graphs.failing_reshape(),
        "Reshape that fails for bright pictures": graphs.failing_reshape(is_for_bright=True),
        "Loop without end": graphs.endless(),
        "Loop without end for bright pictures": graphs.endless(is_for_bright=True),
        "products without end": graphs.products(),
        "products without end for bright pictures": graphs.products(is_for_bright=True),
        "products without end of constants": graphs.products(is_constant=True),
        "128 TiB": graphs.memory(2**45),
        "1 TiB that grows": graphs.memory(2**38, is_expanded=True),
        "3 GiB": graphs.memory(3 * 2**28),
        "3 GiB for bright pictures": graphs.memory(3 * 2**28, is_for_bright=True),
        "128 TiB for bright pictures": graphs.memory(2**45, is_for_bright=True),
        "answers of another shape": graphs.wrong_shape(),
        "answers that are not numbers": graphs.not_numbers(),
        "answers of integers": graphs.integers(),
        "an input of another shape": graphs.wrong_input(),
        "custom operator": graphs.custom(),
        "data outside": graphs.external("../../../../../../etc/passwd"),
        "half a graph": graphs.not_numbers()[:100],
        "no graph": b"",
        "10,000 nodes": graphs.long(10_000),
    }


class _Graphs:
    def __init__(self, shape: Sequence[int], classes: int) -> None:
        import numpy
        from onnx import TensorProto, helper, numpy_helper

        self._np, self._helper, self._types = numpy, helper, TensorProto
        self._tensor = numpy_helper.from_array
        self._shape, self._classes = list(shape), classes

    def failing_reshape(self, is_for_bright: bool = False) -> bytes:
        """Reshape to a number of elements that no picture has."""
        wanted = self._known("wanted", [7, 11, 13], self._np.int64)
        reshape = self._node("Reshape", ["numbers", "wanted"], "odd")
        return self._failing([reshape], [wanted], is_for_bright)

    def memory(self, count: int, is_for_bright: bool = False, is_expanded: bool = False) -> bytes:
        """A tensor of `count` elements of 4 bytes each, made when the graph runs."""
        size = self._known("size", [count], self._np.int64)
        zero = self._known("zero", [0], self._np.float32)
        node = (
            self._node("Expand", ["zero", "size"], "odd")
            if is_expanded
            else self._node("ConstantOfShape", ["size"], "odd")
        )
        return self._failing([node], [size, zero], is_for_bright)

    def endless(self, is_for_bright: bool = False) -> bytes:
        """A Loop whose condition stays true; or is what a picture says."""
        value, types = self._helper.make_tensor_value_info, self._types
        body = self._helper.make_graph(
            [
                self._node("Identity", ["condition"], "goes_on"),
                self._node("Add", ["sum", "sum"], "next"),
            ],
            "body",
            [
                value("number", types.INT64, []),
                value("condition", types.BOOL, []),
                value("sum", types.FLOAT, [1]),
            ],
            [value("goes_on", types.BOOL, []), value("next", types.FLOAT, [1])],
        )
        known = [
            self._known("begin", [0], self._np.float32),
            self._known("limit", _ENDLESS, self._np.int64),
            self._known("yes", True, self._np.bool_),
        ]
        condition = "bright" if is_for_bright else "yes"
        loop = self._node("Loop", ["limit", condition, "begin"], "end", body=body)
        answer = self._node("Add", ["fine", "end"], "odd")
        return self._model([*self._before(), loop, answer, *self._answer()], known)

    def products(self, is_for_bright: bool = False, is_constant: bool = False) -> bytes:
        """A quarter of an hour of products without a loop; a load may fold those of constants."""
        known = [
            self._known("side", [4000, 4000], self._np.int64),
            self._known("zero", 0, self._np.float32),
        ]
        nodes = [
            self._node("ConstantOfShape", ["side"], "flat"),
            self._node("ReduceMin", ["numbers"], "darkest", keepdims=0),
            self._node("Add", ["flat", "zero" if is_constant else "darkest"], "p0"),
        ]
        nodes += [self._node("MatMul", [f"p{n}"] * 2, f"p{n + 1}") for n in range(_PRODUCTS)]
        nodes.append(self._node("Identity", [f"p{_PRODUCTS}"], "odd"))
        return self._failing(nodes, known, is_for_bright)

    def _failing(self, nodes: list[Any], known: list[Any], is_for_bright: bool) -> bytes:
        """Return a graph whose nodes fail: for each picture, or for bright ones alone."""
        before = self._before()
        if not is_for_bright:
            least = self._node("ReduceMin", ["odd"], "least", keepdims=0)
            answer = self._node("Add", ["fine", "least"], "answer")
            return self._model([*before, *nodes, least, answer, *self._answer("answer")], known)
        out = self._helper.make_tensor_value_info
        branches = {}
        for key, inner in (("then_branch", nodes), ("else_branch", [])):
            name = f"{key}_out"
            inner_nodes = [
                *inner,
                self._node("ReduceMin", ["odd" if inner else "numbers"], name, keepdims=0),
            ]
            result = [out(name, self._types.FLOAT, None)]
            branches[key] = self._helper.make_graph(inner_nodes, key, [], result)
        choice = self._helper.make_node("If", ["bright"], ["least"], **branches)
        nothing = self._known("nothing", 0, self._np.float32)
        times = self._node("Mul", ["least", "nothing"], "zeroed")
        answer = self._node("Add", ["fine", "zeroed"], "answer")
        after = [choice, times, answer, *self._answer("answer")]
        return self._model([*before, *after], [*known, nothing])

    def wrong_shape(self) -> bytes:
        three = self._tensor(self._np.array([3, 7], self._np.int64), "three")
        return self._model([self._node("ConstantOfShape", ["three"], "odd"), *self._answer()],
                           [three])  # fmt: skip

    def not_numbers(self) -> bytes:
        nan = self._tensor(self._np.full((1, self._classes), self._np.nan, "f4"), "odd")
        return self._model(self._answer(), [nan])

    def integers(self) -> bytes:
        ones = self._tensor(self._np.ones((1, self._classes), self._np.int64), "odd")
        return self._model(self._answer(), [ones], self._types.INT64)

    def wrong_input(self) -> bytes:
        nan = self._tensor(self._np.zeros((1, self._classes), "f4"), "odd")
        return self._model(self._answer(), [nan], shape=[5, 5, 1])

    def custom(self) -> bytes:
        node = self._helper.make_node("Anything", ["images"], ["odd"], domain="org.example")
        return self._model([node, *self._answer()], [], domain="org.example")

    def external(self, place: str) -> bytes:
        """Weights in a file outside the folder of the artifact."""
        tensor = self._types()
        tensor.name, tensor.data_type = "odd", self._types.FLOAT
        tensor.dims.extend([1, self._classes])
        tensor.data_location = self._types.EXTERNAL
        for key, value in (("location", place), ("offset", "0"), ("length", "4000")):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        return self._model(self._answer(), [tensor])

    def long(self, count: int) -> bytes:
        nodes = [self._node("Identity", ["images"], "x0")]
        nodes += [self._node("Identity", [f"x{n}"], f"x{n + 1}") for n in range(count)]
        nan = self._tensor(self._np.zeros((1, self._classes), "f4"), "odd")
        return self._model([*nodes, *self._answer()], [nan])

    def _before(self) -> list[Any]:
        """Return nodes that make `numbers`, whether they are `bright`, and a `fine` answer."""
        even = self._tensor(self._np.full(1, 1 / self._classes, "f4"), "even")
        return [
            self._helper.make_node("Cast", ["images"], ["numbers"], to=self._types.FLOAT),
            self._node("ReduceMax", ["numbers"], "most", keepdims=0),
            self._node("Greater", ["most", "threshold"], "bright"),
            self._node("Shape", ["images"], "count", end=1),
            self._node("Concat", ["count", "classes"], "size_of_answer", axis=0),
            self._node("ConstantOfShape", ["size_of_answer"], "fine", value=even),
        ]

    def _known(self, name: str, value: object, kind: Any) -> Any:
        return self._tensor(self._np.array(value, kind), name)

    def _answer(self, name: str = "odd") -> list[Any]:
        return [self._node("Identity", [name], "probabilities")]

    def _node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return self._helper.make_node(operator, inputs, [output], **attributes)

    def _model(
        self, nodes: list[Any], known: list[Any], kind: int = 0, domain: str = "",
        shape: list[int] | None = None,
    ) -> bytes:  # fmt: skip
        value = self._helper.make_tensor_value_info
        known = [
            *known,
            self._known("threshold", _BRIGHT, self._np.float32),
            self._known("classes", [self._classes], self._np.int64),
        ]
        graph = self._helper.make_graph(
            nodes,
            "hostile",
            [value("images", self._types.UINT8, ["N", *(shape or self._shape)])],
            [value("probabilities", kind or self._types.FLOAT, None)],
            known,
        )
        sets = [self._helper.make_opsetid("", _OPSET)]
        sets += [self._helper.make_opsetid(domain, 1)] if domain else []
        model = self._helper.make_model(graph, opset_imports=sets, ir_version=_IR)
        return bytes(model.SerializeToString())
