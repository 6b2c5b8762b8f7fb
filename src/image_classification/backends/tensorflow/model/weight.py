"""A variable of TensorFlow under its neutral name, and the layout it is saved in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

Array = npt.NDArray[Any]

CONVOLUTION = (3, 2, 0, 1)  # (height, width, in, out) → (out, in, height, width)
DEPTHWISE = (2, 3, 0, 1)  # (height, width, channels, 1) → (channels, 1, height, width)
DENSE = (1, 0)  # (in, out) → (out, in)


@dataclass(frozen=True)
class Weight:
    """One tensor of a network.

    Attributes:
        variable: float32.
        axes: which axis of the variable each neutral axis is.
        learns: whether it has a gradient; running statistics have none.
    """

    variable: tf.Variable
    axes: tuple[int, ...]
    learns: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """In the neutral layout."""
        return tuple(int(self.variable.shape[axis]) for axis in self.axes)

    def neutral(self, variable: tf.Variable) -> Array:
        """A copy of a variable of this weight's layout, as it is saved."""
        return np.array(np.transpose(variable.numpy(), self.axes), order="C")

    def own(self, array: Array) -> Array:
        """A neutral array in the layout of the variable."""
        return np.ascontiguousarray(np.transpose(array, np.argsort(self.axes)))


def new_weight(array: Array, axes: Sequence[int] | None = None, learns: bool = True) -> Weight:
    """A variable that begins as a neutral array; without `axes` the layouts are the same."""
    order = tuple(range(array.ndim)) if axes is None else tuple(axes)
    own = np.ascontiguousarray(np.transpose(array, np.argsort(order)))
    return Weight(tf.Variable(own, trainable=learns, dtype=tf.float32), order, learns)
