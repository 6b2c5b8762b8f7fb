"""The number format of a training step: float32, bfloat16, or float16 with a scaled loss.

Weights, statistics, the head, the optimiser and predictions stay float32. float16 has few
exponents: its loss is scaled so that small gradients do not vanish, and an update whose gradients
overflow is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from image_classification.backends.base import OPTIMIZER_PREFIX, State

_SCALE = OPTIMIZER_PREFIX + "loss_scale"
_AGE = OPTIMIZER_PREFIX + "loss_scale_age"
_FIRST_SCALE = 65536.0
_GROWTH_STEPS = 2000  # updates without overflow after which the scale doubles

_logger = logging.getLogger(__name__)


class Precision:
    """The format of the trunk and, for float16, the scale of the loss.

    Args:
        dtype: tf.float32, tf.bfloat16 or tf.float16.
    """

    def __init__(self, dtype: tf.DType) -> None:
        self.dtype = dtype
        self._is_scaled = dtype == tf.float16
        self._scale = tf.Variable(_FIRST_SCALE if self._is_scaled else 1.0)
        self._age = tf.Variable(0, dtype=tf.int64)

    def scaled(self, objective: tf.Tensor) -> tf.Tensor:
        """What is differentiated instead of the objective."""
        return objective * self._scale if self._is_scaled else objective

    def update(
        self, gradients: Sequence[tf.Tensor], apply: Callable[[Sequence[tf.Tensor]], None]
    ) -> None:
        """Apply the unscaled gradients, unless they overflowed; then adapt the scale."""
        if not self._is_scaled:
            apply(gradients)
            return
        unscaled = [gradient / self._scale for gradient in gradients]
        finite = [tf.reduce_all(tf.math.is_finite(gradient)) for gradient in unscaled]
        if tf.reduce_all(finite):
            apply(unscaled)
            self._age.assign_add(1)
            if self._age >= _GROWTH_STEPS:
                self._scale.assign(self._scale * 2.0)
                self._age.assign(0)
        else:
            self._scale.assign(self._scale / 2.0)
            self._age.assign(0)

    def state(self) -> State:
        """The loss scale and for how many updates it has held; nothing but for float16."""
        if not self._is_scaled:
            return {}
        return {
            _SCALE: np.array(self._scale.numpy(), np.float64),
            _AGE: np.array(self._age.numpy(), np.int64),
        }

    def load(self, state: State) -> None:
        """Go on with the scale of an engine's state, where it has one."""
        scale, age = state.get(_SCALE), state.get(_AGE)
        if self._is_scaled and scale is not None and age is not None:
            self._scale.assign(float(scale))
            self._age.assign(int(age))


def precision_of(name: str, device: str) -> Precision:
    """The precision that was asked for; float32 with a warning on a CPU.

    Args:
        name: "auto" (bfloat16 on a GPU, else float32), "float32", "bfloat16" or "float16".
        device: of the engine.
    """
    has_gpu = "GPU" in device
    if name == "auto":
        name = "bfloat16" if has_gpu else "float32"
    if name != "float32" and not has_gpu:
        _logger.warning("precision=%s: TensorFlow computes in float32 on a CPU", name)
        name = "float32"
    return Precision(tf.as_dtype(name))
