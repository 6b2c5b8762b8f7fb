"""TensorFlow's errors about memory become a MemoryError."""

from __future__ import annotations

import pytest

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")

import tensorflow as tf

from image_classification.backends.tensorflow.engine import memory_errors
from image_classification.contract.failure import describe


def test_a_tensor_that_does_not_fit_is_a_memory_error_that_says_what_to_do() -> None:
    # The allocator is mklcpu where TensorFlow computes with oneDNN, otherwise cpu.
    message = r"^OOM when allocating tensor with shape.* by allocator (mkl)?cpu$"
    with pytest.raises(MemoryError, match=message) as e:
        with memory_errors():
            tf.function(lambda side: tf.fill([side, side], 1.0))(tf.constant(1 << 21))
    reason, code = describe(e.value)
    assert code == 2
    assert reason.startswith("ClientError: out of memory: set a smaller mini_batch_size")


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError), memory_errors():
        tf.reshape(tf.zeros([3]), [2])
