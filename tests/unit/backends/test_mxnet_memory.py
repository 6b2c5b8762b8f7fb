"""MXNet's errors about memory, which have no type and may be late, become a MemoryError."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("mxnet", reason="MXNet is not installed (Python 3.10 or 3.11, NumPy 1.23)")

import mxnet as mx

from image_classification.backends.mxnet.engine import memory_errors
from tests.unit.backends.torch_cases import STEP_WITHOUT_MEMORY


def test_a_step_that_does_not_fit_is_a_memory_error() -> None:
    script = STEP_WITHOUT_MEMORY.replace('"torch"', '"mxnet"').replace(
        "(batch, 0.1)", "(batch, 0.1).fetch()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    # MXNet may not survive what the program does after that; a job ends there.
    first = "MemoryError: Failed to allocate CPU Memory\n"
    assert done.stdout.startswith(first), done.stdout + done.stderr


@pytest.mark.parametrize(
    "said",
    [
        "cudaMalloc failed: out of memory",
        "Check failed: e == CUBLAS_STATUS_SUCCESS: CUBLAS: CUBLAS_STATUS_ALLOC_FAILED",
        "Check failed: e == CUDNN_STATUS_SUCCESS: cuDNN: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_an_error_of_a_gpu_without_memory_is_a_memory_error(said: str) -> None:
    with pytest.raises(MemoryError) as caught, memory_errors():
        raise mx.base.MXNetError(f'File "pooled_storage_manager.h", line 161\nMXNetError: {said}')
    assert str(caught.value) == said


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(mx.base.MXNetError), memory_errors():
        mx.nd.zeros((2, 3)).reshape((4, 4)).asnumpy()
