"""The usual loop in PyTorch, on a GPU if there is one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from image_classification.backends.base import ModelSpec
from image_classification.backends.torch import model
from image_classification.samples import Batch


def device() -> torch.device:
    """Return the device of the steps."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build(
    spec: ModelSpec, batch: Batch, rate: float, momentum: float, precision: str = "float32"
) -> Callable[[], float]:
    """Return a step on the same batch each time; it returns the loss."""
    step = deferred(spec, batch, rate, momentum, precision)
    return lambda: float(step())


def deferred(
    spec: ModelSpec, batch: Batch, rate: float, momentum: float, precision: str = "float32"
) -> Callable[[], torch.Tensor]:
    """Return a step that does not wait for its loss, as a fast loop does.

    Args:
        spec, batch, rate, momentum: of the step.
        precision: float32, bfloat16 or float16, by autocast; float16 with a scaler.
    """
    on = device()
    classifier = model.build(spec).to(on).train()
    optimizer = torch.optim.SGD(classifier.parameters(), rate, momentum)
    dtype = getattr(torch, precision)
    is_short = dtype != torch.float32
    autocast = torch.autocast(on.type, dtype if is_short else torch.bfloat16, enabled=is_short)
    scaler = torch.amp.GradScaler(on.type, enabled=dtype == torch.float16)
    images, targets = torch.from_numpy(batch.images), torch.from_numpy(batch.targets)
    if on.type == "cuda":
        images, targets = images.pin_memory(), targets.pin_memory()

    def step() -> torch.Tensor:
        with autocast:
            logits = classifier(images.to(on, non_blocking=True))
        loss = functional.cross_entropy(logits.float(), targets.to(on, non_blocking=True))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return step


def finish() -> None:
    """Wait for the steps that the GPU still has."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
