"""Which operators of PyTorch a step starts, and which of them wait for a GPU; found on any device.

A dispatch mode sees each operator that PyTorch starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from image_classification import backends
from image_classification.backends.base import ModelSpec, OptimizerSpec, Update, World
from image_classification.samples import Batch

WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal.default", "masked_select", "unique")
"""Operators that read a result on the host: a GPU would have to finish first."""

COPY = "lift_fresh"
"""Of an array of the host; waits too, unless the memory is page-locked, as that of `_tensor` is."""

SETTINGS: Sequence[tuple[dict[str, Any], dict[str, Any]]] = (
    ({}, {}),
    ({"averages_weights": True}, {"clip_gradient_norm": 1.0}),
    ({"dropout_rate": 0.3}, {"head_l2": 0.1, "name": "adam"}),
    ({"train_only_head": True}, {"name": "nag", "momentum": 0.9}),
    ({"multi_label": True, "positive_weights": (1.0, 2.0, 3.0, 4.0)}, {}),
    ({"precision": "bfloat16"}, {"name": "rmsprop"}),
)
"""Fields of the network and of the optimizer; together they take each branch of a step."""

CLASSES = 4
"""That the settings are for."""


class Operators(TorchDispatchMode):
    """Records the names of all operators."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def second_step(spec: ModelSpec, optimizer: OptimizerSpec, batch: Batch) -> list[str]:
    """Return the operators of a step, without the copies of arrays through `_tensor`."""
    engine: Any = backends.load("torch").build(spec, optimizer, World(threads=1))
    update = Update(average_decay=0.9)
    engine.train_step(batch, 0.05, update)
    copies, to_device = [], engine._tensor

    def counted(array: Any) -> Any:
        copies.append(array)
        return to_device(array)

    engine._tensor = counted
    with Operators() as operators:
        engine.train_step(batch, 0.05, update)
    for _ in copies:
        operators.names.remove(f"aten.{COPY}.default")
    return operators.names


def waiting(names: Sequence[str]) -> list[str]:
    """Return those of the operators that would wait."""
    return [name for name in names if COPY in name or any(wait in name for wait in WAITS)]
