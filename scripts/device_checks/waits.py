"""A training step hands its work to the GPU and never waits for it.

On a GPU, PyTorch itself reports each call that waits. On the CPU, where nothing waits, the names of
the operators tell which would.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from device_checks import networks, operators
from device_checks.one import Given
from image_classification.backends.base import ModelSpec, OptimizerSpec, Update
from image_classification.samples import Batch

_SPEC = replace(networks.spec_of("resnet20", 32), classes=operators.CLASSES)
_RATE = 0.05
_FLOAT16: tuple[dict[str, Any], dict[str, Any]] = ({"precision": "float16"}, {})


def run(given: Given) -> None:
    batch = _batch(given.size(64, 4))
    settings = given.size([*operators.SETTINGS, _FLOAT16], operators.SETTINGS[:3])
    find = _names if given.cpu else _reported
    for fields, optimizer in settings:
        found = find(replace(_SPEC, **fields), OptimizerSpec(**optimizer), batch)
        given.rows.expect(f"waits: {_text(fields, optimizer)}", "; ".join(found) or "none", "none")


def _names(spec: ModelSpec, optimizer: OptimizerSpec, batch: Batch) -> Sequence[str]:
    return operators.waiting(operators.second_step(spec, optimizer, batch))


def _reported(spec: ModelSpec, optimizer: OptimizerSpec, batch: Batch) -> Sequence[str]:
    """Return the first call of the product's that waits in a later step, with its place."""
    engine = networks.build(spec, optimizer)
    update = Update(average_decay=0.9)
    for _ in range(2):  # the first ones allocate, and choose kernels
        engine.train_step(batch, _RATE, update)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        engine.train_step(batch, _RATE, update)
    except RuntimeError as error:
        return [f"{error} at {_place(error)}"]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return []


def _place(error: BaseException) -> str:
    """Return the product's innermost line, or the innermost one."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/image_classification/" in frame.filename]
    frame = (own or frames)[-1]
    return f"{frame.filename.rpartition('/image_classification/')[2]}:{frame.lineno}"


def _batch(size: int) -> Batch:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (size, *_SPEC.input_shape[1:], 3), np.uint8)
    targets = np.eye(operators.CLASSES, dtype=np.float32)[np.arange(size) % operators.CLASSES]
    return Batch(images, targets, np.ones(size, np.float32), ("",) * size)


def _text(*fields: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for group in fields for k, v in group.items()) or "defaults"
