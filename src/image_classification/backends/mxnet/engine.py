"""The MXNet engine; `build` loads MXNet, because the number of threads must be set before."""

from __future__ import annotations

import importlib
import importlib.util

from image_classification.backends import import_errors
from image_classification.backends import mxnet as process
from image_classification.backends.base import Engine, ModelSpec, OptimizerSpec, World
from image_classification.backends.pretrained import pretrained_state

__all__ = ["build", "pretrained_state"]


if importlib.util.find_spec("mxnet") is None:
    raise ImportError(
        "No module named 'mxnet': MXNet 1.9.1 is for Python 3.10 and 3.11, with NumPy 1.23",
        name="mxnet",
    )


def build(spec: ModelSpec, optimizer: OptimizerSpec, world: World) -> Engine:
    """A model with fresh weights and its optimizer, on this process's device.

    Raises:
        BackendError: the backbone or the optimizer does not exist, the backbone cannot be built
            for that input, or MXNet cannot be loaded.
    """
    process.prepare(world.threads)
    beside = "Python 3.10 or 3.11, NumPy 1.23 and the system's libgomp1 and libquadmath0"
    with import_errors("backend 'mxnet' needs MXNet", "mxnet", beside):
        training = importlib.import_module(f"{__package__}.step")
    engine: Engine = training.MXNetEngine(spec, optimizer, world)
    return engine
