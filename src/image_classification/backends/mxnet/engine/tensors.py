"""Tensors by name that lie one behind the other in one array, so that one operator reaches all.

An optimiser's formula, a norm, an average or a copy to the host is then a handful of operators a
step instead of a handful for each of some hundred tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mxnet as mx
import numpy as np
import numpy.typing as npt

from image_classification.data.samples import FloatArray

Shapes = Mapping[str, tuple[int, ...]]


class Tensors:
    """Float32 tensors in one array.

    Args:
        shapes: by name, in the order they lie in.
        context: MXNet device.

    Attributes:
        flat: the array, (sum of sizes,); (1,) where there are none.
        views: each tensor; writing to it writes to `flat`.
    """

    def __init__(self, shapes: Shapes, context: Any) -> None:
        sizes = [int(np.prod(shape)) for shape in shapes.values()]
        ends = np.cumsum(sizes, dtype=np.int64).tolist()
        self.flat = mx.nd.zeros(max(1, sum(sizes)), ctx=context)
        self.views = {
            name: self.flat[end - size : end].reshape(shape)
            for (name, shape), size, end in zip(shapes.items(), sizes, ends, strict=True)
        }

    def write(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Copy these in; the others stay as they are."""
        for name, array in arrays.items():
            self.views[name][:] = np.asarray(array, np.float32)

    def read(self) -> dict[str, FloatArray]:
        """A copy of each on the host; waits for the device."""
        host, start, arrays = self.flat.asnumpy(), 0, {}
        for name, view in self.views.items():
            arrays[name] = host[start : start + view.size].reshape(view.shape).copy()
            start += view.size
        return arrays
