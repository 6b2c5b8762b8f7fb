"""PyTorch's errors about memory become a MemoryError, from every allocator."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("torch")

import torch

from image_classification import backends
from image_classification.backends.base import OptimizerSpec, World
from image_classification.backends.torch.engine import memory_errors
from image_classification.contract.failure import describe
from tests.unit.backends.torch_cases import STEP_WITHOUT_MEMORY, change


def test_a_step_that_does_not_fit_is_a_memory_error() -> None:
    done = subprocess.run(
        [sys.executable, "-c", STEP_WITHOUT_MEMORY], capture_output=True, text=True
    )
    assert done.stdout.count("MemoryError: ") == 2, done.stdout + done.stderr


def test_a_model_that_does_not_fit_is_a_memory_error_that_says_what_to_do() -> None:
    with pytest.raises(MemoryError, match=r"on cpu: .*allocate") as caught:
        backends.load("torch").build(change(classes=1 << 44), OptimizerSpec(), World())
    reason, code = describe(caught.value)
    assert code == 2
    assert reason.startswith("ClientError: out of memory: set a smaller mini_batch_size")


def test_an_error_of_the_gpu_allocator_is_a_memory_error_without_pytorchs_advice() -> None:
    said = "CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has 15 GiB of which 1 is free. Set X"
    with pytest.raises(MemoryError, match=r"on cuda:0: CUDA out of memory.*1 is free$"):
        with memory_errors(torch.device("cuda", 0)):
            raise torch.OutOfMemoryError(said)


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    ],
)
def test_an_allocation_that_a_cuda_library_misses_is_a_memory_error(said: str) -> None:
    with pytest.raises(MemoryError) as caught, memory_errors(torch.device("cuda", 0)):
        raise RuntimeError(said)
    assert str(caught.value) == f"on cuda:0: {said.splitlines()[0]}"


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_errors(torch.device("cpu")):
        raise RuntimeError("shapes differ")
