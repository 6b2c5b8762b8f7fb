"""Too little memory is said to be that, whichever allocator of PyTorch found it out."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("torch")

import torch

from image_classification import backends
from image_classification.backends.base import OptimizerSpec, World
from image_classification.backends.torch.engine.memory import memory_errors
from image_classification.contract.failure import describe
from tests.unit.torch_cases import change

STEP = """
import resource
import numpy as np
from image_classification import backends
from image_classification.backends.base import ModelSpec, OptimizerSpec, World
from image_classification.data.samples import Batch

shape = (3, 224, 224)
spec = ModelSpec("resnet20", 2, shape, (127.0,) * 3, (128.0,) * 3)
engine = backends.load("torch").build(spec, OptimizerSpec(), World())
images = np.zeros((64, 224, 224, 3), np.uint8)
targets = np.tile(np.float32((1, 0)), (64, 1))
batch = Batch(images, targets, np.ones(64, np.float32), ("",) * 64)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20),) * 2)
for step in (lambda: engine.train_step(batch, 0.1), lambda: engine.predict_step(images)):
    try:
        step()
    except MemoryError as error:
        print("MemoryError:", error)
"""


def test_a_step_that_does_not_fit_is_a_memory_error() -> None:
    done = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True)
    assert done.stdout.count("MemoryError: ") == 2, done.stdout + done.stderr


def test_a_model_that_does_not_fit_is_a_memory_error_that_says_what_to_do() -> None:
    with pytest.raises(MemoryError, match=r"on cpu: .*allocate") as caught:
        backends.load("torch").build(change(classes=1 << 44), OptimizerSpec(), World())
    reason, code = describe(caught.value)
    assert code == 2
    assert reason.startswith("ClientError: out of memory: set a smaller mini_batch_size")


def test_an_error_of_a_gpus_allocator_is_a_memory_error_without_its_settings() -> None:
    said = "CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has 15 GiB of which 1 is free. Set X"
    with pytest.raises(MemoryError, match=r"on cuda:0: CUDA out of memory.*1 is free$"):
        with memory_errors(torch.device("cuda", 0)):
            raise torch.OutOfMemoryError(said)


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory_errors(torch.device("cpu")):
        raise RuntimeError("shapes differ")
